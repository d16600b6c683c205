"""What one variable has of its own in a step, whatever updates it."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt
from keras_legacy_opt import fused
from keras_legacy_opt.step.own import Own

DECAY, FACTOR = 0.25, 0.5


def halved(variable, apply_state):
    return Own(lr_factor=FACTOR, decay=DECAY)


def make(cls=keras_legacy_opt.SGD, own=halved, **arguments):
    optimizer = cls(**{"learning_rate": 0.5, **arguments})
    optimizer._own_of = own
    return optimizer


class Overridden(keras_legacy_opt.SGD):
    def _resource_apply_dense(self, grad, var, apply_state=None):
        return super()._resource_apply_dense(grad, var, apply_state)

    def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        return super()._resource_apply_sparse(grad, var, indices, apply_state)


class WithoutState(keras_legacy_opt.Adam):
    def _resource_apply_dense(self, grad, var):
        return super()._resource_apply_dense(grad, var)


class Whole(keras_legacy_opt.Optimizer):
    """Declares nothing."""

    def __init__(self, learning_rate, name="whole"):
        super().__init__(name)

    def _resource_apply_dense(self, grad, var, apply_state=None):
        return var.assign_sub(grad)


def traced(step):
    return tf.function(step)


def compiled(step):
    return tf.function(step, jit_compile=True)


CONTEXTS = {"native": contextlib.nullcontext, "plain": fused.disabled}
every_context = pytest.mark.parametrize("context", CONTEXTS)
every_wrap = pytest.mark.parametrize(
    "wrap", [lambda f: f, traced, compiled], ids=["eager", "traced", "xla"]
)


@every_wrap
@every_context
@pytest.mark.parametrize("cls", [keras_legacy_opt.SGD, Overridden])
def test_dense_and_sparse(cls, context, wrap):
    var, table = tf.Variable([4.0, 8.0]), tf.Variable([[4.0], [8.0], [16.0]])
    opt = make(cls)
    average = tf.Variable(tf.zeros([3, 1]))
    opt._averaging = lambda v: (average, 0.5) if v is table else None

    @wrap
    def step():
        values = tf.constant([[2.0], [4.0]])
        rows = tf.IndexedSlices(values, tf.constant([2, 2]))
        opt.apply_gradients([(tf.constant([2.0, 4.0]), var), (rows, table)])

    with CONTEXTS[context]():
        step()
    # First a quarter goes, then half the learning rate times the gradient; once
    # for a row, which has two.
    np.testing.assert_array_equal(var, [3 - 0.5, 6 - 1])
    np.testing.assert_array_equal(table, [[4.0], [8.0], [12 - 1.5]])
    np.testing.assert_array_equal(average, table * 0.5)
    with CONTEXTS[context]():
        step()
    np.testing.assert_array_equal(var, [2.5 * 0.75 - 0.5, 5 * 0.75 - 1])


@every_context
def test_average_is_of_the_constrained_value(context):
    var = tf.Variable([4.0, 8.0], constraint=lambda x: tf.minimum(x, 4.0))
    table = tf.Variable([[4.0], [8.0]], constraint=lambda x: tf.minimum(x, 4.0))
    averages = {v.ref(): tf.Variable(tf.zeros_like(v)) for v in (var, table)}
    opt = make()
    opt._averaging = lambda v: (averages[v.ref()], 0.5)
    rows = tf.IndexedSlices(tf.constant([[2.0]]), tf.constant([1]))

    @tf.function
    def step():
        opt.apply_gradients([(tf.constant([2.0, 4.0]), var), (rows, table)])

    with CONTEXTS[context]():
        step()
    np.testing.assert_array_equal(var, [2.5, 4.0])
    np.testing.assert_array_equal(averages[var.ref()], [1.25, 2.0])
    np.testing.assert_array_equal(table, [[4.0], [4.0]])
    np.testing.assert_array_equal(averages[table.ref()], [[2.0], [2.0]])


# In XLA, a loss scale cannot change its variables in a branch.
@pytest.mark.parametrize("wrap", [lambda f: f, traced], ids=["eager", "traced"])
@every_context
def test_a_skipped_step_decays_nothing(context, wrap):
    var, average = tf.Variable([4.0]), tf.Variable([0.0])
    inner = make()
    inner._averaging = lambda v: (average, 0.5)
    opt = keras_legacy_opt.LossScaleOptimizer(inner, dynamic=True)

    @wrap
    def step(gradient):
        opt.apply_gradients([(gradient, var)])

    with CONTEXTS[context]():
        opt.get_scaled_loss(tf.ones([])), opt.get_unscaled_gradients([])
        step(tf.constant([np.inf]))
        np.testing.assert_array_equal([*var, *average], [4.0, 0.0])
        step(tf.constant([2.0]))
    np.testing.assert_array_equal([*var, *average], [2.5, 1.25])


@every_context
def test_clipping_is_of_the_gradient_only(context):
    var = tf.Variable([4.0])
    with CONTEXTS[context]():
        make(clipvalue=1.0).apply_gradients([(tf.constant([64.0]), var)])
    np.testing.assert_array_equal(var, [3 - 0.25])


@every_context
def test_each_update_of_a_variable_decays_it(context):
    var = tf.Variable([4.0])
    with CONTEXTS[context]():
        make().apply_gradients([(tf.constant([0.0]), var)] * 2)
    np.testing.assert_array_equal(var, [4 * 0.75 * 0.75])


@every_context
def test_an_update_without_apply_state(context):
    """It computes its coefficients itself, with the factor, and decays once."""
    results = []
    for cls in (keras_legacy_opt.Adam, WithoutState):
        var = tf.Variable([4.0])
        opt = make(cls)
        with CONTEXTS[context]():
            for _ in range(2):
                opt.apply_gradients([(tf.constant([2.0]), var)])
        results.append(var.numpy())
    np.testing.assert_array_equal(*results)


def test_who_calls_the_update_alone_gets_all_of_it():
    """As wrappers do that were written for Keras 2."""
    var, opt = tf.Variable([4.0]), make()
    opt._create_all_weights([var])
    opt._resource_apply_dense(tf.constant([2.0]), var)
    np.testing.assert_array_equal(var, [3 - 0.5])
    opt._resource_apply_sparse_duplicate_indices(
        tf.constant([2.0, 2.0]), var, tf.constant([0, 0])
    )
    np.testing.assert_array_equal(var, [2.5 * 0.75 - 1.0])


def test_tf1_graph():
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        var = tf.compat.v1.get_variable(
            "v", initializer=[[4.0], [8.0]], use_resource=True
        )
        rows = tf.IndexedSlices(tf.constant([[2.0]]), tf.constant([1]))
        opt = make()
        dense = opt.apply_gradients([(tf.ones([2, 1]), var)])
        sparse = opt.apply_gradients([(rows, var)])
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(dense)
        np.testing.assert_array_equal(session.run(var), [[2.75], [5.75]])
        session.run(sparse)
        np.testing.assert_array_equal(session.run(var), [[2.75], [3.8125]])


def test_a_factor_needs_a_formula():
    var = tf.Variable([4.0], name="x")
    opt = make(Whole, lambda v, state: Own(decay=DECAY))
    opt.apply_gradients([(tf.constant([1.0]), var)])
    np.testing.assert_array_equal(var, [2.0])
    opt = make(Whole)
    with pytest.raises(ValueError, match="'x' has a learning rate of its own"):
        opt.apply_gradients([(tf.constant([1.0]), var)])
    np.testing.assert_array_equal(var, [2.0])
    assert opt.iterations == 0


def test_a_factor_of_tensors_is_read_in_each_step():
    factor, var = tf.Variable(0.0), tf.Variable([4.0])
    opt = make(own=lambda v, state: Own(lr_factor=factor.read_value()))

    @tf.function
    def step():
        opt.apply_gradients([(tf.constant([2.0]), var)])

    step()
    np.testing.assert_array_equal(var, [4.0])
    factor.assign(1.0)
    step()
    np.testing.assert_array_equal(var, [3.0])
