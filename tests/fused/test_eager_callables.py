"""Somebody's code in eager steps: what it changes, and how often it is asked.

Planned steps are compared with steps without plans, and with legacy.
"""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from eager import no_plans
from registry import BUILT_IN, LEGACY, NATIVE, SUBJECT, Case

import keras_legacy_opt
from keras_legacy_opt import addons, fused
from keras_legacy_opt.addons.wrapper import all_inside

pytestmark = pytest.mark.usefixtures("native_ops")

every_optimizer = pytest.mark.parametrize(
    "case", [Case(row, "plain") for row in NATIVE], ids=str
)
# The step in which the optimizer is changed, which is planned.
CHANGED, STEPS = 4, 8


def ways(case):
    """Functions that make the optimizer, with a context for its steps."""
    build = functools.partial(case.build, SUBJECT)
    found = [(build, contextlib.nullcontext), (build, no_plans)]
    if case.row in BUILT_IN:
        legacy = functools.partial(case.build, LEGACY)
        found.append((legacy, contextlib.nullcontext))
    return found


def assert_equal(planned, *others):
    """Bits of ours; of legacy nearly, as its kernels compute otherwise."""
    for other, tolerance in zip(others, (0, 1e-4), strict=False):
        for ours, expected in zip(planned, other, strict=True):
            np.testing.assert_allclose(
                ours, expected, rtol=tolerance, atol=tolerance / 100
            )


# What the code may change, of an optimizer and its variables.


def replace_slots(opt, variables):
    for row in opt._slots.values():
        for name, slot in row.items():
            row[name] = tf.Variable(slot * 2.0 + 0.5, trainable=False)


def is_number(value):
    return isinstance(value, tf.Variable) and value.dtype.is_floating


def halve(pairs):
    return [(g / 2.0, v) for g, v in pairs]


def set_another(opt, variables):
    """In place, a variable that is read later in the step, or was before."""
    for name, value in opt._hyper.items():
        if is_number(value) and name != "decay":
            setattr(opt, name, 0.75 * value)


def replace_another(opt, variables):
    for name, value in opt._hyper.items():
        if is_number(value) and name != "decay":
            opt._hyper[name] = tf.constant(0.75 * value.numpy())


def override(opt, variables):
    original = opt._resource_apply_dense
    opt._resource_apply_dense = lambda grad, var, apply_state=None: original(
        2.0 * grad, var, apply_state
    )


def transform(opt, variables):
    original = opt._transform_gradients
    opt._transform_gradients = lambda pairs: halve(original(pairs))


def set_rate(opt, variables):
    opt.learning_rate = 0.5


def take_a_step(opt, variables):
    set_rate(opt, variables)  # Else it would not end.
    opt.apply_gradients([(tf.ones(v.shape), v) for v in variables])


CHANGES = {
    "clipvalue": lambda opt, _: setattr(opt, "clipvalue", 0.01),
    "clipnorm": lambda opt, _: setattr(opt, "clipnorm", 0.01),
    "global_clipnorm": lambda opt, _: setattr(opt, "global_clipnorm", 0.01),
    "transformer": lambda opt, _: opt.gradient_transformers.append(halve),
    "aggregator": lambda opt, _: setattr(opt, "gradient_aggregator", halve),
    "slots": replace_slots,
    "set": set_another,
    "replaced": replace_another,
    "iterations": lambda opt, _: opt.iterations.assign(20),
    "variables": lambda _, variables: variables[0].assign([7.0, 8.0]),
    "update": override,
    "transform": transform,
    "rate": set_rate,
    "step": take_a_step,
}


def make_variables():
    return [tf.Variable([1.0, -2.0]), tf.Variable([[0.5], [3.0]])]


def train(opt, variables, context=contextlib.nullcontext):
    """Takes some steps, and returns all states."""
    rng, states = np.random.default_rng(0), []
    for _ in range(STEPS):
        grads = [rng.normal(size=v.shape).astype("float32") for v in variables]
        with context():
            opt.apply_gradients(
                zip(map(tf.constant, grads), variables, strict=True)
            )
        states += [w.numpy() for w in [*variables, *opt.weights]]
    return states


