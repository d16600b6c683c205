"""Updates that unscale and skip compute what TensorFlow's own ops compute."""

import contextlib
import zlib

import numpy as np
import pytest
import stepping
import tensorflow as tf
from registry import BUILT_IN, SUBJECT, Case, common_cases, own_cases
from test_fused_equals_plain import SHAPES, SPARSE, Pair, gradients, tolerance

import keras_legacy_opt
from keras_legacy_opt import LossScaleOptimizer, fused
from keras_legacy_opt.backends import native
from keras_legacy_opt.step import chain

pytestmark = pytest.mark.usefixtures("native_ops")

PLAIN = [Case(row, "plain") for row in BUILT_IN]
CLIPPED = [c for c in common_cases(BUILT_IN) if "clip" in str(c)]
EAGER, IN_FUNCTION = False, True
CASES = [
    *((case, "float32", EAGER) for case in [*own_cases(BUILT_IN), *CLIPPED]),
    *((case, "float64", EAGER) for case in PLAIN),
    *((case, "float32", IN_FUNCTION) for case in PLAIN),
    *(
        (case, "float32", IN_FUNCTION)
        for case in CLIPPED
        if "Adam-" in str(case)
    ),
]
SCALE = {"initial_scale": 3.7, "dynamic_growth_steps": 2}
BAD = {2: np.inf, 4: np.nan}  # in which steps


@pytest.fixture
def calls(monkeypatch):
    """What native updates were handed: (name, transforms, conditions)."""
    seen = []
    original = native.update_dense

    def update_dense(step, updates):
        seen.append(
            (
                len(native._joined([u.transform for u in updates])),
                len(native._joined([u.condition for u in updates])),
            )
        )
        return original(step, updates)

    monkeypatch.setattr(native, "update_dense", update_dense)
    return seen


def taking_scaled(optimizer, **scale):
    """A wrapper whose `apply_gradients` takes gradients that are scaled."""
    wrapper = LossScaleOptimizer(optimizer, **scale)
    wrapper.scale_loss(tf.ones([]))
    return wrapper


def in_function_with(optimizer):
    """`apply_gradients`, in a function of the gradients."""
    apply, variables = optimizer.apply_gradients, []

    @tf.function
    def step(grads):
        apply(zip(grads, variables, strict=True))

    def apply_gradients(grads_and_vars):
        grads, variables[:] = zip(*grads_and_vars, strict=True)
        step(list(grads))

    return apply_gradients


ways = pytest.mark.parametrize(
    "wrap", [lambda opt: opt.apply_gradients, in_function_with]
)


class ScaledPair(Pair):
    """A pair of wrapped optimizers, stepped in a function or eagerly."""

    def __init__(self, make_optimizer, initial, in_function):
        super().__init__(make_optimizer, initial)
        if in_function:
            for optimizer in (self.native, self.plain):
                step = in_function_with(optimizer)
                object.__setattr__(optimizer, "apply_gradients", step)


@pytest.mark.parametrize(("case", "dtype", "in_function"), CASES, ids=str)
def test_fused_equals_plain(case: Case, dtype, in_function):
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    initial = {
        name: stepping.random_array(rng, shape, dtype)
        for name, shape in SHAPES.items()
        # TensorFlow rearranges its own arithmetic of rows in functions.
        if not (in_function and name in SPARSE)
    }
    pair = ScaledPair(
        lambda: taking_scaled(case.build(SUBJECT), **SCALE),
        initial,
        in_function,
    )
    for i in range(6):
        grads = {
            name: grad
            for name, grad in gradients(rng, dtype)
            if name in initial
        }
        if i in BAD:
            grads["vector"][7] = BAD[i]
        before = {k: v.numpy() for k, v in pair.native_vars.items()}
        pair.step(grads, lambda variable: tolerance(str(case), variable))
        same = [
            np.array_equal(pair.native_vars[name], value)
            for name, value in before.items()
        ]
        assert all(same) == (i in BAD)
        native, plain = pair.native, pair.plain
        assert native.loss_scale == plain.loss_scale
        assert native.dynamic_counter == plain.dynamic_counter
        assert native.iterations == plain.iterations == i + 1


