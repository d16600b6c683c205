"""Variables that are arguments of a `tf.function`."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt
from keras_legacy_opt import SGD, Adam, fused


@pytest.fixture(params=["native", "plain"], autouse=True)
def path(request):
    plain = request.param == "plain"
    with fused.disabled() if plain else contextlib.nullcontext():
        yield


def plainly(optimizer, variable):
    optimizer.apply_gradients([(tf.ones([1]), variable)])


def sparsely(optimizer, variable):
    gradient = tf.IndexedSlices(tf.ones([1]), tf.constant([0]))
    optimizer.apply_gradients([(gradient, variable)])


def in_cond(optimizer, variable):
    def update():
        plainly(optimizer, variable)
        return 1

    tf.cond(variable[0] > -100, update, lambda: 2)


def in_another_function(optimizer, variable):
    tf.function(lambda: plainly(optimizer, variable))()


def in_another_function_of_it(optimizer, variable):
    tf.function(lambda v: plainly(optimizer, v))(variable)


UPDATES = (
    plainly,
    sparsely,
    in_cond,
    in_another_function,
    in_another_function_of_it,
)


@pytest.mark.parametrize("update", UPDATES)
def test_the_argument_is_updated(update):
    """Where there are no slots, whichever variable it is."""
    optimizer = SGD(0.5)

    @tf.function
    def step(variable):
        before = variable.read_value()
        update(optimizer, variable)
        return before, variable.read_value()

    a, b = tf.Variable([1.0]), tf.Variable([10.0])
    for variable, value in [(a, 1.0), (b, 10.0), (b, 9.5), (a, 0.5)]:
        before, after = step(variable)
        np.testing.assert_array_equal(before, [value])
        np.testing.assert_array_equal(after, [value - 0.5])
    np.testing.assert_array_equal(a, [0.0])
    np.testing.assert_array_equal(b, [9.0])


@pytest.mark.parametrize("update", UPDATES)
def test_no_variable_gets_the_slots_of_another(update):
    optimizer = Adam(0.5)
    step = tf.function(lambda variable: update(optimizer, variable))
    a, b = tf.Variable([1.0]), tf.Variable([10.0])
    step(a)
    weights = optimizer.get_weights()
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="another variable"
    ):
        step(b)
    for before, after in zip(weights, optimizer.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(b, [10.0])
    step(a)
    np.testing.assert_allclose(a, [0.0], atol=1e-5)
    # One function for each variable.
    tf.function(lambda variable: update(optimizer, variable))(b)
    assert b[0] < 10.0


def test_xla_cannot_check():
    optimizer, variable = Adam(0.5), tf.Variable([1.0])
    step = tf.function(
        lambda v: plainly(optimizer, v), jit_compile=True, autograph=False
    )
    with pytest.raises(ValueError, match="XLA"):
        step(variable)
    np.testing.assert_array_equal(variable, [1.0])


def test_a_function_traced_before(request):
    """It has its variable, of which another function takes any."""
    optimizer = keras_legacy_opt.SGD(0.5)
    variable, other = tf.Variable([1.0]), tf.Variable([10.0])
    inner = tf.function(lambda: plainly(optimizer, variable))
    inner()
    outer = tf.function(lambda argument: (inner(), argument.read_value())[1])
    if "native" in request.node.name and fused.is_available():
        with pytest.raises(ValueError, match="traced before"):
            outer(variable)
        np.testing.assert_array_equal(variable, [0.5])
    else:  # As TensorFlow's own `assign` does.
        np.testing.assert_array_equal(outer(variable), [0.0])
        np.testing.assert_array_equal(outer(other), [9.5])
