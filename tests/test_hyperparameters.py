"""Hyperparameters: every kind of value, read and overwritten at any time."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from keras_legacy_opt import SGD, Adam, Nadam, fused, schedules


def _step_of(optimizer, gradient=1.0):
    """How far a step moves a variable that starts at 0."""
    variable = tf.Variable(0.0)
    optimizer.apply_gradients([(tf.constant(gradient), variable)])
    return -float(variable)


KINDS = {
    "number": lambda: 0.25,
    "numpy": lambda: np.float32(0.25),
    "tensor": lambda: tf.constant(0.25),
    "variable": lambda: tf.Variable(0.25),
    "keras variable": lambda: keras.Variable(0.25),
    "callable": lambda: lambda: 0.25,
    "schedule": lambda: schedules.PiecewiseConstantDecay([5], [0.25, 0.1]),
    "schedule of Keras 3": lambda: (
        keras.optimizers.schedules.PiecewiseConstantDecay([5], [0.25, 0.1])
    ),
    "schedule of tf_keras": lambda: (
        tf_keras.optimizers.schedules.PiecewiseConstantDecay([5], [0.25, 0.1])
    ),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", ["number", "callable", "schedule"])
def test_overwriting_by_any_kind(first, kind, after):
    """Before and after the first step, and by either name."""
    optimizer = SGD(KINDS[first]())
    if after:
        assert _step_of(optimizer) == 0.25
    optimizer.lr = 2 * 0.25
    assert _step_of(optimizer) == 0.5
    optimizer.learning_rate = KINDS[kind]()
    assert _step_of(optimizer) == 0.25
    assert float(optimizer.learning_rate) == 0.25


def test_schedule_is_read_as_schedule_and_as_number():
    schedule = schedules.InverseTimeDecay(0.5, 1, 1.0)
    optimizer = SGD(schedule)
    assert optimizer.lr is schedule
    read = optimizer.learning_rate
    assert read == schedule
    assert hash(read) == hash(schedule)
    assert isinstance(read, schedules.InverseTimeDecay)
    assert read.get_config() == schedule.get_config()
    assert float(read) == 0.5
    assert _step_of(optimizer) == 0.5
    assert float(read) == float(read(1)) == 0.25
    np.testing.assert_array_equal(np.array(read), np.float32(0.25))
    assert _step_of(SGD(read)) == 0.5


def test_dtypes_come_from_the_python_values():
    optimizer = Adam(learning_rate=1, beta_1=0.5, beta_2=np.float64(0.5))
    optimizer._set_hyper("flag", True)
    optimizer.build([tf.Variable(1.0)])
    dtypes = [
        optimizer._hyper[name].dtype
        for name in ("learning_rate", "beta_1", "beta_2", "flag")
    ]
    assert dtypes == [tf.int32, tf.float32, tf.float64, tf.bool]


def test_variable_of_the_user_is_used_and_assigned():
    rate = tf.Variable(0.5)
    optimizer = SGD(rate)
    assert _step_of(optimizer) == 0.5
    rate.assign(0.25)
    assert _step_of(optimizer) == 0.25
    optimizer.learning_rate = 0.125
    assert float(rate) == 0.125


def test_hyperparameters_of_a_subclass():
    class Own(keras_legacy_opt.SGD):
        def __init__(self):
            super().__init__()
            # Keras 3 has an attribute of this name.
            self._set_hyper("weight_decay", 0.5)
            self.plain = 1

    optimizer = Own()
    assert float(optimizer.weight_decay) == 0.5
    optimizer.weight_decay = 0.25
    assert float(optimizer._get_hyper("weight_decay", tf.float64)) == 0.25
    assert {"weight_decay", "learning_rate", "lr", "plain"} <= set(
        dir(optimizer)
    )
    assert SGD().weight_decay is None
    assert SGD().use_ema is False


def test_optimizer_without_a_learning_rate():
    class Own(keras_legacy_opt.Optimizer):
        pass

    optimizer = Own("own")
    assert not hasattr(optimizer, "learning_rate")
    assert not hasattr(optimizer, "lr")
    optimizer.learning_rate = 3  # A plain attribute, as in legacy.
    assert optimizer.learning_rate == 3


@pytest.mark.parametrize("traced", [False, True])
def test_decay_is_never_ignored(traced):
    """Not even where it is set after the first step."""
    optimizer, variable = SGD(1.0), tf.Variable(0.0)

    def step():
        variable.assign(0.0)
        optimizer.apply_gradients([(tf.constant(1.0), variable)])

    if traced:
        step = tf.function(step)
    moved = []
    for decay in (0.0, 0.0, 0.5, 0.5, 0.0):
        optimizer.decay = decay
        step()
        moved.append(-float(variable))
    expected = [1.0, 1.0, 1 / (1 + 0.5 * 2), 1 / (1 + 0.5 * 3), 1.0]
    np.testing.assert_allclose(moved, expected, rtol=1e-7)
    assert optimizer.get_config()["decay"] == 0.0


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("traced", [False, True])
def test_restored_decay_is_used_and_told(traced, built, tmp_path):
    """All have one: steps, functions, the configuration, subclasses."""
    saved, variable = SGD(1.0, decay=3.0), tf.Variable(0.0)
    saved.build([variable])
    path = tf.train.Checkpoint(optimizer=saved).save(str(tmp_path / "c"))
    optimizer = SGD(1.0, decay=1.0)

    def step():
        variable.assign(0.0)
        optimizer.apply_gradients([(tf.constant(1.0), variable)])

    if traced:
        step = tf.function(step)
    if built:
        step()
    tf.train.Checkpoint(optimizer=optimizer).restore(path)
    moved = []
    for _ in range(3):
        step()
        moved.append(-float(variable))
    np.testing.assert_allclose(moved, [1, 1 / (1 + 3), 1 / (1 + 6)], rtol=1e-7)
    assert optimizer.get_config()["decay"] == 3.0
    assert optimizer._initial_decay == 3.0
    assert float(optimizer.decay) == 3.0


def test_decay_in_float16_survives_many_steps():
    """Beyond 65504 steps the step is infinite in float16."""
    optimizer = SGD(1.0)
    variable = tf.Variable([0.0], dtype=tf.float16)
    optimizer.build([variable])
    optimizer.iterations.assign(100_000)

    @tf.function
    def step():
        optimizer.apply_gradients([(tf.ones([1], tf.float16), variable)])

    step()
    assert float(variable[0]) == -1.0


def test_nadam_decay_is_that_of_its_momentum():
    assert Nadam(decay=0.9).get_config()["decay"] == 0.004
    optimizer = Nadam(schedule_decay=0.9)
    assert optimizer.get_config()["decay"] == 0.9
    # Unlike in legacy, which went back to 0.004.
    again = Nadam.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("option", ["clipvalue", "clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("traced", [False, True])
def test_clip_values_change_without_a_new_trace(option, traced):
    optimizer, variable = SGD(1.0, **{option: 0.5}), tf.Variable([0.0])
    traces = []

    def step():
        traces.append(1)
        variable.assign([0.0])
        optimizer.apply_gradients([(tf.constant([4.0]), variable)])

    optimizer.build([variable])
    if traced:
        step = tf.function(step)
    for limit in (0.5, 2.0, 8.0, 0.25, tf.constant(0.5), tf.Variable(0.25)):
        setattr(optimizer, option, limit)
        assert getattr(optimizer, option) == limit
        step()
        assert float(variable[0]) == -min(4.0, limit)
    assert len(traces) == (1 if traced else 6)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("option", ["clipvalue", "clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("traced", [False, True])
def test_a_clip_value_may_be_a_variable(option, traced, native):
    limit = tf.Variable(0.5)
    optimizer, variable = SGD(1.0, **{option: limit}), tf.Variable([0.0])

    def step():
        variable.assign([0.0])
        optimizer.apply_gradients([(tf.constant([4.0]), variable)])

    if traced:
        step = tf.function(step)
    with contextlib.nullcontext() if native else fused.disabled():
        for number in (0.5, 2.0, 8.0, 0.25):
            limit.assign(number)
            step()
            assert float(variable[0]) == -min(4.0, number)


def test_config_has_plain_values():
    """JSON-compatible, before and after variables exist."""
    optimizer = Adam(0.1, clipnorm=1.0, decay=0.25)
    before = optimizer.get_config()
    assert before == {
        "name": "Adam",
        "clipnorm": 1.0,
        "learning_rate": 0.1,
        "decay": 0.25,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-7,
        "amsgrad": False,
    }
    _step_of(optimizer)
    after = optimizer.get_config()
    assert after["learning_rate"] == np.float32(0.1)
    assert {type(v) for v in after.values()} == {str, float, bool}