@pytest.mark.parametrize("sparse", [False, True])
def test_what_updates_do(calls, monkeypatch, sparse):
    """In a function, one op reads the gradients, others skip by themselves."""
    monkeypatch.setattr(tf, "cond", None)
    var, table = tf.Variable([1.0, 2.0]), tf.Variable(tf.ones([5, 2]))
    opt = LossScaleOptimizer(keras_legacy_opt.SGD(0.25), initial_scale=8.0)

    def loss(weight):
        read = tf.gather(table, [1, 3, 1]) if sparse else table
        return weight * (tf.reduce_sum(var) + tf.reduce_sum(read))

    @tf.function
    def step(weight):
        opt.minimize(lambda: loss(weight), [var, table])

    step(tf.constant(np.inf))
    np.testing.assert_array_equal(var, [1.0, 2.0])
    np.testing.assert_array_equal(table, np.ones([5, 2]))
    step(tf.constant(2.0))
    np.testing.assert_array_equal(var, [0.5, 1.5])
    rows = [1, 0, 1, 0.5, 1] if sparse else [0.5] * 5
    np.testing.assert_array_equal(table[:, 0], rows)
    assert set(calls) == {(1, 1)}
    graph = step.get_concrete_function(tf.constant(1.0)).graph
    kinds = [op.type for op in graph.get_operations()]
    assert kinds.count("KerasLegacyOptAllFinite") == 1
    assert kinds.count("KerasLegacyOptGroupSgd") == 1
    assert kinds.count("KerasLegacyOptSparseSgd") == sparse


@pytest.mark.parametrize(
    ("options", "transforms"),
    [({}, 1), ({"clipvalue": 1.0}, 1), ({"clipnorm": 1.0}, 1),
     ({"global_clipnorm": 1.0}, 1), ({"clipnorm": 1.0, "clipvalue": 1.0}, 0)],
    ids=str,
)  # fmt: skip
def test_with_clipping(calls, options, transforms):
    opt = taking_scaled(keras_legacy_opt.SGD(**options), initial_scale=8.0)
    var = tf.Variable([1.0, 2.0])
    in_function_with(opt)([(tf.ones([2]), var)])
    assert set(calls) == {(transforms, 1)}


def test_where_updates_cannot_skip(calls):
    """Nadam's step changes more; a constraint has to be applied."""
    for opt, var in (
        (keras_legacy_opt.Nadam(), tf.Variable([1.0])),
        (keras_legacy_opt.SGD(), tf.Variable([1.0], constraint=tf.nn.relu)),
    ):
        wrapper = taking_scaled(opt)
        step = in_function_with(wrapper)
        step([(tf.constant([np.inf]), var)])
        np.testing.assert_array_equal(var, [1.0])
        step([(tf.constant([16384.0]), var)])
        assert float(var[0]) < 1.0
    assert set(calls) == {(1, 0)}


@ways
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits(dtype, wrap):
    """Unscaled by TensorFlow, skipped by the updates."""
    opt = taking_scaled(keras_legacy_opt.SGD(0.5), initial_scale=4.0)
    var, other = tf.Variable(tf.ones([3], dtype)), tf.Variable([1.0])
    step = wrap(opt)
    for bad in (np.inf, np.nan, 8.0):
        grads = tf.cast([8.0, 0.0, bad], dtype), tf.constant([4.0])
        step(list(zip(grads, [var, other], strict=True)))
        if bad != 8.0:
            np.testing.assert_array_equal(var, tf.ones([3], dtype))
    # By then the scale is 1.
    np.testing.assert_array_equal(var, tf.cast([-3, 1, -3], dtype))
    np.testing.assert_array_equal(other, [-1.0])


def test_eager_steps_take_the_short_way(monkeypatch):
    groups = []
    original = native.update_group
    monkeypatch.setattr(
        native,
        "update_group",
        lambda *args: (
            groups.append(len(args[-1]["transform"])) or original(*args)
        ),
    )
    variables = [tf.Variable([1.0]), tf.Variable(2.0)]
    opt = taking_scaled(keras_legacy_opt.SGD(0.5), initial_scale=4.0)
    for _ in range(4):
        opt.apply_gradients([(tf.ones_like(v), v) for v in variables])
    assert groups == [1, 1]
    assert [float(tf.squeeze(v)) for v in variables] == [0.5, 1.5]


# Keras 3's own attribute for a scale that is fixed.


@ways
@pytest.mark.parametrize("options", [{}, {"clipvalue": 0.1}], ids=str)
def test_loss_scale_factor(calls, options, wrap):
    """Updates divide, unless they clip, too."""
    # In functions, TensorFlow multiplies by a constant's reciprocal.
    factor = 4.0 if wrap is in_function_with else 3.0
    results = []
    for context in (fused.disabled, contextlib.nullcontext):
        with context():
            opt = keras_legacy_opt.SGD(0.5, **options)
            opt.loss_scale_factor = factor
            var, table = tf.Variable([1.0, 2.0]), tf.Variable(tf.ones([5, 2]))
            rows = tf.IndexedSlices(tf.fill([2, 2], 0.7), tf.constant([4, 1]))
            step = wrap(opt)
            for _ in range(3):
                step([(tf.constant([0.1, 7.0]), var), (rows, table)])
            results.append((var.numpy(), table.numpy()))
    for plain, fast in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, fast)
    assert {transforms for transforms, _ in calls} == {1}
    refusal = chain.refuses(opt, [(rows, table)], (chain.Divide(factor),))
    assert (refusal is None) == (not options)
