"""What an optimizer's declaration says agrees with what there is."""

import inspect

import numpy as np
import pytest
import stepping
import tensorflow as tf
from registry import (
    ADDONS,
    ALL_DTYPES,
    BUILT_IN,
    LEGACY,
    NATIVE,
    SUBJECT,
    own_cases,
)

import keras_legacy_opt
from keras_legacy_opt import addons, backends
from keras_legacy_opt.backends.composed import Composed
from keras_legacy_opt.backends.kernels import Kernels
from keras_legacy_opt.backends.native import NativeCPU, NativeGPU
from keras_legacy_opt.checkpoints import optimizers
from keras_legacy_opt.rules.formula import (
    VARIABLE,
    Idle,
    Values,
    formula_of,
    rule_of,
)
from keras_legacy_opt.step.update import Step

CASES = own_cases((*BUILT_IN, *ADDONS))
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_native_case = pytest.mark.parametrize("case", own_cases(NATIVE), ids=str)


def names_of(op, besides):
    return set(inspect.signature(op).parameters) - {*besides, "name"}


class Averages(Values):
    """Values that know which of them an update averaged."""

    def average(self, slot, x, decay, weight):
        self.names = {*getattr(self, "names", ()), slot}
        return super().average(slot, x, decay, weight)


@every_case
def test_slots_and_idle_rows(case):
    optimizer = case.build(SUBJECT)
    formula = formula_of(optimizer)
    assert formula.slots == case.option.slots
    variable = tf.Variable([1.0])
    optimizer._create_all_weights([variable])
    state = Averages(dict.fromkeys((VARIABLE, *formula.slots), tf.ones(1)))
    c = optimizer._prepare([variable])[variable.device, tf.float32]
    formula.update(state, tf.ones(1), c)
    averages = getattr(state, "names", ())
    if formula.densifies:  # An update of all rows, if not of averages.
        averages = formula.slots
    idle = {
        Idle.NOTHING: (),
        Idle.SLOTS: averages,
        Idle.EVERYTHING: ("variable", *averages),
    }
    # A maximum does not change where what it is of decays.
    changed = {*idle[formula.idle], *formula.scalars} - {"vhat"}
    assert changed == {*case.option.everywhere}


@every_case
def test_files_tell_the_class_by_the_slots(case):
    rule = rule_of(case.build(SUBJECT))
    slots = frozenset(case.option.slots)
    assert slots in {frozenset(formula.slots) for formula in rule.formulas()}
    if slots and not rule.also:  # Nadam's have a variable besides.
        assert case.row.name in optimizers._by_slots()[slots]


@every_native_case
def test_inputs_of_native_ops(native_ops, case):
    native = formula_of(case.build(SUBJECT)).native
    declared = {*native.slots, *native.coefficients}
    shared = {
        *("var", "grad", "transform", "condition", "use_locking"),
        *("per_variable", "average", "average_weight"),
    }
    for op, own in (
        (native.op, {*native.slots}),
        (f"group_{native.op}", {"group"}),
        (f"sparse_{native.op}", {"indices", "variable_name", *native.slots}),
    ):
        given = names_of(getattr(native_ops, op), shared)
        assert given == own | {*native.coefficients}, op
    assert len(declared) == len(native.slots) + len(native.coefficients)
    inputs = native_ops.inputs(native.op)
    assert set(inputs[1 : 1 + len(native.slots)]) == {*native.slots}
    # A factor of the learning rate is multiplied in Python, or in the op.
    assert native.coefficients["lr"] in ("lr_t", "lr")


@every_case
def test_inputs_of_kernels(case):
    kernel = formula_of(case.build(SUBJECT)).kernel
    if kernel is None:
        return
    for prefix in ("Resource", "ResourceSparse")[: 1 + kernel.is_sparse]:
        op = getattr(tf.raw_ops, f"{prefix}Apply{kernel.name}")
        optional = {
            "indices",
            "multiply_linear_by_lr",
            "update_slots",
            "use_locking",
            "use_nesterov",
        } - {*kernel.attributes}
        assert names_of(op, optional) == {
            "var",
            kernel.gradient,
            *kernel.slots,
            *kernel.coefficients,
            *kernel.attributes,
        }


@every_case
def test_configuration(case):
    optimizer = case.build(SUBJECT)
    rule = rule_of(optimizer)
    hypers = [rule.called.get(name, name) for name in rule.hypers]
    declared = ["name", *hypers, *rule.options]
    if "_declaration" not in vars(type(optimizer)):  # It has some besides.
        assert {*declared} < {*optimizer.get_config()}
        return
    assert list(optimizer.get_config()) == declared
    assert {*rule.hypers} == {*optimizer._hyper}


