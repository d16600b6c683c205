"""The short way of eager steps of wrappers: that inside, and little more."""

import collections
import contextlib
import functools
import gc
import itertools
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from eager import METHODS, SELECTING, no_plans

import keras_legacy_opt
from keras_legacy_opt import addons, fused, originals
from keras_legacy_opt.addons.wrapper import all_inside
from keras_legacy_opt.step import gradients, plan

pytestmark = pytest.mark.usefixtures("native_ops")

WRAPPED = {
    "MovingAverage": lambda inner: addons.MovingAverage(inner, 0.75),
    "dynamic": lambda inner: addons.MovingAverage(
        inner,
        0.9,
        num_updates=tf.Variable(5, dtype=tf.int64),
        start_step=3,
        dynamic_decay=True,
    ),
    "Lookahead": lambda inner: addons.Lookahead(inner, 3, 0.5),
    "SWA": lambda inner: addons.SWA(inner, 2, 3),
    "GradientAccumulation": lambda inner: addons.GradientAccumulation(inner, 3),
    "Nested": lambda inner: addons.GradientAccumulation(
        addons.Lookahead(addons.MovingAverage(inner), 2), 3
    ),
}
INSIDE = {
    "Adam": keras_legacy_opt.Adam,
    "SGD": lambda rate: keras_legacy_opt.SGD(rate, momentum=0.5),
    "Nadam": keras_legacy_opt.Nadam,
    "LAMB": addons.LAMB,
    "AdamW": functools.partial(addons.AdamW, 0.01),
    "differ": functools.partial(addons.AdamW, 0.01, **SELECTING),
}
every_wrapper = pytest.mark.parametrize("name", WRAPPED)


def pair(name, inner=keras_legacy_opt.Adam):
    """Twice a wrapped optimizer, and two variables for each."""
    return [
        (
            WRAPPED[name](inner(0.1)),
            [tf.Variable([1.0, -2.0], name=n) for n in "ab"],
        )
        for _ in range(2)
    ]


def apply_each(both, seed=0, change=lambda optimizer, variables: None):
    """The same step of both: one as it comes, one without plans."""
    rng = np.random.default_rng(seed)
    shapes = [v.shape for v in both[0][1]]
    grads = [rng.normal(size=shape).astype("float32") for shape in shapes]
    for i, (optimizer, variables) in enumerate(both):
        change(optimizer, variables)
        with no_plans() if i else contextlib.nullcontext():
            optimizer.apply_gradients(
                zip(map(tf.constant, grads), variables, strict=True)
            )
    assert_alike(both)


def assert_alike(both):
    states = [
        [w.numpy() for w in [*variables, *optimizer.weights]]
        for optimizer, variables in both
    ]
    for ours, expected in zip(*states, strict=True):
        np.testing.assert_array_equal(ours, expected)


def change_wrapped(optimizer, step):
    """Whatever the wrapper and the optimizer inside have."""
    for each in all_inside(optimizer):
        if step == 3:
            each.learning_rate = 0.05
        if step == 4 and "average_decay" in each._hyper:
            each.average_decay = 0.5
        if step == 5 and "average_decay" in each._hyper:
            decays = iter([0.25, 0.125, 0.75] * 9)
            each.average_decay = lambda decays=decays: next(decays)
        if step == 8 and "average_decay" in each._hyper:
            each.average_decay = 0.875
            each._num_updates = 4
            each._start_step = 9
        if step == 6 and "sync_period" in each._hyper:
            each.sync_period = 2
            each.slow_step_size = 0.25
        if step == 6 and "average_period" in each._hyper:
            each.average_period = 2
        if step == 7 and "steps" in each._hyper:
            each.steps = 2


@pytest.mark.parametrize("inside", INSIDE)
@every_wrapper
def test_steps_of_wrappers_are_planned(name, inside, planned):
    """As steps without a plan, whatever is set in between."""
    both = pair(name, INSIDE[inside])
    for step in range(13):
        apply_each(both, step, lambda opt, _, i=step: change_wrapped(opt, i))
    assert sum(planned) > 6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@every_wrapper
