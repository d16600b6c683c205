"""Every optimizer computes what tf_keras' legacy one computes.

Eager execution, functions and TF1 graphs run the same TensorFlow kernels in the
same order: all bits agree.  XLA compiles kernels of its own; there, each step
is compared from the same state.
"""

import ml_dtypes
import numpy as np
import pytest
import stepping
from registry import (
    ALL_DTYPES,
    BUILT_IN,
    LEGACY,
    SUBJECT,
    common_cases,
    own_cases,
)

FLOAT32_AND_64 = ("float32", "float64")
# tests/fused compares the native ops with what is compared here with legacy.
pytestmark = pytest.mark.usefixtures("plain_path")

OWN = [
    (case, dtype)
    for case in own_cases()
    for dtype in (FLOAT32_AND_64 if case.row.double else ALL_DTYPES)
    if stepping.kind_for(case, dtype)
]
COMMON = [(case, "float32") for case in common_cases()]

# XLA compiles each optimizer for every dtype, and every option for float32.
XLA = [(case, "float32") for case in own_cases()] + [
    (next(c for c, d in OWN if c.row is row and d == dtype), dtype)
    for row in BUILT_IN
    for dtype in ALL_DTYPES
    if any(c.row is row and d == dtype for c, d in OWN) and dtype != "float32"
]

every_case = pytest.mark.parametrize(
    ("case", "dtype"), [*OWN, *COMMON], ids=str
)


def assert_equal_records(ours, legacy):
    assert len(ours) == len(legacy) == stepping.STEPS
    for step, (our, their) in enumerate(zip(ours, legacy, strict=True)):
        assert list(our) == list(their)  # the same names in the same order
        for name in their:
            assert our[name].dtype == their[name].dtype, name
            np.testing.assert_array_equal(
                our[name], their[name], err_msg=f"{name} after step {step + 1}"
            )


def assert_trained(records, kind):
    """Guards the other assertions: something must have happened."""
    first, last = records[0], records[-1]
    assert len(records) == stepping.STEPS
    for name in stepping.KINDS[kind]:
        assert np.isfinite(last[f"{name}:0"]).all()
        assert (first[f"{name}:0"] != last[f"{name}:0"]).any()


@every_case
def test_eager(case, dtype):
    kind = stepping.kind_for(case, dtype)
    legacy = stepping.legacy_eager_records(case, dtype, kind)
    assert_trained(legacy, kind)
    problem = stepping.problem(str(case), dtype, kind)
    ours = stepping.run_eagerly(lambda: case.build(SUBJECT), *problem)
    assert_equal_records(ours, legacy)


@pytest.mark.parametrize("kind", ["dense", "sparse", "alternating"])
@pytest.mark.parametrize("case", own_cases(), ids=str)
def test_eager_kinds(case, kind):
    legacy = stepping.legacy_eager_records(case, "float32", kind)
    assert_trained(legacy, kind)
    problem = stepping.problem(str(case), "float32", kind)
    ours = stepping.run_eagerly(lambda: case.build(SUBJECT), *problem)
    assert_equal_records(ours, legacy)


def assert_traced_equal(case, dtype, run):
    kind = stepping.kind_for(case, dtype)
    problem = stepping.problem(str(case), dtype, kind)
    ours, legacy = (
        run(lambda library=library: case.build(library), *problem)
        for library in (SUBJECT, LEGACY)
    )
    # Grappler rounds otherwise than eager execution does, but alike in both.
    assert_equal_records(ours, legacy)


@every_case
def test_function(case, dtype):
    assert_traced_equal(case, dtype, stepping.run_in_function)


# What optimizers have in common is traced alike in functions and graphs.
@pytest.mark.parametrize(("case", "dtype"), OWN, ids=str)
def test_graph(case, dtype):
    assert_traced_equal(case, dtype, stepping.run_in_graph)