def run_with(backend, monkeypatch, case, dtype, kind, wrap=lambda f: f):
    monkeypatch.setattr(backends, "BACKENDS", [backend])
    problem = stepping.problem(str(case), dtype, kind)
    return stepping.run_eagerly(lambda: case.build(SUBJECT), *problem, wrap)


def assert_close(ours, expected, dtype, steps=3):
    eps = np.finfo(tf.as_dtype(dtype).as_numpy_dtype().real.dtype).eps
    for our, their in zip(ours[:steps], expected[:steps], strict=True):
        assert list(our) == list(their)
        for name, value in their.items():
            limit = 300 * eps * np.abs(value).max(initial=1e-30)
            np.testing.assert_allclose(
                our[name], value, rtol=0, atol=limit, err_msg=name
            )


class Any(Kernels):
    """TensorFlow's ops where there are any, else those composed."""

    def refuses(self, step, update):
        return None

    def run(self, step, updates):
        lacks = self.lacks(step, updates[0]) is not None
        return (Composed() if lacks else super()).run(step, updates)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (case, dtype)
        for case in CASES
        for dtype in ("float32", "complex128")
        if {dtype} <= {*case.option.dense, *case.option.sparse} <= {*ALL_DTYPES}
    ],
    ids=str,
)
def test_the_function_computes_what_the_ops_do(monkeypatch, case, dtype):
    """Dense and sparse, real and complex: one function of tensors."""
    kind = stepping.kind_for(case, dtype)
    composed = run_with(Composed(), monkeypatch, case, dtype, kind)
    expected = run_with(Any(), monkeypatch, case, dtype, kind)
    assert_close(composed, expected, dtype)


@every_case
def test_the_function_is_pure(case, rng):
    """And what it returns is what a native step assigns."""
    optimizer, other = case.build(SUBJECT), case.build(SUBJECT)
    variable = tf.Variable(rng.standard_normal(5), name="variable")
    for each in (optimizer, other):
        each._create_all_weights([variable])
    formula = formula_of(optimizer)
    c = other._prepare([variable])[variable.device, tf.float64]
    state = {VARIABLE: tf.constant(variable)}
    decay = Step(optimizer).own(variable).decay
    if decay is not None:
        state[VARIABLE] -= decay * state[VARIABLE]
    for slot in formula.slots:
        state[slot] = tf.constant(optimizer.get_slot(variable, slot))
    grad = tf.constant(rng.standard_normal(5))
    before = {name: value.numpy() for name, value in state.items()}
    new = formula.step(state, grad, c)
    for name, value in state.items():
        np.testing.assert_array_equal(value, before[name])
    optimizer.apply_gradients([(grad, variable)])
    for name, value in new.items():
        own = variable
        if name != VARIABLE:
            own = optimizer.get_slot(variable, name)
        np.testing.assert_allclose(value, own, rtol=1e-12, atol=1e-15)


def test_the_order_of_the_backends():
    kinds = [type(backend) for backend in backends.BACKENDS]
    assert kinds[:4] == [NativeCPU, NativeGPU, Kernels, Composed]


def complex_step(optimizer, sparse):
    """Takes one, of a complex variable; returns what it is then."""
    variable = tf.Variable(tf.constant([[1 + 1j], [2j]], tf.complex64))
    gradient = tf.constant([[1 + 2j], [3j]], tf.complex64)
    if sparse:
        gradient = tf.IndexedSlices(gradient[:1], tf.constant([1]), [2, 1])
    optimizer.apply_gradients([(gradient, variable)])
    return variable.numpy()


@every_case
@pytest.mark.parametrize("sparse", [False, True])
def test_complex_variables_are_updated_or_refused(case, sparse):
    """In words, and where legacy has no kernel, either."""
    optimizer = case.build(SUBJECT)
    if not formula_of(optimizer).is_real:
        assert np.isfinite(complex_step(optimizer, sparse)).all()
        return
    for refusing in (
        optimizer,
        addons.Lookahead(case.build(SUBJECT)),
    ):
        with pytest.raises(ValueError, match="Invalid type complex64 for 'Var"):
            complex_step(refusing, sparse)
        assert [w for w in refusing.weights if w.shape.rank] == []
    if case.row in BUILT_IN:
        with pytest.raises(tf.errors.InvalidArgumentError):
            complex_step(case.build(LEGACY), sparse)


def test_overridden_updates_decide_themselves():
    class Mine(keras_legacy_opt.Adamax):
        def _resource_apply_dense(self, grad, var, apply_state=None):
            return var.assign_sub(grad)

    np.testing.assert_array_equal(
        complex_step(Mine(), sparse=False), np.complex64([[-1j], [-1j]])
    )
