"""scikeras: an estimator with a legacy optimizer, cloned, pickled, resumed.

It imports Keras 3; the same models are trained by hand in a process of
tf_keras.
"""

import pickle

import numpy as np
import recording
import tensorflow as tf

keras = tf.keras
INPUTS = np.arange(32, dtype="float32").reshape(8, 4) / 32
LABELS = INPUTS.sum(axis=1)
FIT = {"epochs": 3, "batch_size": 4, "shuffle": False, "verbose": 0}


@keras.utils.register_keras_serializable()
def mean_square(labels, outputs):
    labels = tf.reshape(tf.cast(labels, outputs.dtype), [-1, 1])
    return tf.reduce_mean((labels - outputs) ** 2)


def build():
    model = keras.Sequential(
        [keras.layers.InputLayer((4,)), keras.layers.Dense(1)]
    )
    model.set_weights([np.full((4, 1), 0.25), np.zeros(1)])
    return model


def estimated():
    import sklearn.base
    from scikeras.wrappers import KerasRegressor

    for name, arguments in OPTIMIZERS.items():
        cls = getattr(keras.optimizers.legacy, name)
        routed = {f"optimizer__{k}": v for k, v in arguments.items()}
        estimator = KerasRegressor(
            build, optimizer=cls, loss=mean_square, **routed, **FIT
        )
        estimator = sklearn.base.clone(estimator)
        estimator.fit(INPUTS, LABELS)
        first = estimator.model_.get_weights()
        copy = pickle.loads(pickle.dumps(estimator))
        copy.partial_fit(INPUTS, LABELS)
        yield name, first, copy.model_.get_weights()


def by_hand():
    for name, arguments in OPTIMIZERS.items():
        model = build()
        cls = getattr(keras.optimizers.legacy, name)
        model.compile(cls(**arguments), mean_square)
        model.fit(INPUTS, LABELS, **FIT)
        first = model.get_weights()
        model.fit(INPUTS, LABELS, **{**FIT, "epochs": 1})
        yield name, first, model.get_weights()


OPTIMIZERS = {
    "SGD": {"learning_rate": 0.25, "momentum": 0.5},
    "Adam": {"learning_rate": 0.125, "decay": 0.01},
    "Adagrad": {"learning_rate": 0.125},
}
for name, first, resumed in estimated() if recording.IS_KERAS_3 else by_hand():
    recording.record(f"{name}/first", first)
    recording.record(f"{name}/resumed", resumed)
recording.write()
