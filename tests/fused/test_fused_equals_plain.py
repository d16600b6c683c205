"""The native ops compute what the optimizers' own path computes.

Each step starts from the same state. All bits agree, but for the rows of
EXCEPTIONS. The 16-bit types are another matter: there TensorFlow rounds after
every operation, and the native ops once, see test_half.py.
"""

import fnmatch
import zlib

import numpy as np
import pytest
import stepping
from registry import BUILT_IN, SUBJECT, Case, common_cases, own_cases

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

# (pattern of the case, kind of variable): where TensorFlow's kernels round
# otherwise than ours, and why.
EXCEPTIONS = {
    # Eigen's float32 reciprocal root is an approximation, refined once; ours
    # is a division by the root.
    ("Adadelta*", "dense float32"),
    # For rows of one element, TensorFlow has a formula of its own, which uses
    # powers where the one for longer rows, and ours, uses roots.
    ("Ftrl*", "column"),
    # Eigen's vectorised power differs from the C library's in the last bit,
    # and the difference of two powers magnifies it.
    ("Ftrl-learning_rate_power", "any"),
    ("Ftrl-all", "any"),
    # The norm of all gradients is summed in another order, in float64.
    ("*clipnorm", "any"),
}

CASES = [
    *(
        (case, dtype)
        for case in own_cases(BUILT_IN)
        for dtype in ("float32", "float64")
    ),
    *((case, "float32") for case in common_cases(BUILT_IN)),
]


def is_exception(case: Case, dtype: str, variable: str) -> bool:
    kinds = {
        "any",
        variable,
        f"{'sparse' if variable in SPARSE else 'dense'} {dtype}",
    }
    return any(
        fnmatch.fnmatch(str(case), pattern) and kind in kinds
        for pattern, kind in EXCEPTIONS
    )


def gradients(rng, dtype):
    for name, shape in SHAPES.items():
        if name not in SPARSE:
            yield name, stepping.random_array(rng, shape, dtype)
            continue
        indices = rng.integers(0, shape[0], 17).astype(SPARSE[name])
        values = stepping.random_array(rng, (17, *shape[1:]), dtype)
        yield name, (values, indices)


def assert_close(ours, plain, before, exact, message):
    if exact:
        np.testing.assert_array_equal(ours, plain, message)
        return
    # Errors are relative to the largest number that went into a sum.
    scale = np.maximum(np.maximum(abs(plain), abs(before)), 1)
    error = abs(ours - plain) / (np.finfo(plain.dtype).eps * scale)
    assert (error <= 64).all(), (message, error.max())


@pytest.mark.parametrize(("case", "dtype"), CASES, ids=str)
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
            exact = not is_exception(case, dtype, name)
            message = f"{name} after step {step + 1}"
            ours, theirs = native_vars[name], plain_vars[name]
            now = theirs.numpy()
            assert_close(ours.numpy(), now, initial[name], exact, message)
            for slot in native.get_slot_names():
                our_slot = native.get_slot(ours, slot)
                their_slot = plain.get_slot(theirs, slot)
                assert_close(
                    our_slot.numpy(),
                    their_slot.numpy(),
                    0.0,
                    exact,
                    f"{slot} of {message}",
                )
                our_slot.assign(their_slot)
            ours.assign(theirs)
            moved |= bool((now != initial[name]).any())
            initial[name] = now
    assert moved
