"""Several small batches are one large batch, to the bit where sums are."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt
from keras_legacy_opt import SGD, Adagrad, Adam, addons, fused

from .conftest import LABELS, TOKENS, make_model

# What leaves rows alone that a sparse gradient has not, too.
INNER = {
    "SGD": lambda: SGD(0.5, momentum=0.5),
    "Adam": lambda: Adam(0.1),
    "scheduled": lambda: SGD(
        keras_legacy_opt.schedules.PiecewiseConstantDecay([0, 1], [1.0, 2, 4])
    ),
    "clipvalue": lambda: Adagrad(0.5, clipvalue=0.75),
    "MovingAverage": lambda: addons.MovingAverage(Adagrad(0.5), 0.5),
}
STEPS = 4


def batches(rng):
    """Gradients of a matrix, and of a table: small integers."""
    return [
        (
            rng.integers(-8, 8, (4, 3)).astype("float32"),
            rng.integers(-4, 4, (3, 2)).astype("float32"),
            rng.integers(0, 6, 3),
        )
        for _ in range(STEPS)
    ]


def start():
    return tf.Variable(tf.ones([4, 3])), tf.Variable(tf.ones([6, 2]))


def stepper(optimizer, variables, traced):
    @traced
    def step(dense, values, indices):
        table = tf.IndexedSlices(values, indices, tf.constant([6, 2]))
        optimizer.apply_gradients(zip([dense, table], variables, strict=True))

    return lambda *arrays: step(*map(tf.constant, arrays))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("inner", INNER)
def test_is_one_large_batch(inner, reduction, traced, rng):
    small, large = start(), start()
    accumulating = addons.GradientAccumulation(INNER[inner](), STEPS, reduction)
    optimizer = INNER[inner]()
    step = stepper(accumulating, small, traced)
    step_of_all = stepper(optimizer, large, traced)
    divisor = np.float32(STEPS if reduction == "mean" else 1)
    for _ in range(3):
        parts = batches(rng)
        before = [v.numpy() for v in small]
        for i, part in enumerate(parts):
            for a, b in zip(small, before, strict=True):
                np.testing.assert_array_equal(a, b)
            assert int(accumulating.accumulated) == i
            step(*part)
        dense, values, indices = zip(*parts, strict=True)
        # Norms and limits are of rows as they come: here, too, of their sums.
        rows, places = np.unique(np.concatenate(indices), return_inverse=True)
        sums = np.zeros((len(rows), 2), "float32")
        np.add.at(sums, places, np.concatenate(values))
        step_of_all(sum(dense) / divisor, sums / divisor, rows)
        for a, b in zip(small, large, strict=True):
            np.testing.assert_array_equal(a, b)
    assert int(accumulating.iterations) == int(optimizer.iterations) == 3
    for a, b in zip(
        [w for w in accumulating._optimizer.get_weights() if w.ndim],
        [w for w in optimizer.get_weights() if w.ndim],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_clipping_is_of_what_is_accumulated(traced):
    for options in ({"clipnorm": 1.0}, {"global_clipnorm": 1.0}):
        for here, inside in ((options, {}), ({}, options)):
            optimizer = addons.GradientAccumulation(
                SGD(1.0, **inside), 2, "sum", **here
            )
            var = tf.Variable([0.0, 0.0])
            step = stepper_of(optimizer, var, traced)
            step(tf.constant([3.0, -4.0]))
            step(tf.constant([0.0, 8.0]))
            np.testing.assert_allclose(var, [-0.6, -0.8], rtol=1e-6)


def stepper_of(optimizer, var, traced):
    @traced
    def step(grad):
        optimizer.apply_gradients([(grad, var)])

    return step


def test_variables_without_gradients_in_some_batches(traced):
    """They are left alone only if they had none in all."""
    accumulating = addons.GradientAccumulation(Adam(0.1), 2)
    optimizer = Adam(0.1)
    small, large = (
        [tf.Variable([1.0, 1.0]) for _ in range(4)] for _ in range(2)
    )
    one = tf.constant([1.0, -1.0])

    @traced
    def step(*grads):
        accumulating.apply_gradients(zip(grads, small, strict=True))

    for parts in (
        [(one, one, one, one), (one, one, one, one)],
        [(one, one, None, None), (one, None, None, None)],
        [(one, None, None, None), (one, None, one, None)],
        [(one, one, one, one), (one, one, one, one)],
    ):
        for part in parts:
            step(*part)
        sums = [
            None
            if all(g is None for g in grads)
            else sum(g for g in grads if g is not None) / 2
            for grads in zip(*parts, strict=True)
        ]
        optimizer.apply_gradients(zip(sums, large, strict=True))
        for a, b in zip(small, large, strict=True):
            np.testing.assert_array_equal(a, b)


def test_rows_that_were_restored(tmp_path):
    """Those of a variable that the other batches have no gradient of."""
    results = []
    for is_restored in (True, False):
        optimizer = addons.GradientAccumulation(SGD(1.0, momentum=0.5), 2)
        table, other = tf.Variable(tf.zeros([3, 1])), tf.Variable([0.0])
        rows = tf.IndexedSlices([[2.0]], tf.constant([1]), tf.constant([3, 1]))
        all_rows = tf.IndexedSlices(tf.ones([3, 1]), tf.range(3))
        one = tf.constant([1.0])
        for each in (all_rows, all_rows, rows):
            optimizer.apply_gradients([(each, table), (one, other)])
        if is_restored:
            saved = tf.train.Checkpoint(o=optimizer, t=table, v=other)
            path = saved.write(tmp_path / "c")
            optimizer = addons.GradientAccumulation(SGD(1.0, momentum=0.5), 2)
            table, other = tf.Variable(tf.ones([3, 1])), tf.Variable([1.0])
            tf.train.Checkpoint(o=optimizer, t=table, v=other).read(path)
        optimizer.apply_gradients([(one, other)])
        results.append(table.numpy())
    np.testing.assert_array_equal(*results)


def test_a_gradient_of_zeros_is_one(traced):
    """Momentum moves a row that had a gradient, though it was 0, or -0."""
    for zero in (0.0, -0.0):
        optimizer = addons.GradientAccumulation(SGD(1.0, momentum=0.5), 1)
        table = tf.Variable(tf.zeros([3, 1]))
        step = stepper_of(optimizer, table, traced)
        for value in (1.0, np.float32(zero)):
            values = tf.convert_to_tensor(np.float32([[value]]))
            step(
                tf.IndexedSlices(values, tf.constant([1]), tf.constant([3, 1]))
            )
        np.testing.assert_array_equal(table, [[0.0], [-1.5], [0.0]])


def test_in_xla():
    results = []
    for jit_compile in (True, False):
        optimizer = addons.GradientAccumulation(Adam(0.1), 2)
        var = tf.Variable([1.0, 2.0])

        def traced(step, jit_compile=jit_compile):
            return tf.function(step, jit_compile=jit_compile)

        step = stepper_of(optimizer, var, traced)
        for t in range(5):
            step(tf.constant([0.5, 1.0 + t]))
        results.append([var.numpy(), *optimizer.get_weights()])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


IN_XLA = {
    "SGD": lambda: SGD(0.5),
    "momentum": lambda: SGD(0.5, momentum=0.5, global_clipnorm=1.0),
    "Adam": lambda: Adam(0.1),
    "Adagrad": lambda: Adagrad(0.5),
    "AdamW": lambda: addons.AdamW(weight_decay=0.1, learning_rate=0.1),
    "LazyAdam": lambda: addons.LazyAdam(0.1),
}


@pytest.mark.parametrize("inner", IN_XLA)
def test_rows_in_xla(inner):
    """They are as many as without, though shapes are static."""
    results = []
    for jit_compile in (True, False):
        optimizer = addons.GradientAccumulation(IN_XLA[inner](), 2)
        table = tf.Variable(tf.ones([7, 3]))

        def traced(step, jit_compile=jit_compile):
            return tf.function(step, jit_compile=jit_compile)

        step = stepper_of(optimizer, table, traced)
        for rows in ([1, 1, 5], [0, 5, 5], [1, 2, 1], [3, 3, 3]):
            values, shape = tf.ones([3, 3]), tf.constant([7, 3])
            step(tf.IndexedSlices(values, tf.constant(rows), shape))
        results.append([table.numpy(), *optimizer.get_weights()])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_other_dtypes(traced):
    for dtype in ("float16", "bfloat16", "float64", "complex64"):
        optimizer = addons.GradientAccumulation(SGD(1.0), 2)
        var = tf.Variable(tf.zeros([2], dtype))
        step = stepper_of(optimizer, var, traced)
        step(tf.cast([1.0, 2.0], dtype))
        step(tf.cast([3.0, 2.0], dtype))
        np.testing.assert_array_equal(tf.cast(var, "complex64"), [-2.0, -2.0])


def test_steps_may_change_without_a_new_trace():
    optimizer, var = addons.GradientAccumulation(SGD(1.0), 5), tf.Variable(0.0)
    step = stepper_of(optimizer, var, tf.function)
    step(tf.constant(1.0))
    step(tf.constant(3.0))
    optimizer.steps = 3
    step(tf.constant(5.0))
    assert float(var) == -3.0
    assert step.experimental_get_tracing_count() <= 2


@pytest.mark.parametrize("native", [True, False])
def test_fit_equals_large_batches(host, native):
    """The whole of it: losses, sparse gradients, both Kerases."""
    small = make_model(
        host, addons.GradientAccumulation(SGD(0.25, momentum=0.5), 3)
    )
    large = make_model(host, SGD(0.25, momentum=0.5))
    for model, size in ((small, 4), (large, 12)):
        if native:
            model.fit(TOKENS, LABELS, size, epochs=2, shuffle=False, verbose=0)
        else:
            with fused.disabled():
                model.fit(
                    TOKENS, LABELS, size, epochs=2, shuffle=False, verbose=0
                )
    assert int(small.optimizer.iterations) == 4
    for a, b in zip(small.get_weights(), large.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_layer_frozen_while_batches_wait():
    """In Keras 3, it stays as it is; what waited for it is forgotten."""
    optimizer = addons.GradientAccumulation(SGD(0.25), 3)
    model = make_model(keras, optimizer)
    model.fit(TOKENS[:8], LABELS[:8], 4, epochs=1, verbose=0)
    assert int(optimizer.accumulated) == 2
    layer = model.layers[-1]
    layer.trainable = False
    model.compile(optimizer, "mse")
    before = model.get_weights()
    model.fit(TOKENS[:4], LABELS[:4], 4, verbose=0)
    assert int(optimizer.accumulated) == 0
    assert int(optimizer.iterations) == 1
    frozen = len(layer.weights)
    after = model.get_weights()
    for a, b in zip(after[-frozen:], before[-frozen:], strict=True):
        np.testing.assert_array_equal(a, b)
    assert (after[0] != before[0]).any()
    for variable in layer.weights:
        slot = optimizer.get_slot(variable, "accumulated_gradient")
        assert np.signbit(slot.numpy()).all()
        assert not slot.numpy().any()


def test_mixed_precision(host):
    """Keras puts a LossScaleOptimizer around it."""
    policy = getattr(host, "mixed_precision", None) or host.dtype_policies
    before = policy.dtype_policy() if hasattr(policy, "dtype_policy") else None
    policy.set_global_policy("mixed_float16")
    try:
        model = make_model(host, addons.GradientAccumulation(SGD(0.1), 2))
        weights = model.get_weights()
        model.fit(TOKENS, LABELS, 8, epochs=2, shuffle=False, verbose=0)
    finally:
        policy.set_global_policy(before or "float32")
    assert model.optimizer is not None
    for a, b in zip(model.get_weights(), weights, strict=True):
        assert np.isfinite(a).all()
        assert (a != b).any()
