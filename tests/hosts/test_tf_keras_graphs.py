"""tf_keras in TF1 graphs, where its backend keeps a session of its own."""

import contextlib
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import registry
import tensorflow as tf
import tf_keras
from tf_keras.src import backend  # Only tf.compat.v1.keras shows all of it.
from tf_keras.src.models import cloning

import keras_legacy_opt
from hosts.conftest import dense_model, embedding_model, fit

LIBRARIES = (registry.SUBJECT, registry.LEGACY)
LOSS_SCALES = {
    registry.SUBJECT: keras_legacy_opt.LossScaleOptimizer,
    registry.LEGACY: tf_keras.mixed_precision.LossScaleOptimizer,
}
ADAM = registry.Case(registry.BUILT_IN[2], "decay")

pytestmark = [
    pytest.mark.usefixtures("plain_path"),  # Whose bits are legacy's.
    # Of tf_keras, about its own code for graphs and about HDF5.
    pytest.mark.filterwarnings("ignore:`Model.state_updates`:UserWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model:UserWarning"),
]


def in_graphs(run):
    """What `run` returns for ours and for legacy's, each in its graph."""
    results = []
    for library in LIBRARIES:
        with tf.Graph().as_default():
            results.append(run(library))
    return results


def state(model):
    return [*model.get_weights(), *model.optimizer.get_weights()]


def assert_same(actual, expected):
    tf.nest.assert_same_structure(actual, expected)
    for a, e in zip(
        tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True
    ):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize(
    "case",
    [registry.Case(row, "plain") for row in registry.BUILT_IN]
    + [
        registry.Case(registry.BUILT_IN[0], "nesterov"),
        registry.Case(registry.BUILT_IN[1], "centered momentum"),
        registry.Case(registry.BUILT_IN[2], "amsgrad"),
        registry.Case(registry.BUILT_IN[2], "schedule and decay"),
        registry.Case(registry.BUILT_IN[2], "global clipnorm"),
    ],
    ids=str,
)
def test_fit_equals_legacy(case, data):
    """Dense and sparse gradients, names and configurations."""
    x, tokens, y = data

    def run(library):
        results = []
        for model, inputs in (
            (dense_model(tf_keras), x),
            (embedding_model(tf_keras), tokens),
        ):
            history = fit(model, case.build(library), inputs, y)
            config = model.optimizer.get_config()
            config.pop("learning_rate")  # A schedule, maybe.
            results.append(
                (
                    state(model),
                    history.history["loss"],
                    model.evaluate(inputs, y, verbose=0),
                    config,
                )
            )
            backend.reset_uids()
        names = [weight.name for weight in model.optimizer.weights]
        return results, [name.partition("/")[2] for name in names]

    assert_same(*in_graphs(run))


@pytest.mark.parametrize("session", ["default", "set", "of tf_keras"])
def test_values_are_read_and_set(session, data):
    """Before, between and after epochs, in whichever session there is."""
    x, _, y = data

    def run(library):
        with contextlib.ExitStack() as stack:
            if session == "default":
                stack.enter_context(tf.compat.v1.Session())
            elif session == "set":
                backend.set_session(tf.compat.v1.Session())
            model, optimizer = dense_model(tf_keras), ADAM.build(library)
            seen = [
                backend.get_value(optimizer.iterations),
                optimizer.get_config()["beta_1"],
                optimizer.get_weights(),
            ]
            optimizer.lr = 0.05
            fit(model, optimizer, x, y, epochs=1)
            seen.append(optimizer.get_weights())
            backend.set_value(optimizer.lr, 0.25)
            backend.set_value(optimizer.iterations, 7)
            seen.append(optimizer.get_config()["learning_rate"])
            model.train_on_batch(x, y)
            optimizer.set_weights(seen[-2])
            optimizer.learning_rate = 0.5
            seen.append(backend.get_value(optimizer.learning_rate))
            model.train_on_batch(x, y)
            return seen, state(model)

    assert_same(*in_graphs(run))


def test_functions_with_updates(data):
    def run(library):
        model, optimizer = dense_model(tf_keras), ADAM.build(library)
        labels = backend.placeholder((None, 1))
        loss = tf.reduce_mean((model.outputs[0] - labels) ** 2)
        updates = optimizer.get_updates(loss, model.trainable_weights)
        step = backend.function([model.inputs[0], labels], [loss], updates)
        losses = [step([data[0], data[2]]) for _ in range(3)]
        return losses, model.get_weights(), optimizer.get_weights()

    assert_same(*in_graphs(run))


