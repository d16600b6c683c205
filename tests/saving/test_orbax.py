"""Keras 3's state trees, and the Orbax callback, which saves and loads them."""

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt as klo

X = np.linspace(-1, 1, 12, dtype="f").reshape(4, 3)
Y = np.linspace(0, 1, 8, dtype="f").reshape(4, 2)
OPTIMIZERS = {
    "amsgrad": lambda: klo.Adam(0.1, amsgrad=True),
    "ftrl": lambda: klo.Ftrl(0.1),
    "nadam": lambda: klo.Nadam(0.1),
}


def make_model(name):
    """As in a new process: layers are called as they were."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(2)
    x = keras.Input((3,))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(3)(x)))
    model.compile(OPTIMIZERS[name](), "mse")
    return model


def fit(model, epochs, **kwargs):
    model.fit(X, Y, epochs=epochs, shuffle=False, verbose=0, **kwargs)


def assert_goes_on(model, other):
    """The other, restored, like the one that was not interrupted."""
    assert int(other.optimizer.iterations) == 2
    fit(model, 2)
    fit(other, 2)
    for a, b in zip(
        [*model.get_weights(), *model.optimizer.get_weights()],
        [*other.get_weights(), *other.optimizer.get_weights()],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_tree(name):
    model = make_model(name)
    _ = model.optimizer.iterations  # Created early, as callbacks do it.
    fit(model, 2)
    tree = keras.tree.map_structure(
        lambda array: array.item() if array.ndim == 0 else array,
        model.get_state_tree("numpy_array"),
    )
    other = make_model(name)
    other.optimizer.build(other.trainable_variables)
    other.set_state_tree(tree)
    assert_goes_on(model, other)


def test_iterations_that_were_given_have_a_path():
    optimizer = klo.Adam()
    optimizer.iterations = tf.Variable(3, dtype=tf.int64)
    assert [v.path for v in optimizer.variables] == ["Adam/iter"]


@pytest.mark.skipif(
    importlib.util.find_spec("orbax") is None,
    reason="orbax-checkpoint, which brings JAX, is not installed",
)
@pytest.mark.filterwarnings("default")  # Other people's.
@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_orbax(name, in_background, tmp_path):
    callback = keras.callbacks.OrbaxCheckpoint(
        str(tmp_path / "orbax"), save_on_background=in_background
    )
    model = make_model(name)
    fit(model, 2, callbacks=[callback])
    state = model.get_state_tree("numpy_array")
    loaded = keras.models.load_model(str(tmp_path / "orbax"))
    assert_goes_on(model, loaded)
    model.set_state_tree(state)
    other = make_model(name)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(str(tmp_path / "orbax"))
    assert_goes_on(model, other)