def asked_steps(make, context, change):
    """Steps whose learning rate is a function, and changes the optimizer."""
    opt, asked, variables = make(), [], make_variables()

    def rate():
        asked.append(int(opt.iterations))
        if len(asked) == CHANGED + 1:
            change(opt, variables)
        return 0.1

    opt.learning_rate = rate
    return [asked, *train(opt, variables, context)]


@pytest.mark.parametrize("change", CHANGES)
@every_optimizer
def test_what_a_callable_changes_is_seen_at_once(case, change, planned):
    if "learning_rate" not in case.build(SUBJECT)._hyper:
        return  # Nothing else is asked.
    results = [
        asked_steps(make, context, CHANGES[change])
        for make, context in ways(case)
    ]
    assert any(planned)
    if change == "step" and case.row.name == "Nadam":
        # Legacy's goes on from the momentum cache that the other began with.
        results = results[:2]
    assert_equal(*results)


# Other code than a function that is the learning rate.


class Schedule(keras_legacy_opt.schedules.LearningRateSchedule):
    """A user's."""

    def __init__(self, asked):
        self.asked = asked

    def __call__(self, step):
        self.asked()
        return 0.1

    def get_config(self):
        return {}


def override_method(name):
    def override(opt, asked):
        original = getattr(opt, name)

        def asking(*args):
            asked()
            return original(*args)

        setattr(opt, name, asking)

    return override


def use_schedule(opt, asked):
    opt.learning_rate = Schedule(asked)


def use_function(opt, asked):
    opt.momentum = lambda: asked() or 0.5


