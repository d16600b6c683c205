"""The native ops compute what the optimizers' own path computes.

Each step starts from the same state. float32 and float64 agree in every bit,
but for the rows of EXCEPTIONS. The 16-bit types round once per step natively
and after every operation otherwise: they agree to a few of their roundings.
"""

import zlib

import numpy as np
import pytest
import stepping
import tensorflow as tf
from registry import BUILT_IN, FLOATS, SUBJECT, Case, common_cases, own_cases

from keras_legacy_opt import fused

SHAPES = {
    "matrix": (37, 19),
    "vector": (101,),
    "scalar": (),
    "empty": (0, 3),
    "table": (50, 7),
    "column": (60,),
}
SPARSE = {"table": np.int32, "column": np.int64}
STEPS = 5

# (start of the case, kind of variable): where TensorFlow's kernels round
# otherwise than ours, and why.
EXCEPTIONS = {
    # Eigen's float32 reciprocal root is an approximation, refined once; ours
    # is a division by the root.
    ("Adadelta", "dense float32"),
    # For rows of one element, TensorFlow has a formula of its own, which uses
    # powers where the one for longer rows, and ours, uses roots.
    ("Ftrl", "column"),
    # Eigen's vectorised power differs from the C library's in the last bit,
    # and the difference of two powers magnifies it.
    ("Ftrl-learning_rate_power", "any"),
    ("Ftrl-all", "any"),
}

CASES = [
    *((case, dtype) for case in own_cases(BUILT_IN) for dtype in FLOATS),
    *((case, "float32") for case in common_cases(BUILT_IN)),
]


def is_exception(case: Case, dtype: str, variable: str) -> bool:
    kinds = {
        "any",
        variable,
        f"{'sparse' if variable in SPARSE else 'dense'} {dtype}",
    }
    return any(
        str(case).startswith(start) and kind in kinds
        for start, kind in EXCEPTIONS
    )


def gradients(rng, dtype):
    for name, shape in SHAPES.items():
        if name not in SPARSE:
            yield name, stepping.random_array(rng, shape, dtype)
            continue
        indices = rng.integers(0, shape[0], 17).astype(SPARSE[name])
        values = stepping.random_array(rng, (17, *shape[1:]), dtype)
        yield name, (values, indices)


def assert_close(ours, plain, before, dtype, exact, message):
    if exact:
        np.testing.assert_array_equal(ours, plain, message)
        return
    # Errors are relative to the largest number that went into a sum.
    ours, plain, before = (
        x.astype(np.float64) for x in (ours, plain, before)
    )
    epsilon = float(tf.experimental.numpy.finfo(dtype).eps)
    scale = np.maximum(np.maximum(abs(plain), abs(before)), 1e-2)
    roundings = 4 if dtype in ("float32", "float64") else 16
    assert (abs(ours - plain) <= roundings * epsilon * scale).all(), (
        message,
        (abs(ours - plain) / (epsilon * scale)).max(),
    )


def legacy_takes(case: Case, dtype: str) -> bool:
    return dtype in case.option.dense and dtype in case.option.sparse


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, dtype) for case, dtype in CASES if legacy_takes(case, dtype)],
    ids=str,
)
def test_fused_equals_plain(native_ops, case, dtype):
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    initial = {
        name: stepping.random_array(rng, shape, dtype)
        for name, shape in SHAPES.items()
    }
    native, plain = case.build(SUBJECT), case.build(SUBJECT)
    native_vars = stepping.make_variables(initial)
    plain_vars = stepping.make_variables(initial)
    moved = False
    for step in range(STEPS):
        grads = {k: stepping.as_tensor(g) for k, g in gradients(rng, dtype)}
        native.apply_gradients([(grads[k], native_vars[k]) for k in grads])
        with fused.disabled():
            plain.apply_gradients([(grads[k], plain_vars[k]) for k in grads])
        for name in SHAPES:
            pairs = [(native_vars[name], plain_vars[name])]
            for slot in native.get_slot_names():
                pairs.append(
                    (
                        native.get_slot(native_vars[name], slot),
                        plain.get_slot(plain_vars[name], slot),
                    )
                )
            for ours, theirs in pairs:
                exact = dtype in ("float32", "float64") and not is_exception(
                    case, dtype, name
                )
                old = initial[name] if theirs is plain_vars[name] else None
                assert_close(
                    ours.numpy(),
                    theirs.numpy(),
                    np.zeros(()) if old is None else old,
                    dtype,
                    exact,
                    f"{theirs.name} after step {step + 1}",
                )
                ours.assign(theirs)
            moved |= bool((plain_vars[name].numpy() != initial[name]).any())
            initial[name] = plain_vars[name].numpy()
    assert moved
