"""keras-tuner: a search for the rate of a legacy optimizer.

It takes Keras 3 wherever that is installed; the models that it is to find are
trained by hand in a process of tf_keras.
"""

import tempfile

import numpy as np
import recording
import tensorflow as tf

keras = tf.keras
INPUTS = np.arange(32, dtype="float32").reshape(8, 4) / 32
LABELS = INPUTS.sum(axis=1, keepdims=True)
RATES = [0.125, 0.5]


def mean_square(labels, outputs):
    return tf.reduce_mean((labels - outputs) ** 2)


def build(rate):
    model = keras.Sequential(
        [keras.layers.InputLayer((4,)), keras.layers.Dense(1)]
    )
    model.set_weights([np.full((4, 1), 0.25), np.zeros(1)])
    optimizer = keras.optimizers.legacy.Adam(rate, decay=0.01)
    model.compile(optimizer, mean_square)
    return model


def fit(model, **options):
    options = {"epochs": 3, "batch_size": 4, **options}
    return model.fit(INPUTS, LABELS, shuffle=False, verbose=0, **options)


def search():
    import keras_tuner

    class Tuned(keras_tuner.HyperModel):
        def build(self, hp):
            return build(hp.Choice("rate", RATES))

        def fit(self, hp, model, *args, **options):
            history = fit(model)
            trained[hp.get("rate")] = model.get_weights()
            return history

    trained = {}
    tuner = keras_tuner.GridSearch(
        Tuned(),
        objective=keras_tuner.Objective("loss", "min"),
        directory=tempfile.mkdtemp(),
    )
    tuner.search(verbose=0)
    assert len(tuner.get_best_hyperparameters()) == 1
    # The tuner replaces the optimizer by a copy of its configuration.
    hypermodel = keras_tuner.RandomSearch(
        lambda hp: build(hp.Choice("rate", RATES)),
        optimizer=keras.optimizers.legacy.SGD(0.25, momentum=0.5),
        loss=mean_square,
        objective=keras_tuner.Objective("loss", "min"),
        max_trials=1,
        directory=tempfile.mkdtemp(),
    )
    hypermodel.search(
        INPUTS, LABELS, epochs=1, batch_size=4, shuffle=False, verbose=0
    )
    [best] = hypermodel.get_best_models()
    return trained, best.get_weights()


def by_hand():
    trained = {}
    for rate in RATES:
        model = build(rate)
        fit(model)
        trained[rate] = model.get_weights()
    model = build(0.5)
    model.compile(keras.optimizers.legacy.SGD(0.25, momentum=0.5), mean_square)
    fit(model, epochs=1)
    return trained, model.get_weights()


trained, replaced = search() if recording.IS_KERAS_3 else by_hand()
for rate in RATES:
    recording.record(f"rate {rate}", trained[rate])
recording.record("replaced", replaced)
recording.write()
