"""Models of many shapes, written by tf_keras, read into Keras 3, and back."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_legacy_opt as klo
from keras_legacy_opt import checkpoints


def sequential(lib):
    return lib.Sequential(
        [
            lib.layers.Input((4,)),
            lib.layers.Dense(3, activation="tanh"),
            lib.layers.Dropout(0.0),
            lib.layers.BatchNormalization(),
            lib.layers.Dense(2),
        ]
    )


def functional(lib):
    tokens = lib.layers.Input((4,), dtype="int32")
    h = lib.layers.Embedding(7, 3)(tokens)
    forward = lib.layers.LSTM(3)(h)
    both = lib.layers.Bidirectional(lib.layers.GRU(2))(h)
    h = lib.layers.Concatenate()([forward, both])
    return lib.Model(tokens, lib.layers.Dense(2)(h))


def nested(lib):
    inner_in = lib.layers.Input((4,))
    inner = lib.Model(
        inner_in, lib.layers.Dense(3, activation="tanh")(inner_in)
    )
    outer_in = lib.layers.Input((4,))
    h = lib.layers.LayerNormalization()(inner(outer_in))
    h = lib.Sequential([lib.layers.Dense(3), lib.layers.Dense(2)])(h)
    return lib.Model(outer_in, h)


def convolutional(lib):
    image = lib.layers.Input((4,))
    h = lib.layers.Reshape((4, 1))(image)
    h = lib.layers.Conv1D(3, 2, padding="same")(h)
    h = lib.layers.SeparableConv1D(2, 2)(h)
    h = lib.layers.TimeDistributed(lib.layers.Dense(2))(h)
    h = lib.layers.MultiHeadAttention(2, 3)(h, h)
    h = lib.layers.Flatten()(h)
    return lib.Model(image, lib.layers.Dense(2)(h))


def subclassed(lib):
    class Block(lib.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = lib.layers.Dense(3, use_bias=False)

        def build(self, input_shape):
            self.inner.build(input_shape)
            # Attribute and name differ: keys have the latter.
            self.scale = self.add_weight(
                name="some_scale", shape=(3,), initializer="ones"
            )
            super().build(input_shape)

        def call(self, x):
            return self.inner(x) * self.scale

    class Net(lib.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [Block(), Block()]
            self.by_name = {"head": lib.layers.Dense(2)}

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return self.by_name["head"](x)

    net = Net()
    net(tf.zeros((1, 4)))
    return net


MODELS = (sequential, functional, nested, convolutional, subclassed)


def batch(model, seed):
    rng = np.random.default_rng(seed)
    if model is functional:
        x = rng.integers(0, 7, (5, 4)).astype(np.int32)
    else:
        x = rng.normal(size=(5, 4)).astype(np.float32)
    return x, rng.normal(size=(5, 2)).astype(np.float32)


def train(model, make, steps):
    for seed in steps:
        model.train_on_batch(*batch(make, seed))


@pytest.mark.parametrize("as_weights", [False, True])
@pytest.mark.parametrize("make", MODELS)
def test_there_and_back(make, as_weights, tmp_path):
    # As Keras 2 writes it.
    old = make(tf_keras)
    old.compile(tf_keras.optimizers.legacy.Adam(0.05), "mse", run_eagerly=True)
    train(old, make, range(2))
    path = str(tmp_path / "old")
    if as_weights:
        old.save_weights(path, save_format="tf")
    else:
        path = tf.train.Checkpoint(model=old, optimizer=old.optimizer).save(
            path
        )
    # Into Keras 3.
    new = make(keras)
    new.compile(klo.Adam(0.05), "mse", run_eagerly=True)
    report = checkpoints.restore(path, new)
    assert not report.problems
    x, _ = batch(make, 9)
    np.testing.assert_allclose(new(x), old(x), atol=1e-5)
    # And back, with the same names.
    train(new, make, range(2, 4))
    back = checkpoints.save(tmp_path / "new", new, as_weights=as_weights)
    ignored = ("_CHECKPOINTABLE", "save_counter")
    keys = [
        {
            (name, tuple(shape))
            for name, shape in tf.train.list_variables(prefix)
            if not name.startswith(ignored)
        }
        for prefix in (path, back)
    ]
    assert keys[0] == keys[1]
    train(old, make, range(2, 4))
    expected = old(x)
    old.set_weights([np.zeros_like(w) for w in old.get_weights()])
    if as_weights:
        old.load_weights(back).assert_existing_objects_matched()
    else:
        tf.train.Checkpoint(model=old, optimizer=old.optimizer).read(
            back
        ).assert_consumed()
    np.testing.assert_allclose(old(x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(old(x), new(x), atol=1e-5)
    assert int(old.optimizer.iterations) == 4


@pytest.mark.parametrize("make", MODELS)
def test_view_serves_a_checkpoint_manager(make, tmp_path):
    models = [make(keras) for _ in range(2)]
    managers = []
    for model in models:
        model.compile(klo.SGD(0.05, momentum=0.9), "mse", run_eagerly=True)
        view = checkpoints.Keras2View(model)
        checkpoint = tf.train.Checkpoint(model=view, optimizer=model.optimizer)
        managers.append(tf.train.CheckpointManager(checkpoint, tmp_path, 1))
    train(models[0], make, range(2))
    managers[0].save()
    models[1].optimizer.build(models[1].trainable_variables)
    managers[1].checkpoint.restore(
        managers[0].latest_checkpoint
    ).assert_consumed()
    for array, expected in zip(
        [*models[1].get_weights(), *models[1].optimizer.get_weights()],
        [*models[0].get_weights(), *models[0].optimizer.get_weights()],
        strict=True,
    ):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("make", [sequential, functional, nested])
def test_whole_model_h5(make, tmp_path):
    old = make(tf_keras)
    old.compile(tf_keras.optimizers.legacy.Ftrl(0.05), "mse", run_eagerly=True)
    train(old, make, range(2))
    with pytest.warns(UserWarning, match="HDF5"):
        old.save(tmp_path / "old.h5")
    new = make(keras)
    new.compile(
        checkpoints.optimizer_of(tmp_path / "old.h5"), "mse", run_eagerly=True
    )
    assert not checkpoints.restore(tmp_path / "old.h5", new).problems
    train(old, make, range(2, 4))
    train(new, make, range(2, 4))
    x, _ = batch(make, 9)
    np.testing.assert_allclose(new(x), old(x), atol=1e-5)
    assert int(new.optimizer.iterations) == 4


@pytest.mark.parametrize("make", [sequential, nested, subclassed])
def test_saved_model_of_tf_keras(make, tmp_path):
    """With our optimizer: the loaded model goes on as if nothing had been."""
    old = make(tf_keras)
    old.compile(klo.Adam(0.05), "mse", run_eagerly=True)
    train(old, make, range(2))
    old.save(tmp_path, save_format="tf")
    into_keras_3 = make(keras)
    into_keras_3.compile(klo.Adam(0.05), "mse", run_eagerly=True)
    assert not checkpoints.restore(tmp_path, into_keras_3).problems
    loaded = tf_keras.models.load_model(tmp_path)
    for model in (loaded, into_keras_3):
        for array, expected in zip(
            model.optimizer.get_weights(),
            old.optimizer.get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(array, expected)
    loaded.compile(loaded.optimizer, "mse", run_eagerly=True)
    for model in (loaded, old):
        train(model, make, range(2, 4))
    for array, expected in zip(
        loaded.get_weights(), old.get_weights(), strict=True
    ):
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-7)


def test_saved_model_with_only_a_part_of_the_state(tmp_path):
    old = sequential(tf_keras)
    old.layers[0].trainable = False
    old.compile(klo.Adam(0.05), "mse", run_eagerly=True)
    train(old, sequential, range(2))
    old.layers[0].trainable = True  # And so it has no slots yet.
    old.save(tmp_path, save_format="tf")
    with pytest.warns(UserWarning, match="(?s)Adam.*dense.*not in the file"):
        loaded = tf_keras.models.load_model(tmp_path)
    assert int(loaded.optimizer.iterations) == 2


def test_saved_model_of_a_wrapped_optimizer(tmp_path):
    old = sequential(tf_keras)
    scaled = tf_keras.mixed_precision.LossScaleOptimizer(
        klo.Adam(0.05), dynamic_growth_steps=2
    )
    old.compile(scaled, "mse", run_eagerly=True)
    train(old, sequential, range(2))
    old.save(tmp_path, save_format="tf")
    loaded = tf_keras.models.load_model(tmp_path)
    assert float(loaded.optimizer.loss_scale) == 2.0**16
    for array, expected in zip(
        loaded.optimizer.inner_optimizer.get_weights(),
        old.optimizer.inner_optimizer.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(array, expected)
