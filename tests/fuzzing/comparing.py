"""Runs a case with this package and with legacy, and compares every step."""

import cases
import numpy as np
import stepping
from registry import LEGACY, SUBJECT
from test_fused_equals_plain import Pair, tolerance_of_any
from test_parity import in_ulp, xla_limit

from keras_legacy_opt import fused


def _by_legacy(run, *args, **kwargs):
    """What legacy makes of a case; None if legacy refuses it."""
    try:
        with np.errstate(all="ignore"):
            return run(*args, **kwargs)
    except Exception:
        return None


def _assert_equal_bits(ours, legacy, where):
    assert ours.dtype == legacy.dtype, where
    assert ours.shape == legacy.shape, where
    with np.errstate(all="ignore"):
        nan = (ours != ours) & (legacy != legacy)
        same = (ours == legacy) & (np.signbit(ours) == np.signbit(legacy))
    assert (same | nan).all(), (
        f"{where}: {ours[~(same | nan)]} is not {legacy[~(same | nan)]}"
    )


def _assert_equal_records(ours, legacy):
    for step, (our, their) in enumerate(zip(ours, legacy, strict=True)):
        assert list(our) == list(their)
        for name, value in their.items():
            _assert_equal_bits(our[name], value, f"{name} in step {step + 1}")


def _compare(case: cases.Case, run, **kwargs) -> bool:
    problem = case.problem()
    legacy = _by_legacy(run, lambda: case.build(LEGACY), *problem, **kwargs)
    if legacy is None:
        return False
    with fused.disabled():
        ours = run(lambda: case.build(SUBJECT), *problem, **kwargs)
    _assert_equal_records(ours, legacy)
    return True


# Each of the following takes a case, and returns whether legacy does.


def eager(case: cases.Case) -> bool:
    return _compare(case, stepping.run_eagerly)


def function(case: cases.Case) -> bool:
    return _compare(case, stepping.run_in_function)


def graph(case: cases.Case) -> bool:
    return _compare(case, stepping.run_in_graph)


def _legacy_states(case):
    return _by_legacy(
        stepping.run_eagerly, lambda: case.build(LEGACY), *case.problem()
    )


def xla(case: cases.Case) -> bool:
    """For dense gradients, which legacy compiles, too."""
    states = _legacy_states(case)
    if states is None:
        return False
    return _compare(case, stepping.run_with_xla, states=states)


def xla_within_limits(case: cases.Case) -> bool:
    """For sparse gradients only, by which legacy updates eagerly."""
    states = _legacy_states(case)
    if states is None:
        return False
    initial, _ = problem = case.problem()
    ours = stepping.run_with_xla(
        lambda: case.build(SUBJECT), *problem, states=states
    )
    before = {f"{name}:0": value for name, value in initial.items()}
    for step, (our, their) in enumerate(zip(ours, states, strict=True)):
        assert list(our) == list(their)
        for name, value in their.items():
            where = f"{name} in step {step + 1}"
            if value.dtype.kind == "i" or not value.size:
                _assert_equal_bits(our[name], value, where)
                continue
            *_, kind = parts = name.removesuffix(":0").split("/")
            variable = next((part for part in parts if part in initial), None)
            limit = xla_limit(
                case.optimizer,
                "variable" if kind == variable else kind,
                value.dtype,
                is_sparse=True,
            )
            old = before.get(name, np.zeros_like(value))
            terms = np.stack([old, value]).astype(np.float64)
            error = our[name].astype(np.float64) - terms[1]
            ulp = in_ulp(error, terms, value.dtype)
            assert ulp <= limit, f"{where}: {ulp} ulp"
        before = their
    return True


def native(case: cases.Case) -> bool:
    """The native ops, eagerly, against TensorFlow's, which `eager` compares."""
    if _legacy_states(case) is None:
        return False
    initial, gradients = case.problem()
    pair = Pair(lambda: case.build(SUBJECT), initial)
    ulp = tolerance_of_any(case.optimizer, case.all_arguments)
    with np.errstate(all="ignore"):
        for grads in gradients:
            pair.step(grads, lambda _: ulp)
    return True
