"""What the wrappers compute: next to the optimizer inside, trained alone."""

import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt
from keras_legacy_opt import SGD, Adam, LossScaleOptimizer, addons, fused

from .conftest import INNER, Halves

STEPS = 9
every_inner = pytest.mark.parametrize("inner", INNER)


def gradients(rng):
    """Of a matrix, and sparse ones of a table."""
    return (
        tf.constant(rng.normal(size=(4, 3)).astype("float32")),
        tf.IndexedSlices(
            tf.constant(rng.normal(size=(3, 2)).astype("float32")),
            tf.constant(rng.integers(0, 6, 3)),
            tf.constant([6, 2]),
        ),
    )


def start():
    rng = np.random.default_rng(3)
    return [
        tf.Variable(rng.normal(size=shape).astype("float32"))
        for shape in ((4, 3), (6, 2))
    ]


def trajectory(optimizer, traced, steps=STEPS, afterwards=None):
    """The variables before and after each step; what came of them."""
    variables, rng = start(), np.random.default_rng(4)

    def step(*grads):
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    step = traced(step)
    values = [[v.numpy() for v in variables]]
    for t in range(steps):
        step(*gradients(rng))
        if afterwards is not None:
            afterwards(t, variables)
        values.append([v.numpy() for v in variables])
    return values, variables


def slots(optimizer, variables, name):
    return [optimizer.get_slot(v, name).numpy() for v in variables]


def assert_close(ours, expected, ulps):
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_array_max_ulp(a, b, ulps)


