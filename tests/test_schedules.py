"""The schedules equal tf_keras' bit for bit, wherever they are called."""

import inspect

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_legacy_opt import schedules

LEGACY = tf_keras.optimizers.schedules

CASES = {
    "exponential": ("ExponentialDecay", (0.1, 7, 0.83)),
    "exponential staircase": ("ExponentialDecay", (0.1, 7, 0.83, True)),
    "piecewise": ("PiecewiseConstantDecay", ([3, 9, 20], [0.3, 0.2, 0.1, 0.0])),
    "piecewise one boundary": ("PiecewiseConstantDecay", ([3], [0.3, 0.2])),
    "piecewise equal boundaries": (
        "PiecewiseConstantDecay",
        ([3, 3], [0.3, 0.2, 0.1]),
    ),
    "piecewise float boundaries": (
        "PiecewiseConstantDecay",
        ([2.5, 9.0], [0.3, 0.2, 0.1]),
    ),
    "polynomial": ("PolynomialDecay", (0.1, 11)),
    "polynomial power": ("PolynomialDecay", (0.1, 11, 0.013, 0.7)),
    "polynomial cycle": ("PolynomialDecay", (0.1, 11, 0.013, 2.0, True)),
    "inverse time": ("InverseTimeDecay", (0.1, 7, 0.31)),
    "inverse time staircase": ("InverseTimeDecay", (0.1, 7, 0.31, True)),
    "cosine": ("CosineDecay", (0.1, 13)),
    "cosine alpha": ("CosineDecay", (0.1, 13, 0.07)),
    "cosine warmup": ("CosineDecay", (0.01, 13, 0.07, "warm", 0.3, 5)),
    "cosine restarts": ("CosineDecayRestarts", (0.1, 5)),
    "cosine restarts all": ("CosineDecayRestarts", (0.1, 5, 1.3, 0.9, 0.02)),
    "cosine restarts equal": ("CosineDecayRestarts", (0.1, 5, 1.0, 0.9, 0.02)),
}
STEPS = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 13, 14, 18, 20, 21, 22, 33, 70, 999]
NAMES = sorted({name for name, _ in CASES.values()})

every_case = pytest.mark.parametrize("case", CASES)


def make(module, case, **overrides):
    name, args = CASES[case]
    cls = getattr(module, name)
    config = inspect.signature(cls).bind(*args).arguments
    return cls(**{**config, **overrides})


def values(schedule, step_dtype=tf.int64):
    return np.array([schedule(tf.constant(s, step_dtype)) for s in STEPS])


@every_case
@pytest.mark.parametrize("step_dtype", [tf.int64, tf.float32, tf.float64])
def test_eager_equals_legacy(case, step_dtype):
    ours = values(make(schedules, case), step_dtype)
    legacy = values(make(LEGACY, case), step_dtype)
    assert ours.dtype == legacy.dtype == np.float32
    np.testing.assert_array_equal(ours, legacy)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if "piecewise" not in c and c != "polynomial cycle"],
)
def test_float64_equals_legacy(case):
    # Legacy's cycle fails in float64.
    def make_double(module):
        rate = tf.constant(0.1, tf.float64)
        return make(module, case, initial_learning_rate=rate)

    ours, legacy = values(make_double(schedules)), values(make_double(LEGACY))
    assert ours.dtype == legacy.dtype == np.float64
    np.testing.assert_array_equal(ours, legacy)


@every_case
def test_function_and_variable_equal_legacy(case):
    step = tf.Variable(0, dtype=tf.int64)
    ours = tf.function(make(schedules, case).__call__)
    legacy = tf.function(make(LEGACY, case).__call__)
    for value in STEPS:
        step.assign(value)
        np.testing.assert_array_equal(ours(step), legacy(step))
    assert ours.experimental_get_tracing_count() == 1


