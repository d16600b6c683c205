"""The short way of an eager step: what it remembers, and what it may not."""

import collections
import contextlib
import functools
import gc
import itertools
import weakref

import keras
import numpy as np
import pytest
import stepping
import tensorflow as tf
import tf_keras
from eager import METHODS, SELECTING, no_plans
from registry import BUILT_IN, NATIVE, SUBJECT, own_cases

import keras_legacy_opt
from keras_legacy_opt import addons, fused, private_api
from keras_legacy_opt.step import plan

pytestmark = pytest.mark.usefixtures("native_ops")


# What has something of its own for each variable.
OWN = {
    "AdamW": lambda **kw: addons.AdamW(0.01, 0.1, **kw),
    "SGDW": lambda **kw: addons.SGDW(0.01, 0.1, **kw),
    "AdamWeightDecay": lambda **kw: addons.AdamWeightDecay(
        0.1, weight_decay_rate=0.01, **kw
    ),
    "LAMB": lambda **kw: addons.LAMB(0.1, weight_decay=0.01, **kw),
    "NovoGrad": lambda **kw: addons.NovoGrad(
        0.1,
        weight_decay=0.01,
        **{k: v for k, v in kw.items() if "exclude" not in k},
    ),
    "extended": lambda **kw: addons.extend_with_decoupled_weight_decay(
        keras_legacy_opt.RMSprop
    )(0.01, learning_rate=0.1, **kw),
    "nesterov": lambda **kw: addons.extend_with_decoupled_weight_decay(
        keras_legacy_opt.Nadam
    )(0.01, learning_rate=0.1, **kw),
    "rectified": lambda **kw: addons.extend_with_decoupled_weight_decay(
        addons.RectifiedAdam
    )(0.01, learning_rate=0.1, **kw),
}


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


def test_remembered_variables_are_not_kept_alive():
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


def test_handles_are_asked_once_for_their_distributed_variables(monkeypatch):
    """Which costs them an exception; and no variable is kept alive for it."""
    asked, original = collections.Counter(), tf.Tensor.__getattr__

    def counted(tensor, name):
        if name == "_distributed_container":
            asked[id(tensor)] += 1
        return original(tensor, name)

    def train(context):
        variables = [tf.Variable([1.0]), tf.Variable([[2.0]])]
        opt = keras_legacy_opt.Adam(0.5)
        for _ in range(4):
            with context():
                opt.apply_gradients([(tf.ones_like(v), v) for v in variables])
        assert set(asked.values()) == {1}
        asked.clear()

    gc.collect()
    before = len(private_api._alone)
    monkeypatch.setattr(tf.Tensor, "__getattr__", counted)
    for context in (contextlib.nullcontext, no_plans, fused.disabled):
        train(context)
    gc.collect()
    assert len(private_api._alone) <= before


# The coefficients, which a planned step computes as far as its op takes them.


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