CODE = {
    "schedule": use_schedule,
    "momentum": use_function,
    **{
        name: override_method(name)
        for name in ("_decayed_lr", "_prepare", "_prepare_local")
    },
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("code", CODE)
def test_what_other_code_changes_is_seen_at_once(code, change, planned):
    results = []
    for context in (contextlib.nullcontext, no_plans):
        opt, variables = keras_legacy_opt.SGD(0.1, 0.5), make_variables()
        asked = []

        def ask(opt=opt, variables=variables, asked=asked):
            asked.append(int(opt.iterations))
            if len(asked) == CHANGED + 1:
                CODE["momentum"](opt, lambda: None)
                CHANGES[change](opt, variables)

        CODE[code](opt, ask)
        results.append([train(opt, variables, context), asked])
    assert any(planned)
    (ours, asked), (expected, asked_in_theirs) = results
    assert asked == asked_in_theirs
    assert_equal(ours, expected)


OF_KERAS = {
    "constraint": lambda _, v: setattr(
        v, "constraint", keras.constraints.NonNeg()
    ),
    "overwrite": lambda _, v: setattr(v, "overwrite_with_gradient", True),
    "variable": lambda _, v: setattr(v, "_value", tf.Variable([4.0, 5.0])),
    "loss_scale_factor": lambda opt, _: setattr(opt, "loss_scale_factor", 2.0),
}


@pytest.mark.parametrize("change", OF_KERAS)
def test_what_callables_change_of_keras(change, planned):
    results = []
    for context in (contextlib.nullcontext, no_plans):
        var, opt = keras.Variable([1.0, -2.0]), keras_legacy_opt.Adam()
        inside = var._value
        asked = []

        def rate(opt=opt, var=var, asked=asked):
            asked.append(int(opt.iterations))
            if len(asked) == CHANGED + 1:
                OF_KERAS[change](opt, var)
            return 0.5

        opt.learning_rate = rate
        states = []
        for _ in range(STEPS):
            with context():
                opt.apply_gradients([(tf.constant([0.5, -1.0]), var)])
            states += [w.numpy() for w in [inside, var, *opt.weights]]
        results.append([asked, *states])
    assert any(planned)
    assert_equal(*results)


def test_native_ops_that_a_callable_switches_off(planned, calls):
    stack = contextlib.ExitStack()
    var, opt = tf.Variable([0.0]), keras_legacy_opt.SGD()
    asked = []

    def rate():
        asked.append(1)
        if len(asked) == CHANGED:
            stack.enter_context(fused.disabled())
        return 1.0

    opt.learning_rate = rate
    with stack:
        for _ in range(STEPS):
            opt.apply_gradients([(tf.ones([1]), var)])
    assert len(asked) == STEPS == -var.numpy()
    assert any(planned)
    assert len(calls) == CHANGED - 1


def test_a_callable_in_a_scaled_step(planned):
    results = []
    for context in (contextlib.nullcontext, no_plans):
        inner, variables = keras_legacy_opt.SGD(), make_variables()
        opt = keras_legacy_opt.LossScaleOptimizer(inner, False, 4.0)
        asked = []

        def rate(inner=inner, asked=asked):
            asked.append(1)
            if len(asked) == CHANGED + 1:
                inner.clipvalue = 0.01
            return 0.1

        inner.learning_rate = rate
        with context():
            for _ in range(STEPS):
                grads = opt.get_unscaled_gradients(
                    [tf.fill(v.shape, 2.0) for v in variables]
                )
                opt.apply_gradients(zip(grads, variables, strict=True))
        results.append([asked, *(v.numpy() for v in variables)])
    assert any(planned)
    assert_equal(*results)


def _clips(optimizer, stack):
    optimizer.clipvalue = 0.01


def _clips_all(optimizer, stack):
    optimizer.global_clipnorm = 0.01


def _switches_off(optimizer, stack):
    stack.enter_context(fused.disabled())


def _transforms(optimizer, stack):
    optimizer.gradient_transformers.append(
        lambda pairs: [(grad * 0.5, v) for grad, v in pairs]
    )


def _overrides(optimizer, stack):
    optimizer._resource_apply_dense = lambda grad, var, apply_state: (
        var.assign_sub(grad * 0.25)
    )


def scaled_by_factor(inner):
    inner.loss_scale_factor = 4.0
    return inner


def scaled(inner, dynamic):
    opt = keras_legacy_opt.LossScaleOptimizer(
        inner, dynamic, 4.0, 100 if dynamic else None
    )
    opt.scale_loss(tf.constant(1.0))
    return opt


@pytest.mark.parametrize(
    "change", [_clips, _clips_all, _switches_off, _transforms, _overrides]
)
@pytest.mark.parametrize("how", ["factor", "fixed", "dynamic"])
def test_scaled_gradients_that_can_no_longer_be_scaled_in_the_update(
    how, change
):
    """What a callable changes is after whether to scale was decided."""
    results = []
    for context in (contextlib.nullcontext, fused.disabled):
        with contextlib.ExitStack() as stack:
            stack.enter_context(context())
            inner, variables = keras_legacy_opt.SGD(), make_variables()
            asked = []

            def rate(inner=inner, asked=asked, stack=stack):
                asked.append(1)
                if len(asked) == CHANGED + 1:
                    change(inner, stack)
                return 0.125

            inner.learning_rate = rate
            opt = {
                "factor": scaled_by_factor,
                "fixed": lambda inner: scaled(inner, False),
                "dynamic": lambda inner: scaled(inner, True),
            }[how](inner)
            for _ in range(STEPS):
                grads = [tf.fill(v.shape, 8.0) for v in variables]
                opt.apply_gradients(zip(grads, variables, strict=True))
        results.append([asked, *(v.numpy() for v in variables)])
    assert_equal(*results)


# Wrappers.

WRAPPERS = {
    "MovingAverage": lambda inner: addons.MovingAverage(inner, 0.75),
    "Lookahead": lambda inner: addons.Lookahead(inner, 3, 0.5),
    "SWA": lambda inner: addons.SWA(inner, 2, 3),
    "GradientAccumulation": lambda inner: addons.GradientAccumulation(inner, 2),
    "Nested": lambda inner: addons.GradientAccumulation(
        addons.Lookahead(addons.MovingAverage(inner), 2), 2
    ),
}


@pytest.mark.parametrize("level", ["outermost", "innermost"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_callables_change_inside_wrappers(wrapper, change, level, planned):
    if change == "step" and level == "outermost":
        return  # It is in the midst of one.
    results = []
    for context in (contextlib.nullcontext, no_plans):
        opt = WRAPPERS[wrapper](keras_legacy_opt.Adam())
        variables, asked = make_variables(), []
        insides = all_inside(opt)
        changed = insides[0 if level == "outermost" else -1]

        def rate(changed=changed, variables=variables, asked=asked):
            asked.append(int(changed.iterations))
            if len(asked) == CHANGED:
                CHANGES[change](changed, variables)
            return 0.1

        insides[-1].learning_rate = rate
        states = [*train(opt, variables, context), *train(opt, variables)]
        results.append([asked, *states])
    assert any(planned)
    assert_equal(*results)


def replace_inside(opt, _):
    opt._optimizer = keras_legacy_opt.SGD(0.5)


@pytest.mark.parametrize("asks", ["learning_rate", "average_decay"])
@pytest.mark.parametrize(
    "change", [CHANGES["clipvalue"], CHANGES["slots"], replace_inside]
)
def test_what_callables_of_averages_change(change, asks, planned):
    """Of both optimizers."""
    for level in (0, -1):
        results = []
        for context in (contextlib.nullcontext, no_plans):
            opt = addons.MovingAverage(keras_legacy_opt.Adam(0.1), 0.75)
            variables, asked = make_variables(), []

            def answer(opt=opt, variables=variables, asked=asked, level=level):
                asked.append(int(opt.iterations))
                if len(asked) == CHANGED + 1:
                    level *= change is not replace_inside
                    change(all_inside(opt)[level], variables)
                return 0.5

            setattr(opt, asks, answer)
            results.append([asked, *train(opt, variables, context)])
        assert any(planned)
        assert_equal(*results)


# What is asked, in which order, and how often.

BAD = {
    "text": "0.1",
    "text in a tensor": tf.constant("0.1"),
    "shape": tf.ones([2]),
    "nothing": None,
    "NaN": np.nan,
    "complex": tf.constant(0.1 + 1j, tf.complex64),
}


def answers(make, context, bad):
    """What is asked in steps, one of which gets a bad answer at each place."""
    opt, variables, asked = make(), make_variables(), []
    numbers = {
        name: number
        for name, number in opt._hyper.items()
        if isinstance(number, float) and name != "decay"
    }
    spoilt = [None]

    def answer(name, number):
        asked.append(name)
        return bad if name == spoilt[0] else number

    for name, number in numbers.items():
        setattr(opt, name, functools.partial(answer, name, number))
    found = []
    for spoilt[0] in [None, None, None, *numbers, None]:
        asked.append(None)
        with context():
            try:
                opt.apply_gradients([(tf.ones(v.shape), v) for v in variables])
            except (tf.errors.OpError, TypeError, ValueError) as error:
                found.append(type(error).__name__)
        found += [w.numpy() for w in [*variables, *opt.weights]]
    return asked, found


@pytest.mark.parametrize("bad", BAD)
@every_optimizer
def test_each_is_asked_once_whatever_it_answers(case, bad, planned):
    results = [answers(make, context, BAD[bad]) for make, context in ways(case)]
    assert any(planned)
    asked, states = zip(*results, strict=True)
    assert all(each == asked[0] for each in asked)
    for ours, expected in zip(states[0], states[1], strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_a_bad_decay_of_averages_is_asked_for_once(planned):
    for bad in BAD.values():
        results = []
        for context in (contextlib.nullcontext, no_plans):
            asked, variables = [], make_variables()
            spoilt = [False]

            def decay(asked=asked, spoilt=spoilt, bad=bad):
                asked.append(spoilt[0])
                return bad if spoilt[0] else 0.5

            opt = addons.MovingAverage(keras_legacy_opt.SGD(0.1), decay)
            with context():
                for spoilt[0] in (False, False, False, True, False):
                    with contextlib.suppress(
                        tf.errors.OpError, TypeError, ValueError
                    ):
                        opt.apply_gradients(
                            [(tf.ones(v.shape), v) for v in variables]
                        )
            results.append([asked, *(v.numpy() for v in variables)])
        assert any(planned)
        assert_equal(*results)
