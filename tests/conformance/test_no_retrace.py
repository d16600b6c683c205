"""One trace serves while everything that may change changes."""

import numpy as np
import pytest
import stepping
import tensorflow as tf
from registry import NATIVE, SUBJECT, WRAPPERS, Case

from keras_legacy_opt.addons import wrapper

CLIPS = [
    {},
    {"clipvalue": 0.9},
    {"clipnorm": 0.9},
    {"global_clipnorm": 0.9},
]


def change(optimizer):
    """Overwrites every hyperparameter that is a number, and the clip values."""
    changed = []
    for each in wrapper.all_inside(optimizer):
        for name in [*each._hyper, "clipvalue", "clipnorm", "global_clipnorm"]:
            value = getattr(each, name)
            if value is None:
                continue
            is_count = isinstance(each.get_config().get(name), int)
            setattr(each, name, int(value) + 1 if is_count else 0.8 * value)
            changed.append(name)
    optimizer.iterations.assign_add(3)
    return changed


def run(optimizer, wrap):
    """Returns the records, the traces after the first call, what was changed.

    The first call may trace twice: once creating variables, once without.
    """
    variables = stepping.make_variables(INITIAL)
    traces = []

    @wrap
    def step(grads):
        traces.append(grads)
        optimizer.apply_gradients([(grads[k], variables[k]) for k in variables])

    records, changed = [], []
    for i, grads in enumerate(GRADIENTS):
        step({name: stepping.as_tensor(grad) for name, grad in grads.items()})
        records.append(stepping.record(variables, optimizer))
        if i == 0:
            traces.clear()
        if i % 2:
            changed = change(optimizer)
    return records, traces, changed


INITIAL, GRADIENTS = stepping.problem("no retrace", "float32", "few")


# Clipping is the same for all optimizers.
CASES = [
    (row, clip, jit_compile)
    for row in (*NATIVE, *WRAPPERS)
    for clip in CLIPS
    for jit_compile in (False, True)
    if row.name == "SGD" or not clip
]


@pytest.mark.parametrize(
    ("row", "clip", "jit_compile"),
    CASES,
    ids=lambda value: getattr(value, "name", None) or str(value),
)
def test_no_retrace(row, clip, jit_compile):
    case = Case(row, "momentum" if "momentum" in row.options else "plain")
    optimizers = wrapper.all_inside(case.build(SUBJECT))
    hypers = {name for each in optimizers for name in each._hyper}
    arguments = {**clip, "decay": 0.3} if "decay" in hypers else clip

    traced, new_traces, changed = run(
        case.build(SUBJECT, **arguments),
        lambda f: tf.function(f, jit_compile=jit_compile),
    )
    assert not new_traces
    assert {*hypers, *clip} == set(changed)

    eager, _, _ = run(case.build(SUBJECT, **arguments), lambda f: f)
    for step, (ours, expected) in enumerate(zip(traced, eager, strict=True)):
        for name, value in expected.items():
            # Traces may round otherwise; a change that is missed is 20 percent.
            np.testing.assert_allclose(
                ours[name],
                value,
                rtol=1e-5,
                atol=1e-5 * np.abs(value).max(),
                err_msg=f"{name} after step {step + 1}",
            )