@pytest.mark.parametrize("case", own_cases(NATIVE), ids=str)
def test_coefficients_are_those_of_prepare(case, monkeypatch):
    initial, gradients = stepping.problem(str(case), "float32", "dense")
    records = []
    for prepares in (False, True):
        optimizer, prepared = case.build(SUBJECT), []
        if prepares:

            def prepare(variables, opt=optimizer, seen=prepared):
                seen.append(variables)
                return type(opt)._prepare(opt, variables)

            optimizer._prepare = prepare
        variables = stepping.make_variables(initial)
        for step, grads in enumerate(gradients):
            overwrite_settings(optimizer, step)
            optimizer.apply_gradients(
                [(tf.constant(grads[k]), variables[k]) for k in variables]
            )
            records.append(stepping.record(variables, optimizer))
        assert len(prepared) == prepares * len(gradients)
    half = len(records) // 2
    for ours, expected in zip(records[:half], records[half:], strict=True):
        for a, b in zip(ours.values(), expected.values(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_hyperparameters_of_all_kinds_may_change():
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
    rates = iter([0.5, 0.25, 0.125, 8.0])
    opt.learning_rate = lambda: next(rates)
    assert [rate() for _ in range(4)] == [0.5, 0.25, 0.125, 8.0]
    opt._decayed_lr = lambda dtype: tf.constant(3.0, dtype)
    opt.learning_rate = tf.Variable(1.0)
    assert [rate() for _ in range(4)] == [3.0] * 4
    del opt._decayed_lr
    assert [rate() for _ in range(4)] == [1.0] * 4


def test_a_subclass_makes_its_own_coefficients():
    class Counting(keras_legacy_opt.SGD):
        calls = 0

        def _decayed_lr(self, var_dtype):
            self.calls += 1
            return super()._decayed_lr(var_dtype) * self.calls

    var, opt = tf.Variable([0.0]), Counting(1.0)
    for _ in range(4):
        opt.apply_gradients([(tf.ones([1]), var)])
    np.testing.assert_array_equal(var, [-1.0 - 2.0 - 3.0 - 4.0])


class SeeingAll(keras_legacy_opt.SGD):
    """Its steps depend on all their variables, and change them before."""

    def _prepare(self, var_list):
        apply_state = super()._prepare(var_list)
        for c in apply_state.values():
            c["lr_t"] *= tf.cast(len(var_list), c["lr_t"].dtype)
        for var in var_list:
            var.assign_add(tf.ones_like(var))
        return apply_state


@pytest.mark.parametrize("around", [lambda opt: opt, addons.MovingAverage])
def test_a_subclass_prepares_for_all_variables(around, planned):
    opt = around(SeeingAll(0.5))
    a, b = tf.Variable([0.0]), keras.Variable([0.0, 0.0], name="b")
    for _ in range(4):
        opt.apply_gradients([(tf.ones(v.shape), v) for v in (a, b)])
    opt.apply_gradients([(tf.ones([1]), a)])
    np.testing.assert_array_equal(a, [4 * (1.0 - 2 * 0.5) + 1.0 - 0.5])
    np.testing.assert_array_equal(b, [4 * (1.0 - 2 * 0.5)] * 2)
    assert any(planned)


# What comes late is seen, as legacy sees it.


@pytest.mark.parametrize("steps_before", [0, 4])
@pytest.mark.parametrize("patched", ["instance", "class"])
@pytest.mark.parametrize("name", METHODS)
def test_overrides_that_come_late(name, patched, steps_before, monkeypatch):
    var, opt = tf.Variable([1.0]), keras_legacy_opt.Adam(0.1)
    as_ever = tf.Variable([1.0]), keras_legacy_opt.Adam(0.1)

    def step(var, opt):
        opt.apply_gradients([(tf.constant([0.5]), var)])

    for _ in range(steps_before):
        step(var, opt)
        step(*as_ever)
    step(*as_ever)
    owner = opt if patched == "instance" else keras_legacy_opt.Adam
    original, calls = getattr(owner, name), []

    @functools.wraps(original)  # Its `__module__`, too, is the original's.
    def override(*args, **kwargs):
        calls.append(name)
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, override)
        step(var, opt)
        assert calls
        np.testing.assert_array_equal(var, as_ever[0])
        calls.clear()
        tf.function(step)(var, opt)
        step(*as_ever)
        assert calls
        np.testing.assert_array_equal(var, as_ever[0])
    calls.clear()
    step(var, opt)
    step(*as_ever)
    assert not calls
    np.testing.assert_array_equal(var, as_ever[0])


def test_a_constraint_that_comes_late():
    var, opt = keras.Variable([1.0, -1.0]), keras_legacy_opt.SGD(0.5)

    def step():
        opt.apply_gradients([(tf.constant([1.0, 1.0]), var)])

    for _ in range(3):
        step()
    var.constraint = keras.constraints.NonNeg()
    step()
    np.testing.assert_array_equal(var, [0, 0])
    var.constraint = None
    step()
    np.testing.assert_array_equal(var, [-0.5, -0.5])


def test_overwriting_that_comes_late():
    var, opt = keras.Variable([1.0]), keras_legacy_opt.SGD(0.5)
    for _ in range(3):
        opt.apply_gradients([(tf.constant([1.0]), var)])
    var.overwrite_with_gradient = True
    opt.apply_gradients([(tf.constant([7.0]), var)])
    np.testing.assert_array_equal(var, [7.0])


def test_another_variable_inside_a_variable_of_keras():
    var, opt = keras.Variable([1.0]), keras_legacy_opt.SGD(0.5)
    for _ in range(3):
        opt.apply_gradients([(tf.constant([1.0]), var)])
    before, var._value = var._value, tf.Variable([8.0])
    opt.apply_gradients([(tf.constant([1.0]), var)])
    np.testing.assert_array_equal(before, [-0.5])
    np.testing.assert_array_equal(var, [7.5])


def test_other_slots():
    var, opt = tf.Variable([1.0]), keras_legacy_opt.SGD(0.5, momentum=0.5)
    for _ in range(3):
        opt.apply_gradients([(tf.constant([1.0]), var)])
    (row,) = opt._slots.values()
    before = row["momentum"].numpy()
    row["momentum"] = tf.Variable([0.0])
    var.assign([1.0])
    opt.apply_gradients([(tf.constant([1.0]), var)])
    np.testing.assert_array_equal(var, [0.5])
    opt._slots = {key: dict(row) for key, row in opt._slots.items()}
    for row in opt._slots.values():
        row["momentum"] = tf.Variable(before)
    opt.apply_gradients([(tf.constant([1.0]), var)])
    np.testing.assert_array_equal(var, [0.5 + 0.5 * before.item() - 0.5])


@pytest.mark.parametrize("replaced", [True, False])
@pytest.mark.parametrize(
    "kind", [np.float32, np.array, tf.constant, tf.Variable, float]
)
def test_another_epsilon(kind, replaced):
    """Of any kind, and changed in place where that is possible."""
    var, opt = tf.Variable([1.0]), keras_legacy_opt.Adagrad(1.0)
    opt.epsilon = kind(0.0)

    def step():
        var.assign([1.0])
        opt.get_slot(var, "accumulator").assign([0.75])
        opt.apply_gradients([(tf.constant([0.5]), var)])
        return 1.0 - var.numpy().item()

    opt.apply_gradients([(tf.constant([0.5]), var)])
    assert [step() for _ in range(4)] == [0.5] * 4
    if replaced:
        opt.epsilon = kind(1.0)
    elif kind is tf.Variable:
        opt.epsilon.assign(1.0)
    elif kind is np.array:
        opt.epsilon[...] = 1.0
    else:
        return  # It cannot be changed.
    assert [step() for _ in range(4)] == [0.25] * 4


def test_few_lists_are_remembered():
    """Of the subsets of variables that some train, there is no end."""
    variables = [tf.Variable([1.0]) for _ in range(40)]
    opt = keras_legacy_opt.SGD(0.5)
    for first, second in itertools.pairwise(variables):
        for _ in range(3):
            pairs = [(tf.ones([1]), first), (tf.ones([1]), second)]
            opt.apply_gradients(pairs)
    assert len(plan._plans[opt]) == plan.LISTS_KEPT
    gc.collect()
    groups = [g for g in fused.groups._groups.values() if len(g.members) == 2]
    assert len(groups) < 40 - 1
    assert [v.numpy().item() for v in variables[1:-1]] == [1 - 6 / 2] * 38


def test_classes_are_not_kept_alive():
    def train():
        class Made(keras_legacy_opt.Adam):
            def _resource_apply_dense(self, grad, var, apply_state=None):
                return super()._resource_apply_dense(grad, var, apply_state)

        var, opt = tf.Variable([1.0]), Made()
        for _ in range(3):
            opt.apply_gradients([(tf.ones([1]), var)])
        return weakref.ref(Made)

    made = train()
    gc.collect()
    assert made() is None


@pytest.mark.parametrize("name", [*(row.name for row in BUILT_IN), *OWN])
def test_a_refused_step_changes_nothing(name):
    """Neither a slot nor the iterations nor the momentum cache."""
    opt = OWN[name]() if name in OWN else getattr(keras_legacy_opt, name)(0.1)
    var, other = tf.Variable(tf.ones([2, 2])), tf.Variable(tf.ones([2, 2]))

    def rows(*indices):
        return tf.IndexedSlices(
            tf.ones([len(indices), 2]), tf.constant(indices)
        )

    good = tf.ones([2, 2])
    for _ in range(3):
        opt.apply_gradients([(good, var), (good, other)])
    before = [*opt.get_weights(), var.numpy(), other.numpy()]
    for first in (good, rows(0)):
        for bad in (
            tf.ones([3, 2]),
            tf.ones([2, 2], tf.float64),
            rows(2),
            rows(0, -1),
            tf.IndexedSlices(tf.ones([2, 2]), tf.constant([0])),
            tf.IndexedSlices(tf.ones([1, 2]), tf.constant([[0]])),
            tf.IndexedSlices(tf.ones([1, 2]), tf.constant([0.0])),
        ):
            with pytest.raises(tf.errors.InvalidArgumentError):
                opt.apply_gradients([(first, var), (bad, other)])
            after = [*opt.get_weights(), var.numpy(), other.numpy()]
            for a, b in zip(before, after, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [row.name for row in BUILT_IN])
def test_lists_of_different_dtypes_may_take_turns(name):
    """Also where variables of the optimizer have the dtype of one of them."""
    opt = getattr(keras_legacy_opt, name)(0.1)
    plain = getattr(keras_legacy_opt, name)(0.1)
    lists = [
        [tf.Variable(tf.ones([2], dtype)) for _ in range(2)]
        for dtype in (tf.float32, tf.float64, tf.float16)
    ]
    for _ in range(4):
        for var, other in lists:
            opt.apply_gradients([(tf.ones_like(var), var)])
            with fused.disabled():
                plain.apply_gradients([(tf.ones_like(other), other)])
            assert opt.iterations == plain.iterations
    for ours, expected in zip(opt.weights, plain.weights, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-2)
    if name == "Nadam":
        np.testing.assert_array_equal(opt._m_cache, plain._m_cache)


@pytest.mark.parametrize("module", ["keras_legacy_opt", "legacy"])
def test_tapes_see_hyperparameters_that_are_trained(module):
    module = {
        "keras_legacy_opt": keras_legacy_opt,
        "legacy": tf_keras.optimizers.legacy,
    }[module]
    rate, var = tf.Variable(0.5), tf.Variable([1.0])

    class Differentiable(module.SGD):
        def _resource_apply_dense(self, grad, var, apply_state=None):
            c = apply_state[var.device, var.dtype.base_dtype]
            self.value = var - c["lr_t"] * grad
            return var.assign(self.value)

    opt = Differentiable(rate)
    for _ in range(3):
        with tf.GradientTape() as tape:
            opt.apply_gradients([(tf.ones([1]), var)])
            value = tf.identity(opt.value)
        np.testing.assert_array_equal(tape.gradient(value, rate), -1.0)


def test_a_refused_step_asks_for_a_callable_once():
    """As a step of legacy does, whose op fails."""
    asked = []
    opt = keras_legacy_opt.SGD(lambda: asked.append(1) or 0.5)
    var = tf.Variable([1.0])
    for _ in range(3):
        opt.apply_gradients([(tf.ones([1]), var)])
    asked.clear()
    with pytest.raises(tf.errors.InvalidArgumentError):
        opt.apply_gradients([(tf.ones([2]), var)])
    assert len(asked) <= 1
    np.testing.assert_array_equal(var, [1.0 - 3 * 0.5])


def test_transformers_and_clipping_that_come_late():
    var, opt = tf.Variable([1.0]), keras_legacy_opt.SGD(1.0)

    def step():
        var.assign([0.0])
        opt.apply_gradients([(tf.constant([4.0]), var)])
        return -var.numpy().item()

    assert [step() for _ in range(3)] == [4.0] * 3
    opt.gradient_transformers.append(
        lambda pairs: [(g / 2.0, v) for g, v in pairs]
    )
    assert step() == 2.0
    opt.gradient_transformers.clear()
    opt.clipvalue = 1.0
    assert step() == 1.0
    opt.clipvalue = None
    assert [step() for _ in range(3)] == [4.0] * 3


def test_a_variable_of_changing_shape_is_checked_first():
    var = tf.Variable(tf.ones([2]), shape=tf.TensorShape(None))
    other, opt = tf.Variable([1.0]), keras_legacy_opt.SGD(0.5)
    for _ in range(2):
        with pytest.raises(tf.errors.InvalidArgumentError):
            opt.apply_gradients([(tf.ones([1]), other), (tf.ones([3]), var)])
        np.testing.assert_array_equal(other, [1.0])
        np.testing.assert_array_equal(var, [1.0, 1.0])
    opt.apply_gradients([(tf.ones([1]), other), (tf.ones([2]), var)])
    np.testing.assert_array_equal(var, [0.5, 0.5])


def test_no_optimizer_is_kept_alive():
    """By what it holds, and what holds it."""

    def train(**attributes):
        var, opt = tf.Variable([1.0]), keras_legacy_opt.SGD(0.5)
        for name, value in attributes.items():
            setattr(opt, name, value(opt))
        for _ in range(4):
            opt.apply_gradients([(tf.ones([1]), var)])
        return weakref.ref(opt)

    references = [
        train(),
        train(owner=lambda opt: {"optimizer": opt}),
        train(learning_rate=lambda opt: lambda: 0.5 if opt else 1.0),
        train(_decayed_lr=lambda opt: lambda dtype: opt and tf.ones([], dtype)),
    ]
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


# What variables have of their own.


def change_own(optimizer, step):
    if step == 3:
        optimizer.learning_rate_factors = {"a": 2.0, "c": 0.25}
    if step == 4 and hasattr(optimizer, "exclude_from_weight_decay"):
        optimizer.exclude_from_weight_decay = ["c"]
    if step == 5 and hasattr(optimizer, "exclude_from_weight_decay"):
        optimizer.exclude_from_weight_decay.append("a")
    if step == 6 and hasattr(optimizer, "weight_decay"):
        optimizer.weight_decay = keras_legacy_opt.schedules.ExponentialDecay(
            0.1, 2, 0.5
        )


@pytest.mark.parametrize("options", [{}, SELECTING], ids=["alike", "differ"])
@pytest.mark.parametrize("name", OWN)
def test_own_values_are_planned(name, options, monkeypatch):
    """As steps without a plan, whatever is set in between."""
    results, taken = [], []
    run = plan.Plan.run

    def counted(*args):
        taken.append(run(*args))
        return taken[-1]

    monkeypatch.setattr(plan.Plan, "run", counted)
    for is_planned in (True, False):
        optimizer = OWN[name](**options)
        if not is_planned:
            own_of = optimizer._own_of
            optimizer._own_of = lambda *args, own_of=own_of: own_of(*args)
        variables = [tf.Variable([1.0, 2.0], name=name) for name in "abc"]
        rng = np.random.default_rng(0)
        for step in range(9):
            change_own(optimizer, step)
            optimizer.apply_gradients(
                [
                    (tf.constant(rng.normal(size=2), tf.float32), v)
                    for v in variables
                ]
            )
        results.append([v.numpy() for v in [*variables, *optimizer.weights]])
        # LAMB's exclusions take an op for each kind.
        several_ops = name == "LAMB" and options
        assert any(taken) == (is_planned and not several_ops)
        taken.clear()
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_a_predicate_or_a_list_of_variables_has_no_plan(calls):
    """What they say may be another thing in each step."""
    first, second = tf.Variable([1.0], name="a"), tf.Variable([1.0], name="b")
    excluded = set()
    optimizer = addons.SGDW(
        0.5, 0.0, exclude_from_weight_decay=lambda v: v.name[0] in excluded
    )

    def step(**arguments):
        pairs = [(tf.zeros([1]), v) for v in (first, second)]
        optimizer.apply_gradients(pairs, **arguments)
        values = float(first[0]), float(second[0])
        first.assign([1.0])
        second.assign([1.0])
        return values

    assert [step() for _ in range(3)] == [(0.5, 0.5)] * 3
    excluded.add("a")
    assert step() == (1.0, 0.5)
    optimizer.exclude_from_weight_decay = None
    assert [step() for _ in range(3)] == [(0.5, 0.5)] * 3
    assert step(decay_var_list=[first]) == (0.5, 1.0)
    assert step() == (0.5, 0.5)

    class Never(addons.SGDW):
        def _do_use_weight_decay(self, var):
            return False

    optimizer = Never(0.5, 0.0)
    assert [step() for _ in range(3)] == [(1.0, 1.0)] * 3