# What XLA may round differently in one step, in units of the last place of the
# largest value of an array: 2, and more where TensorFlow's own dense kernel for
# XLA parts from its eager one: `test_xla_dense` finds its bits to be legacy's.
# Sparse gradients of other dtypes than float32 and float64 may do so, too.
XLA_ULP = 2
# The XLA of TensorFlow 2.16 does not round inside a fusion: 1 - beta_1 differs.
XLA_ULP_OF_BFLOAT16 = 8
LOOSER_XLA_ULP = {
    # The square of a product of a gradient, a root and a reciprocal root, for
    # which XLA or Eigen may have an approximation that Newton's method refines.
    # In halves of the machine epsilon, TensorFlow's kernel rounds the root by
    # 1, the reciprocal one by 4, the products by 2; XLA by 1, 2 and 2. That is
    # 12, squared 24; a square, product and sum on both sides add 6. One half is
    # at most one unit of the last place.
    ("Adadelta", "accum_var"): 30,
    # The square of a gradient that was divided by a norm.
    ("AdamWeightDecay", "v"): 6,
    # A difference of two powers, divided by the learning rate.
    ("Ftrl", "linear"): 4,
    ("Ftrl", "variable"): 4,
}


def xla_limit(optimizer, kind, dtype, is_sparse):
    """By how many ulp a slot or "variable" may differ after a step of XLA."""
    is_bfloat16 = dtype.name == "bfloat16"
    limit = XLA_ULP_OF_BFLOAT16 if is_bfloat16 else XLA_ULP
    key = optimizer, kind
    if (
        not is_sparse
        or dtype.name not in FLOAT32_AND_64
        or key == ("Adadelta", "accum_var")
    ):
        limit = max(limit, LOOSER_XLA_ULP.get(key, 0))
    return limit


def in_ulp(difference, values, dtype):
    """Measures a difference by the spacing at the largest of some values."""
    eps = float(ml_dtypes.finfo(np.zeros(0, dtype).real.dtype).eps)
    largest = np.abs(values).max()
    if largest == 0:
        return np.abs(difference).max() / np.finfo(np.float64).tiny
    return np.abs(difference).max() / (eps * 2.0 ** np.floor(np.log2(largest)))


def assert_close_records(ours, legacy, case):
    assert len(ours) == len(legacy) == stepping.STEPS
    for step, (our, their) in enumerate(zip(ours, legacy, strict=True)):
        assert list(our) == list(their)
        for name, value in their.items():
            dtype = value.dtype
            assert our[name].dtype == dtype
            if dtype.kind == "i":
                np.testing.assert_array_equal(our[name], value)
                continue
            *_, kind = parts = name.removesuffix(":0").split("/")
            limit = xla_limit(
                case.row.name,
                "variable" if kind in stepping.SHAPES else kind,
                dtype,
                is_sparse=set(parts) & set(stepping.SPARSE),
            )
            wide = np.complex128 if dtype.kind == "c" else np.float64
            difference = our[name].astype(wide) - value.astype(wide)
            ulp = in_ulp(difference, value.astype(wide), dtype)
            assert ulp <= limit, f"{name} after step {step + 1}"


@pytest.mark.parametrize(("case", "dtype"), XLA, ids=str)
def test_xla(case, dtype):
    # Few variables, which take long to compile.
    kind = stepping.kind_for(case, dtype).replace("mixed", "few")
    legacy = stepping.legacy_eager_records(case, dtype, kind)
    problem = stepping.problem(str(case), dtype, kind)
    ours = stepping.run_with_xla(
        lambda: case.build(SUBJECT), *problem, states=legacy
    )
    assert_close_records(ours, legacy, case)


@pytest.mark.parametrize(
    "case",
    # XLA has no kernel for amsgrad: legacy cannot be compiled there.
    [case for case in own_cases() if case.option_name != "amsgrad"],
    ids=str,
)
def test_xla_dense(case):
    """The same kernels of XLA run as for legacy: all bits agree."""
    problem = stepping.problem(str(case), "float32", "dense")
    states = stepping.legacy_eager_records(case, "float32", "dense")
    ours, legacy = (
        stepping.run_with_xla(
            lambda library=library: case.build(library), *problem, states=states
        )
        for library in (SUBJECT, LEGACY)
    )
    assert_equal_records(ours, legacy)
