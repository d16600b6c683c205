"""Every optimizer computes what its paper says: NumPy's float64 agrees."""

import numpy as np
import pytest
import reference
import stepping
from reference.wrappers import accumulated
from registry import (
    ADDONS,
    BUILT_IN,
    ROWS,
    SUBJECT,
    WRAPPERS,
    Case,
    own_cases,
)

# What a step may round, in units of the last place of the largest value of an
# array: each of the about ten operations of an update once, in every step.
ULP_PER_STEP = 10

ACCUMULATED = "accumulated_gradient"
UNCOMPARED = (
    "Nadam/momentum_cache:0",
    "GradientAccumulation/accumulated:0",
    f"/{ACCUMULATED}:0",
)

COMMON = [
    Case(row, option)
    for row in BUILT_IN
    for option in (
        "decay",
        "clipvalue",
        "clipnorm",
        "global clipnorm",
        "clipvalue and clipnorm",
    )
]
CASES = [*own_cases((*BUILT_IN, *ADDONS, *WRAPPERS)), *COMMON]
DEFAULTS = {
    "clipnorm": None,
    "clipvalue": None,
    "decay": 0.0,
    "global_clipnorm": None,
    "schedule_decay": 0.004,
}


def options_of(case):
    options = {**DEFAULTS, **case.arguments()}
    if callable(options.get("momentum")):
        options["momentum"] = options["momentum"]()
    if case.row.name == "Nadam":
        options["decay"] = 0.0  # Legacy ignores it.
    return options


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference(case, dtype):
    initial, gradients = stepping.problem(str(case), dtype, "mixed")
    optimizer = case.build(SUBJECT)
    ours = stepping.run_eagerly(lambda: optimizer, initial, gradients)
    option = case.option
    slots = [name for name in option.slots if name != ACCUMULATED]
    if case.row.accumulates > 1:
        gradients = accumulated(gradients, case.row.accumulates)
    expected = reference.train(
        case.row.reference or reference.UPDATES[case.row.name],
        initial,
        gradients,
        options_of(case),
        slots,
        option.everywhere,
    )
    eps = np.finfo(dtype).eps
    scale = dict.fromkeys(expected[0], 0.0)
    for step, (record, state) in enumerate(
        zip(ours, expected, strict=True), start=1
    ):
        counts = [record.pop(k) for k in [*record] if k.endswith("/iter:0")]
        assert {*counts} == {step // case.row.accumulates}
        record = {k: v for k, v in record.items() if not k.endswith(UNCOMPARED)}
        assert len(record) == len(state)
        for (variable, slot), value in state.items():
            name = f"{variable}:0"
            if slot != "variable":
                if not counts[0]:
                    continue
                (name,) = (
                    k for k in record if k.endswith(f"/{variable}/{slot}:0")
                )
            largest = scale[variable, slot]
            largest = max(largest, np.abs(value).max())
            scale[variable, slot] = largest
            np.testing.assert_allclose(
                record[name].astype(np.float64),
                value,
                rtol=0,
                atol=ULP_PER_STEP * step * eps * largest,
                err_msg=f"{name} after step {step}",
            )


@pytest.mark.parametrize(
    "case", own_cases((*ROWS, *ADDONS, *WRAPPERS)), ids=str
)
def test_rows_without_a_gradient(case):
    """The registry says what changes outside the rows of a gradient."""
    _, gradients = stepping.problem(str(case), "float32", "sparse")
    records = stepping.run_eagerly(
        lambda: case.build(SUBJECT),
        *stepping.problem(str(case), "float32", "sparse"),
    )
    changed = set()
    for before, after, grads in zip(
        records, records[1:], gradients[1:], strict=False
    ):
        for name, new in after.items():
            *path, last = name.removesuffix(":0").split("/")
            variable, slot = (last, "variable")
            if last not in grads:
                variable, slot = (path[-1], last) if path else ("", last)
            if variable not in grads:
                continue
            others = ...
            if new.ndim:  # Not a number for the whole variable.
                others = np.ones(len(new), bool)
                others[grads[variable][1]] = False
            if (before[name][others] != new[others]).any():
                changed.add(slot)
    assert changed == set(case.option.everywhere)