def test_callbacks(data, tmp_path):
    x, _, y = data

    def run(library):
        callbacks, rates = tf_keras.callbacks, []
        model = dense_model(tf_keras)
        fit(
            model,
            ADAM.build(library),
            x,
            y,
            epochs=3,
            callbacks=[
                callbacks.LearningRateScheduler(lambda epoch, rate: 0.9 * rate),
                callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=9.0),
                callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.h5")),
                callbacks.LambdaCallback(
                    on_epoch_end=lambda epoch, logs: rates.append(
                        backend.get_value(model.optimizer.lr)
                    )
                ),
            ],
        )
        return rates, state(model)

    assert_same(*in_graphs(run))


@pytest.mark.parametrize("kind", ["model.h5", "weights"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_files_continue(kind, scaled, data, tmp_path):
    x, _, y = data

    def make(library):
        optimizer = ADAM.build(library)
        return LOSS_SCALES[library](optimizer) if scaled else optimizer

    def run(library):
        path = str(tmp_path / kind)
        model = dense_model(tf_keras)
        fit(model, make(library), x, y)
        if kind == "weights":
            model.save_weights(path, save_format="tf")
        else:
            model.save(path)
        with tf.Graph().as_default():
            if kind == "weights":
                model = dense_model(tf_keras)
                model.compile(make(library), "mse")
                model.load_weights(path)
                seen = []  # Nothing yet: they are restored when created.
            else:
                model = tf_keras.models.load_model(path)
                seen = state(model)
            assert type(model.optimizer) is type(make(library))
            model.train_on_batch(x, y)
            return seen, state(model)

    assert_same(*in_graphs(run))


def test_clone(data):
    x, _, y = data

    def run(library):
        model = dense_model(tf_keras)
        fit(model, ADAM.build(library), x, y)
        clone = cloning.clone_and_build_model(model, compile_clone=True)
        clone.set_weights(model.get_weights())
        clone.train_on_batch(x, y)
        return state(clone)

    assert_same(*in_graphs(run))


@pytest.mark.parametrize("explicit", [False, True], ids=["wrapped", "explicit"])
def test_mixed_precision(explicit, data):
    """tf_keras wraps our optimizers, but not our LossScaleOptimizer."""
    x, _, y = data
    x = np.where(np.arange(48)[:, np.newaxis] == 20, np.inf, x)

    def run(library):
        model, optimizer = dense_model(tf_keras), ADAM.build(library)
        if explicit:
            optimizer = LOSS_SCALES[library](optimizer)
        fit(model, optimizer, x, y)
        assert (model.optimizer is optimizer) == explicit
        scale = backend.get_value(model.optimizer.loss_scale)
        counter = backend.get_value(model.optimizer.dynamic_counter)
        return state(model), scale, counter

    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        assert_same(*in_graphs(run))
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")


_WHOLE_PROCESS = """
import numpy as np
import tensorflow as tf
BEFORE
import keras_legacy_opt
AFTER
# Made before tf_keras is there.
optimizer = keras_legacy_opt.LossScaleOptimizer(keras_legacy_opt.Adam(0.1))
optimizer.iterations
import tf_keras
from tf_keras.src import backend
assert tf.keras.layers.Dense.__module__.startswith(KERAS)
losses = []
for opt in (optimizer, tf_keras.mixed_precision.LossScaleOptimizer(
        tf_keras.optimizers.legacy.Adam(0.1))):
    model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(2,))])
    model.set_weights([np.ones((2, 1)), np.ones(1)])
    model.compile(opt, "mse")
    x = np.ones((4, 2), np.float32)
    model.fit(x, x[:, :1], epochs=3, verbose=0)
    losses.append(model.get_weights())
    assert opt.get_weights()[0] == backend.get_value(opt.iterations) == 3
for ours, legacy in zip(*losses):
    np.testing.assert_array_equal(ours, legacy)
"""


@pytest.mark.parametrize(
    ("before", "after", "legacy_keras"),
    [
        ("tf.compat.v1.disable_v2_behavior()", "", False),
        ("", "tf.compat.v1.disable_v2_behavior()", True),
    ],
    ids=["before import", "after import, TF_USE_LEGACY_KERAS"],
)
@pytest.mark.processes
def test_whole_process_in_graph_mode(before, after, legacy_keras):
    code = _WHOLE_PROCESS.replace("BEFORE", before).replace("AFTER", after)
    code = code.replace(
        "KERAS", repr("tf_keras." if legacy_keras else "keras.")
    )
    root = pathlib.Path(keras_legacy_opt.__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=root,
        env={
            **os.environ,
            "KERAS_LEGACY_OPT_FUSED": "0",
            "TF_USE_LEGACY_KERAS": str(int(legacy_keras)),
        },
    )