def test_special_values_in_wrappers(name, dtype, planned):
    """Also of what is only added up, where zeros have signs."""
    small = {"float16": 6e-8, "float64": 5e-324}.get(dtype, 1e-40)
    big = {"float16": 6e4, "float64": 1e308}.get(dtype, 3e38)
    values = [0.0, -0.0, 1.0, -1.5, big, -big, small, 1.0, -0.0, 3e-5]
    states = []
    for context in (contextlib.nullcontext, no_plans):
        optimizer = WRAPPED[name](keras_legacy_opt.SGD(0.5, momentum=0.5))
        var = tf.Variable(tf.ones([len(values)], dtype))
        other = tf.Variable(tf.ones([1], dtype))
        with context():
            for step in range(8):
                given = np.roll(values, step // 2)
                if step > 5:
                    given[:2] = [np.nan, np.inf]
                pairs = [
                    (tf.constant(given, dtype), var),
                    (tf.ones([1], dtype), other),
                ]
                optimizer.apply_gradients(pairs)
                states.append([w.numpy() for w in [var, *optimizer.weights]])
    assert any(planned)
    half = len(states) // 2
    for ours, expected in zip(states[:half], states[half:], strict=True):
        for a, b in zip(ours, expected, strict=True):
            a, b = a.astype("float64"), b.astype("float64")
            np.testing.assert_array_equal(a, b)
            signs = [np.signbit(x[~np.isnan(x)]) for x in (a, b)]
            np.testing.assert_array_equal(*signs)


@pytest.mark.parametrize("patched", ["instance", "class"])
@every_wrapper
def test_any_override_of_a_wrapper_means_no_plan(name, patched, planned):
    """Whichever method it is, and however late it comes."""
    both = pair(name)
    for seed in range(5):
        apply_each(both, seed)
    assert planned.pop()
    cls = type(both[0][0])
    for method in sorted(originals.methods_of(cls)):
        if patched == "instance" and method in ("iterations", "__init__"):
            continue
        original = getattr(cls, method)
        if method == "iterations":
            override = property(original.fget, original.fset)
        else:

            @functools.wraps(original)
            def override(*args, original=original, **kwargs):
                return original(*args, **kwargs)

        planned.clear()
        with pytest.MonkeyPatch.context() as patch:
            for optimizer, _ in both:
                if patched == "instance":
                    bound = functools.partial(override, optimizer)
                    patch.setitem(vars(optimizer), method, bound)
                else:
                    patch.setattr(cls, method, override)
            # What is inside may still have plans, in steps that come so far.
            apply_each(both, 6)
            outermost = [
                p.is_of_wrapper
                for p in plan._plans[both[0][0]].values()
                if p.group is not None
            ]
            assert not any(outermost), method


@pytest.mark.parametrize("patched", ["instance", "class"])
@pytest.mark.parametrize("method", [*METHODS, "apply_gradients", "_own_of"])
@every_wrapper
def test_overrides_inside_that_come_late(name, method, patched, planned):
    both = pair(name)
    for seed in range(6):
        apply_each(both, seed)
    insides = [all_inside(optimizer)[-1] for optimizer, _ in both]
    calls = collections.Counter()
    turn = [0]

    def take_turns(optimizer, _):
        turn[0] = insides.index(all_inside(optimizer)[-1])

    with pytest.MonkeyPatch.context() as patch:
        for owner in insides if patched == "instance" else [type(insides[0])]:
            original = getattr(owner, method)

            @functools.wraps(original)
            def override(*args, original=original, **kwargs):
                calls[turn[0]] += 1
                return original(*args, **kwargs)

            patch.setattr(owner, method, override)
        for seed in range(6):
            apply_each(both, seed, take_turns)
        assert calls[0] == calls[1]
        # Of gradients that were added up, these are not asked any more.
        summed = "aggregate" in method and optimizer_sums(both[0][0])
        assert bool(calls) != summed
    calls.clear()
    for seed in range(6):
        apply_each(both, seed)
    assert not calls


def optimizer_sums(optimizer):
    return isinstance(optimizer, addons.GradientAccumulation)


class Overriding(addons.MovingAverage):
    """Which nothing is known of."""


@pytest.mark.parametrize(
    "make",
    [
        Overriding,
        lambda inner: addons.MovingAverage(addons.Lookahead(inner)),
        lambda inner: addons.Lookahead(Overriding(inner)),
        lambda inner: addons.MovingAverage(inner, clipnorm=1.0),
        lambda inner: addons.Lookahead(inner, clipvalue=0.5),
        lambda inner: addons.GradientAccumulation(
            inner, 3, gradient_transformers=[lambda pairs: pairs]
        ),
    ],
    ids=[
        "subclass",
        "unfolded",
        "inside",
        "clipnorm",
        "clipvalue",
        "transform",
    ],
)
def test_wrappers_without_plans(make):
    optimizer, var = make(keras_legacy_opt.SGD(0.5)), tf.Variable([1.0])
    for _ in range(4):
        optimizer.apply_gradients([(tf.ones([1]), var)])
    assert [p.group for p in plan._plans[optimizer].values()] == [None]


def test_clipping_and_the_like_that_come_late():
    """On the wrapper, and inside."""
    for level in (0, -1):
        both = pair("MovingAverage")
        for seed in range(4):
            apply_each(both, seed)
        halve = [lambda pairs: [(g / 2.0, v) for g, v in pairs]]
        for option, value, default in (
            ("clipvalue", 0.01, None),
            ("clipnorm", 0.01, None),
            ("global_clipnorm", 0.01, None),
            ("loss_scale_factor", 2.0, None),
            ("gradient_transformers", halve, []),
            ("gradient_aggregator", halve[0], gradients.all_reduce_sum),
        ):
            for each in (value, default):
                apply_each(
                    both,
                    5,
                    lambda opt, _, each=each, option=option, level=level: (
                        setattr(all_inside(opt)[level], option, each)
                    ),
                )


@every_wrapper
def test_constraints_of_wrapped_variables_that_come_late(name):
    states = []
    for context in (contextlib.nullcontext, no_plans):
        optimizer = WRAPPED[name](keras_legacy_opt.SGD(0.5))
        var = keras.Variable([1.0, -1.0])
        for step in range(15):
            if step == 6:
                var.constraint = keras.constraints.NonNeg()
            if step == 10:
                var.constraint, var.overwrite_with_gradient = None, True
            if step == 12:
                var.overwrite_with_gradient = False
            with context():
                optimizer.apply_gradients([(tf.constant([1.0, -1.0]), var)])
            states.append([w.numpy() for w in [var, *optimizer.weights]])
    half = len(states) // 2
    for ours, expected in zip(states[:half], states[half:], strict=True):
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@every_wrapper
def test_other_slots_of_wrappers(name):
    """Of the wrappers, and inside; also new rows of them."""
    both = pair(name)
    for seed in range(5):
        apply_each(both, seed)

    def replace(optimizer, _, rows):
        for each in all_inside(optimizer):
            each._slots = {k: dict(v) for k, v in each._slots.items()}
            for row in each._slots.values() if rows else ():
                for slot in row:
                    row[slot] = tf.Variable(row[slot] + 0.5, trainable=False)

    for rows in (True, False):
        apply_each(both, 6, functools.partial(replace, rows=rows))
        for seed in range(4):
            apply_each(both, seed)
            slots = [
                [
                    slot.numpy()
                    for each in all_inside(optimizer)
                    for row in each._slots.values()
                    for slot in row.values()
                ]
                for optimizer, _ in both
            ]
            for ours, expected in zip(*slots, strict=True):
                np.testing.assert_array_equal(ours, expected)


@every_wrapper
def test_another_optimizer_inside(name):
    both = pair(name)
    for seed in range(5):
        apply_each(both, seed)

    def swap(optimizer, _):
        inner = keras_legacy_opt.SGD(0.5, momentum=0.5)
        all_inside(optimizer)[-2]._optimizer = inner

    apply_each(both, 5, swap)
    for seed in range(5):
        apply_each(both, seed)


@every_wrapper
def test_late_variables_and_lists_in_turns(name):
    both = pair(name)
    for seed in range(4):
        apply_each(both, seed)
    for _, variables in both:
        variables.append(tf.Variable(tf.ones([2, 2])))
    for seed in range(4):
        apply_each(both, seed)
        apply_each([(o, v[:1]) for o, v in both], seed)
        apply_each([(o, v[1:]) for o, v in both], seed)


@every_wrapper
def test_mixed_dtypes_in_wrappers(name):
    states = []
    for context in (contextlib.nullcontext, no_plans):
        optimizer = WRAPPED[name](keras_legacy_opt.Adam(0.1))
        variables = [
            tf.Variable(tf.ones([2], dtype))
            for dtype in ("float32", "float64", "float16", "float32")
        ]
        for step in range(8):
            given = variables[::3] if step % 3 else variables
            with context():
                optimizer.apply_gradients(
                    [(tf.fill(v.shape, v[0] / 3), v) for v in given]
                )
            states.append([w.numpy() for w in [*variables, *optimizer.weights]])
    half = len(states) // 2
    for ours, expected in zip(states[:half], states[half:], strict=True):
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@every_wrapper
def test_refused_steps_of_wrappers_change_nothing(name):
    """In steps of every kind."""
    ((optimizer, (var, other)), _) = pair(name, keras_legacy_opt.Nadam)
    good = tf.ones([2])
    for _ in range(7):
        optimizer.apply_gradients([(good, var), (good, other)])
        before = [*optimizer.get_weights(), var.numpy(), other.numpy()]
        for bad in (
            tf.ones([3]),
            tf.ones([2], tf.float64),
            tf.IndexedSlices(tf.ones([1]), tf.constant([7])),
        ):
            with pytest.raises(tf.errors.InvalidArgumentError):
                optimizer.apply_gradients([(good, var), (bad, other)])
            after = [*optimizer.get_weights(), var.numpy(), other.numpy()]
            for a, b in zip(before, after, strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_refused_step_asks_for_the_decay_of_averages_once():
    asked = []
    optimizer = addons.MovingAverage(
        keras_legacy_opt.SGD(0.5), lambda: asked.append(1) or 0.5
    )
    var = tf.Variable([1.0])
    for count in range(1, 5):
        optimizer.apply_gradients([(tf.ones([1]), var)])
        assert len(asked) == count
    with pytest.raises(tf.errors.InvalidArgumentError):
        optimizer.apply_gradients([(tf.ones([2]), var)])
    assert len(asked) <= 5


def test_wrappers_of_one_class_and_of_one_optimizer(planned):
    """Those of one optimizer count together; each has averages of its own."""
    states = []
    for context in (contextlib.nullcontext, no_plans):
        inner = keras_legacy_opt.Adam(0.1)
        first = addons.MovingAverage(inner, 0.5)
        second = addons.MovingAverage(inner, 0.9)
        alone = addons.MovingAverage(keras_legacy_opt.Adam(0.1), 0.5)
        var, other = tf.Variable([1.0, 2.0]), tf.Variable([1.0, 2.0])
        for _ in range(4):
            for each, variable in (
                *[(first, var)] * 2,
                *[(second, var)] * 3,
                *[(alone, other)] * 2,
                *[(inner, var)] * 2,
            ):
                with context():
                    each.apply_gradients([(variable / 3, variable)])
        assert inner.iterations == 4 * 7
        weights = [*first.weights, *second.weights, *alone.weights]
        states.append([w.numpy() for w in [var, other, *weights]])
    assert any(planned)
    for ours, expected in zip(*states, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_wrapped_steps_elsewhere(calls):
    """Without native ops, under a strategy."""
    both = pair("MovingAverage")
    for seed in range(4):
        apply_each(both, seed)
    count = len(calls)
    with fused.disabled():
        apply_each(both, 4)
    assert len(calls) == count
    optimizer, variables = both[0]
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with pytest.raises(ValueError, match="outside the scope"):
        strategy.run(
            lambda: optimizer.apply_gradients(
                [(tf.ones([2]), v) for v in variables]
            )
        )
    assert_alike(both)
    for seed in range(3):
        apply_each(both, seed)


def test_no_wrapper_is_kept_alive():
    def train(name, owner):
        inner, var = keras_legacy_opt.SGD(0.5), tf.Variable([1.0])
        optimizer = WRAPPED[name](inner)
        if owner:
            inner.owner = optimizer
        for _ in range(4):
            optimizer.apply_gradients([(tf.ones([1]), var)])
        return weakref.ref(optimizer)

    found = [train(*each) for each in itertools.product(WRAPPED, (True, False))]
    gc.collect()
    assert [reference() for reference in found] == [None] * len(found)