@every_inner
@pytest.mark.parametrize(
    ("options", "decays"),
    [
        ({"average_decay": 0.8}, [0.8] * STEPS),
        (
            {"average_decay": 0.3, "dynamic_decay": True, "start_step": 2},
            [0.0, 0.0, 0.1, 2 / 11, 3 / 12, 0.3, 0.3, 0.3, 0.3],
        ),
        ({"num_updates": 5}, [0.4] * STEPS),
    ],
    ids=["constant", "dynamic", "num_updates"],
)
def test_moving_average(inner, options, decays, traced):
    alone, _ = trajectory(INNER[inner](), traced)
    optimizer = addons.MovingAverage(INNER[inner](), **options)
    ours, variables = trajectory(optimizer, traced)
    for a, b in zip(ours, alone, strict=True):
        assert_close(a, b, 0)
    averages = alone[0]
    for values, decay in zip(alone[1:], decays, strict=True):
        weight = 1 - np.float32(decay)
        averages = [
            average - (average - value) * weight
            for average, value in zip(averages, values, strict=True)
        ]
    for a, b in zip(
        slots(optimizer, variables, "average"), averages, strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@every_inner
def test_moving_average_with_and_without_native_ops(inner, traced):
    optimizers = [addons.MovingAverage(INNER[inner](), 0.8) for _ in range(2)]
    _, variables = trajectory(optimizers[0], traced)
    with fused.disabled():
        _, plain = trajectory(optimizers[1], traced)
    for a, b in zip(
        slots(optimizers[0], variables, "average"),
        slots(optimizers[1], plain, "average"),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_average_of_a_variable_that_joins_late(traced):
    """Snapshots before it was trained are of what it was, not of zeros."""
    optimizer = addons.SWA(SGD(1.0), 0, 1)
    first, late = tf.Variable([4.0]), tf.Variable([4.0])

    def step_of(variables):
        @traced
        def step():
            optimizer.apply_gradients([(tf.ones([1]), v) for v in variables])

        return step

    step_of([first])()
    step_of([first])()
    both = step_of([first, late])
    both()
    both()
    optimizer.assign_average_vars([first, late])
    assert float(first[0]) == (3 + 2 + 1 + 0) / 4
    assert float(late[0]) == (4 + 4 + 3 + 2) / 4


@every_inner
def test_swa(inner, traced):
    alone, _ = trajectory(INNER[inner](), traced)
    optimizer = addons.SWA(INNER[inner](), 2, 3)
    ours, variables = trajectory(optimizer, traced)
    for a, b in zip(ours, alone, strict=True):
        assert_close(a, b, 0)
    chosen = [alone[t + 1] for t in (2, 5, 8)]
    means = [np.mean(values, axis=0) for values in zip(*chosen, strict=True)]
    for a, b in zip(slots(optimizer, variables, "average"), means, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@every_inner
def test_lookahead(inner, traced):
    slow = [v.numpy() for v in start()]

    def go_back(t, variables):
        if t % 3 == 2:
            for i, variable in enumerate(variables):
                slow[i] += np.float32(0.4) * (variable.numpy() - slow[i])
                variable.assign(slow[i])

    alone, _ = trajectory(INNER[inner](), traced, afterwards=go_back)
    optimizer = addons.Lookahead(INNER[inner](), 3, 0.4)
    ours, variables = trajectory(optimizer, traced)
    for a, b in zip(ours, alone, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)
    for a, b in zip(slots(optimizer, variables, "slow"), slow, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_nested(traced):
    """All count together: bias correction and period go by the same steps."""
    nested = addons.MovingAverage(addons.Lookahead(Adam(0.1), 3, 0.4), 0.8)
    ours, variables = trajectory(nested, traced)
    alone, _ = trajectory(addons.Lookahead(Adam(0.1), 3, 0.4), traced)
    for a, b in zip(ours, alone, strict=True):
        assert_close(a, b, 0)
    averages = alone[0]
    for values in alone[1:]:
        averages = [
            a - (a - v) * (1 - np.float32(0.8))
            for a, v in zip(averages, values, strict=True)
        ]
    for a, b in zip(slots(nested, variables, "average"), averages, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    counts = [nested, nested._optimizer, nested._optimizer._optimizer]
    assert len({id(each.iterations) for each in counts}) == 1
    assert int(nested.iterations) == STEPS


def test_clipping_here_and_inside(traced):
    """Both clip, in this order; tensorflow_addons ignores what is inside."""
    optimizer = addons.MovingAverage(SGD(1.0, clipvalue=0.5), clipnorm=1.0)
    var = tf.Variable([0.0, 0.0])

    def step():
        optimizer.apply_gradients([(tf.constant([3.0, 4.0]), var)])

    traced(step)()
    np.testing.assert_allclose(var, [-0.5, -0.5])


def test_optimizers_of_users_and_names(traced):
    optimizer = addons.Lookahead(Halves(), 2, 0.5)
    var = tf.Variable([8.0])

    def step():
        optimizer.apply_gradients([(tf.ones([1]), var)])

    step = traced(step)
    step()
    step()
    assert var.numpy() == [5.0]
    optimizer.learning_rate = 1.0
    step()
    assert var.numpy() == [5.0]
    assert optimizer._optimizer.get_slot(var, "count").numpy() == [3.0]
    assert isinstance(addons.SWA("adam")._optimizer, Adam)


def test_constraint(traced):
    """It holds after a step, and averages are of what obeys it."""

    def not_negative(value):
        return tf.maximum(value, 0.0)

    for wrap in (
        lambda o: addons.Lookahead(o, 1, 0.5),
        lambda o: addons.MovingAverage(o, 0.5),
    ):
        optimizer = wrap(SGD(1.0))
        var = tf.Variable([1.0, 1.0], constraint=not_negative)

        def step(optimizer=optimizer, var=var):
            optimizer.apply_gradients([(tf.constant([3.0, 0.5]), var)])

        traced(step)()
        (slot,) = optimizer.get_slot_names()
        np.testing.assert_array_equal(
            optimizer.get_slot(var, slot), [0.5, 0.75]
        )
        assert min(var.numpy()) >= 0


def compiled(optimizer, var, jit_compile):
    @tf.function(jit_compile=jit_compile)
    def step():
        optimizer.apply_gradients([(tf.constant([0.5, 1.0]), var)])

    return step


def test_in_xla():
    for name, wrap in (
        ("average", lambda o: addons.MovingAverage(o, 0.5)),
        ("average", lambda o: addons.SWA(o, 0, 1)),
        ("slow", lambda o: addons.Lookahead(o, 2)),
    ):
        results = []
        for jit_compile in (True, False):
            optimizer, var = wrap(Adam(0.1)), tf.Variable([1.0, 2.0])
            step = compiled(optimizer, var, jit_compile)
            for _ in range(4):
                step()
            results.append([var.numpy(), optimizer.get_slot(var, name).numpy()])
        np.testing.assert_allclose(*results, rtol=1e-6)


def test_variables_that_come_later(traced):
    optimizer = addons.MovingAverage(SGD(1.0), 0.5)
    first, second = tf.Variable(0.0), tf.Variable(10.0)
    one = tf.constant(1.0)
    traced(lambda: optimizer.apply_gradients([(one, first)]) and None)()
    traced(
        lambda: (
            optimizer.apply_gradients([(one, first), (one, second)]) and None
        )
    )()
    assert float(optimizer.get_slot(first, "average")) == -1.25
    assert float(optimizer.get_slot(second, "average")) == 9.5
    optimizer.assign_average_vars([second])
    assert float(second) == 9.5


def test_hyperparameters_without_a_new_trace():
    optimizer = addons.MovingAverage(addons.Lookahead(SGD(1.0), 100), 0.5)
    var, traces = tf.Variable(0.0), []

    @tf.function
    def step():
        traces.append(1)
        optimizer.apply_gradients([(tf.constant(1.0), var)])

    step()
    before = len(traces)
    optimizer.lr = 2.0
    optimizer.average_decay = 0.0
    optimizer.sync_period = 2
    step()
    assert len(traces) == before
    assert float(var) == -1.5  # Half of the way to -3.
    assert float(optimizer.get_slot(var, "average")) == -1.5
    assert float(optimizer._optimizer._optimizer.learning_rate) == 2.0
    assert {"lr", "momentum", "sync_period"} <= set(dir(optimizer))


def test_minimize_and_schedule():
    schedule = keras_legacy_opt.schedules.PiecewiseConstantDecay(
        [0], [1.0, 0.5]
    )
    optimizer, var = addons.Lookahead(SGD(schedule)), tf.Variable(0.0)
    for _ in range(2):
        optimizer.minimize(lambda: 2 * var, [var])
    assert float(var) == -3.0
    assert float(optimizer.learning_rate) == 0.5


@pytest.mark.parametrize(
    "wrap",
    [
        lambda o: addons.MovingAverage(o, 0.5),
        lambda o: addons.GradientAccumulation(addons.Lookahead(o, 1), 1),
    ],
    ids=["MovingAverage", "nested"],
)
def test_loss_scale_around(wrap, traced):
    """A step that is skipped changes nothing."""
    inner = wrap(SGD(1.0))
    optimizer = LossScaleOptimizer(inner, initial_scale=4.0)
    var = tf.Variable([1.0, 2.0])

    def step(grad):
        optimizer.apply_gradients([(grad, var)])

    step = traced(step)
    optimizer.get_scaled_loss(tf.constant(1.0))
    optimizer.get_unscaled_gradients([])
    step(tf.constant([1.0, 1.0]))
    before = [var.numpy(), *[w.numpy() for w in inner.weights[1:]]]
    step(tf.constant([np.inf, 1.0]))
    after = [var.numpy(), *[w.numpy() for w in inner.weights[1:]]]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(optimizer.loss_scale) == 2.0


def test_swap_is_exact(traced):
    optimizer = addons.MovingAverage(Adam(0.1), 0.7)
    _, variables = trajectory(optimizer, traced)
    values = [v.numpy() for v in variables]
    averages = slots(optimizer, variables, "average")
    optimizer.swap_weights()
    assert_close([v.numpy() for v in variables], averages, 0)
    assert_close(slots(optimizer, variables, "average"), values, 0)
    optimizer.swap_weights()
    assert_close([v.numpy() for v in variables], values, 0)


def test_shadow_copy():
    optimizer, var = addons.MovingAverage("sgd"), tf.Variable([1.0])
    assert not optimizer.has_shadow_copy
    optimizer.shadow_copy([var])
    assert optimizer.has_shadow_copy
    optimizer.swap_weights()
    assert var.numpy() == [0.0]
    with pytest.warns(UserWarning, match="no averages of \\['other'\\]"):
        optimizer.assign_average_vars([var, tf.Variable(1.0, name="other")])
    assert var.numpy() == [1.0]
