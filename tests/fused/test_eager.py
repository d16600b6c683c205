"""The short way of an eager step: what it remembers, and what it may not."""

import gc
import weakref

import numpy as np
import pytest
import stepping
import tensorflow as tf
from registry import BUILT_IN, SUBJECT, own_cases

import keras_legacy_opt
from keras_legacy_opt import fused
from keras_legacy_opt.fused import eager

pytestmark = pytest.mark.usefixtures("native_ops")


def test_eager_steps_are_remembered(calls):
    variables = [tf.Variable([1.0]), tf.Variable([[2.0]]), tf.Variable(3.0)]
    opt = keras_legacy_opt.SGD(0.5)
    for _ in range(3):
        opt.apply_gradients([(tf.ones_like(v), v) for v in variables])
    opt.learning_rate = 1.0
    opt.apply_gradients([(tf.ones_like(v), v) for v in variables])
    # Other variables, other gradients, and mistakes.
    opt.apply_gradients([(tf.ones_like(v), v) for v in variables[:2]])
    opt.apply_gradients([(None, variables[0]), (tf.ones([]), variables[2])])
    with pytest.raises(tf.errors.InvalidArgumentError):
        opt.apply_gradients([(tf.ones([2]), variables[0])])
    values = [float(tf.squeeze(v)) for v in variables]
    assert values == [1 - 3.5, 2 - 3.5, 3 - 3.5]
    assert opt.iterations == 6
    assert len(calls) == 6


def test_remembered_variables_are_not_kept_alive(monkeypatch):
    monkeypatch.setattr(eager, "TRACE_AFTER", 1)
    opt = keras_legacy_opt.SGD(0.5)
    var, other = tf.Variable(tf.ones([3])), tf.Variable(tf.ones([3]))
    for _ in range(5):
        opt.apply_gradients([(tf.ones([3]), var), (tf.ones([3]), other)])
    handle = weakref.ref(var.handle)
    del var
    gc.collect()
    assert handle() is None
    fresh = tf.Variable(tf.ones([3]))
    opt.apply_gradients([(tf.ones([3]), fresh)])
    np.testing.assert_array_equal(fresh, [0.5] * 3)


def test_lists_of_variables_may_take_turns(monkeypatch):
    """As those of two networks that one optimizer trains."""
    lists = [[tf.Variable([1.0])], [tf.Variable([1.0, 1.0])]]
    opt = keras_legacy_opt.SGD(0.25)
    made = []
    group_of = fused.groups.group_of

    def counted(*args):
        made.append(args)
        return group_of(*args)

    monkeypatch.setattr(fused.groups, "group_of", counted)
    for _ in range(4):
        for variables in lists:
            opt.apply_gradients([(tf.ones_like(v), v) for v in variables])
    assert len(made) == 2
    for (variable,) in lists:
        np.testing.assert_array_equal(variable, tf.zeros_like(variable))


# The coefficients, which are traced after some steps.


@pytest.fixture
def traces(monkeypatch):
    """The optimizers whose coefficients were traced, as often as they were."""
    seen = []
    original = eager._counted_coefficients

    def spy(optimizer, *args):
        if tf.inside_function():
            seen.append(optimizer)
        return original(optimizer, *args)

    monkeypatch.setattr(eager, "_counted_coefficients", spy)
    return seen


def overwrite_settings(optimizer, step):
    if step == 4:
        optimizer.learning_rate = 0.03
    if step == 5 and hasattr(optimizer, "epsilon"):
        optimizer.epsilon = 1e-3
    if step == 6:
        optimizer.decay = 0.1
    if step == 8 and not isinstance(optimizer, keras_legacy_opt.Nadam):
        optimizer.learning_rate = keras_legacy_opt.schedules.ExponentialDecay(
            0.05, decay_steps=2, decay_rate=0.5
        )


@pytest.mark.parametrize("case", own_cases(BUILT_IN), ids=str)
def test_traced_coefficients_are_those_of_the_ops(case, traces, monkeypatch):
    initial, gradients = stepping.problem(str(case), "float32", "dense")
    records = []
    for trace_after in (1, 1000):
        monkeypatch.setattr(eager, "TRACE_AFTER", trace_after)
        optimizer = case.build(SUBJECT)
        variables = stepping.make_variables(initial)
        for step, grads in enumerate(gradients):
            overwrite_settings(optimizer, step)
            optimizer.apply_gradients(
                [(tf.constant(grads[k]), variables[k]) for k in variables]
            )
            records.append(stepping.record(variables, optimizer))
        traced = trace_after == 1 and "callable" not in str(case)
        assert any(o is optimizer for o in traces) == traced
    half = len(records) // 2
    for ours, expected in zip(records[:half], records[half:], strict=True):
        for a, b in zip(ours.values(), expected.values(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_a_trace_would_not_notice(traces, monkeypatch):
    """A new value of a variable needs no trace, all else a new one, or none."""
    monkeypatch.setattr(eager, "TRACE_AFTER", 1)
    var, opt = tf.Variable([0.0]), keras_legacy_opt.SGD(1.0)

    def rate():
        before = var.numpy()
        opt.apply_gradients([(tf.ones([1]), var)])
        return (before - var.numpy()).item()

    assert [rate() for _ in range(5)] == [1.0] * 5
    opt.learning_rate = 2.0
    assert rate() == 2.0
    opt.learning_rate.assign(4.0)
    assert rate() == 4.0
    assert len(traces) == 1
    rates = iter([0.5, 0.25, 0.125, 8.0])
    opt.learning_rate = lambda: next(rates)
    assert [rate() for _ in range(4)] == [0.5, 0.25, 0.125, 8.0]
    opt._decayed_lr = lambda dtype: tf.constant(3.0, dtype)
    opt.learning_rate = tf.Variable(1.0)
    assert [rate() for _ in range(4)] == [3.0] * 4
    assert len(traces) == 1
    del opt._decayed_lr
    assert [rate() for _ in range(4)] == [1.0] * 4


def test_a_subclass_makes_its_own_coefficients(traces, monkeypatch):
    monkeypatch.setattr(eager, "TRACE_AFTER", 1)

    class Counting(keras_legacy_opt.SGD):
        calls = 0

        def _decayed_lr(self, var_dtype):
            self.calls += 1
            return super()._decayed_lr(var_dtype) * self.calls

    var, opt = tf.Variable([0.0]), Counting(1.0)
    for _ in range(4):
        opt.apply_gradients([(tf.ones([1]), var)])
    np.testing.assert_array_equal(var, [-1.0 - 2.0 - 3.0 - 4.0])
    assert not traces