@every_case
def test_xla_equals_eager(case):
    # XLA has its own pow and cos, and multiplies by reciprocals: a fraction of
    # a period may differ by a rounding, which the cosine's pi magnifies.
    schedule = make(schedules, case)
    compiled = tf.function(schedule.__call__, jit_compile=True)
    largest = max(abs(float(schedule(s))) for s in STEPS)
    for value in STEPS:
        step = tf.constant(value, tf.int64)
        np.testing.assert_allclose(
            compiled(step),
            schedule(step),
            rtol=0,
            atol=8 * np.spacing(np.float32(largest)),
        )


@pytest.mark.parametrize("cycle", [False, True])
def test_polynomial_root_ends_in_xla(cycle):
    # 1 - step / decay_steps must not fall below 0 by a rounding.
    schedule = schedules.PolynomialDecay(1.0, 11, 0.5, power=0.5, cycle=cycle)
    compiled = tf.function(schedule.__call__, jit_compile=True)
    last = compiled(tf.constant(11, tf.int64))
    # A rounding of the fraction, 6e-8, has a root of 2.4e-4; half of it counts.
    np.testing.assert_allclose(last, 0.5, rtol=0, atol=1.3e-4)


@every_case
def test_graph_equals_legacy(case):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        step = tf.compat.v1.placeholder(tf.int64, [])
        both = make(schedules, case)(step), make(LEGACY, case)(step)
        for value in STEPS:
            ours, legacy = session.run(both, {step: value})
            np.testing.assert_array_equal(ours, legacy)


@every_case
def test_config(case):
    ours, legacy = make(schedules, case), make(LEGACY, case)
    config = ours.get_config()
    assert config == legacy.get_config()
    copy = type(ours).from_config(config)
    assert copy.get_config() == config
    np.testing.assert_array_equal(values(copy), values(ours))


@pytest.mark.parametrize("name", NAMES)
def test_signature(name):
    ours = inspect.signature(getattr(schedules, name))
    legacy = inspect.signature(getattr(LEGACY, name))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in legacy.parameters.values()
    ]


def test_arguments_may_be_tensors():
    ours, legacy = (
        module.ExponentialDecay(
            tf.Variable(0.1), tf.constant(7), tf.constant(0.83)
        )
        for module in (schedules, LEGACY)
    )
    np.testing.assert_array_equal(values(ours), values(legacy))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.ExponentialDecay(1, 1, 0.5), [1.0, 0.5, 0.25]),
        (schedules.PolynomialDecay(1, 2, 0), [1.0, 0.5, 0.0]),
        (schedules.InverseTimeDecay(3, 1, 1), [3.0, 1.5, 1.0]),
        (schedules.CosineDecay(0, 2, 0, None, 1, 2), [0.0, 0.5, 1.0]),
        (schedules.CosineDecayRestarts(1, 2, m_mul=3), [1.0, 0.5, 3.0]),
        (schedules.PiecewiseConstantDecay([0, 1], [1, 0.5, 0]), [1.0, 0.5, 0]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_integers_are_rates_too(schedule, expected):
    # Legacy failed here.
    rates = [schedule(tf.constant(step, tf.int64)) for step in range(3)]
    assert all(rate.dtype == tf.float32 for rate in rates)
    np.testing.assert_allclose(rates, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("values", [[1.0], [1.0, 0.5], [1.0, 0.5, 0.2, 0.1]])
def test_piecewise_needs_one_value_more(values):
    with pytest.raises(ValueError, match="one element more than `boundaries`"):
        schedules.PiecewiseConstantDecay([1, 2], values)


def test_piecewise_boundaries_increase():
    with pytest.raises(ValueError, match="must increase"):
        schedules.PiecewiseConstantDecay([2, 1], [1.0, 0.5, 0.2])


def test_base_names_what_is_missing():
    class Nothing(schedules.LearningRateSchedule):
        pass

    with pytest.raises(NotImplementedError, match="Nothing.*__call__"):
        Nothing()(0)
    with pytest.raises(NotImplementedError, match="Nothing.*get_config"):
        Nothing().get_config()
