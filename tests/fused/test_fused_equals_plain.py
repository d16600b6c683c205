"""The native ops compute what the optimizers' own path computes.

Each step starts from the same state. All bits agree, but for the rows of
EXCEPTIONS. The 16-bit types are another matter: there TensorFlow rounds after
every operation, and the native ops once, see test_half.py.
"""

import fnmatch
import zlib

import hypothesis
import numpy as np
import pytest
import stepping
import tensorflow as tf
from configurations import arguments, problems
from hypothesis import strategies as st
from registry import (
    BUILT_IN,
    NATIVE,
    SUBJECT,
    WRAPPERS,
    Case,
    common_cases,
    own_cases,
)

from keras_legacy_opt import fused
from keras_legacy_opt.addons import wrapper
from keras_legacy_opt.state.variables import var_key

SHAPES = {
    "matrix": (37, 19),
    "vector": (101,),
    "scalar": (),
    "empty": (0, 3),
    "table": (50, 7),
    "wide_table": (20, 33),
    "column": (60,),
}
SPARSE = {"table": np.int32, "wide_table": np.int32, "column": np.int64}
STEPS = 5

# (pattern of the case, pattern of the variable and dtype): by how many ulp of
# the larger of the old and the new value TensorFlow's kernels round otherwise.
EXCEPTIONS = {
    # Eigen's float32 reciprocal root, where it is vectorised, is what the
    # processor approximates, to 1.5 * 2**-12, and Newton's method refines once,
    # to 1.5 times the square of that; ours is a division by the root. In halves
    # of the machine epsilon these are 3.4, and the roundings: 3 in that method,
    # 2 of our root and division, 2 of the products on either side. That is 12.4
    # ulp of an update at most, which may be twice the larger value.
    ("RMSprop-*momentum", "wide_table float32"): 25,
    # Its root adds nothing, being rounded alike; what is accumulated is the
    # square, which adds 2.
    ("Adadelta*", "[!s]* float32"): 27,
    # For rows of one element, TensorFlow has a formula of its own, which uses
    # powers where the one for longer rows, and ours, uses roots.
    ("Ftrl*", "column *"): 3,
    # Eigen's vectorised power differs from the C library's in the last bits.
    ("Ftrl-learning_rate_power", "*"): 16,
    ("Ftrl-all", "*"): 16,
    # Native ops sum the squares of norms in float64, in an order that does not
    # depend on the threads. In float32, TensorFlow's sums are off by some ulp,
    # of both norms in an update, which may be twice the larger value.
    ("ConditionalGradient*", "*"): 4,
    ("LAMB*", "*"): 16,
    ("LARS*", "*"): 16,
    ("NovoGrad*", "*"): 16,
}

CASES = [
    *(
        (case, dtype)
        for case in own_cases((*NATIVE, *WRAPPERS))
        for dtype in ("float32", "float64")
    ),
    *((case, "float32") for case in common_cases(BUILT_IN)),
]


def tolerance(case: str, variable: str) -> int:
    """Returns the ulp by which `variable` may differ after a step."""
    return max(
        (
            ulp
            for (cases, variables), ulp in EXCEPTIONS.items()
            if fnmatch.fnmatch(case, cases)
            and fnmatch.fnmatch(variable, variables)
        ),
        default=0,
    )


def tolerance_of_any(name: str, arguments: dict) -> int:
    """Likewise, for an optimizer with any arguments and any variable."""
    approximate = name in ("Adadelta", "Ftrl") or arguments.get("momentum")
    return 16 if name != "SGD" and approximate else 0


def gradients(rng, dtype):
    for name, shape in SHAPES.items():
        if name not in SPARSE:
            yield name, stepping.random_array(rng, shape, dtype)
            continue
        indices = rng.integers(0, shape[0], 17).astype(SPARSE[name])
        values = stepping.random_array(rng, (17, *shape[1:]), dtype)
        yield name, (values, indices)


def slots_of(optimizer, variable):
    """A variable's slots, by name; those of what is inside, too."""
    key = var_key(variable)
    return {
        name: slot
        for each in wrapper.all_inside(optimizer)
        for name, slot in each._slots.get(key, {}).items()
    }


def state(optimizer, variable):
    """The values of a variable and its slots, by name."""
    slots = slots_of(optimizer, variable)
    return {
        key: value.numpy() for key, value in {"": variable, **slots}.items()
    }


def magnitudes(optimizer, before, after):
    """The largest numbers that went into the sums which yielded `after`."""
    result = {
        key: np.maximum(abs(value), abs(before.get(key, value)))
        for key, value in after.items()
    }
    if "linear" in after:
        rate = optimizer._decayed_lr(tf.float32).numpy()
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        exponent = -inner.get_config()["learning_rate_power"]
        power = after["accumulator"] ** exponent
        result["linear"] = np.maximum(
            result["linear"],
            power / rate * abs(before[""]),
        ).astype(after["linear"].dtype)
    for copy in {"average", "slow"} & {*after}:
        result[copy] = np.maximum(result[copy], result[""])
    if "LARS" in type(optimizer).__name__:  # The new step may cancel the old.
        both = np.maximum(result[""], result["momentum"])
        result[""] = result["momentum"] = both
    if getattr(optimizer, "grad_averaging", False):
        # The decay and the step may cancel.
        decay = optimizer._weight_decay(tf.float32).numpy()
        decayed = decay * optimizer._decayed_lr(tf.float32).numpy()
        result["m"] = np.maximum(result["m"], decayed * abs(before[""])).astype(
            after["m"].dtype
        )
    return result


class Pair:
    """Variables that are trained with native ops, and others without."""

    def __init__(self, make_optimizer, initial):
        self.native, self.plain = make_optimizer(), make_optimizer()
        self.native_vars = stepping.make_variables(initial)
        self.plain_vars = stepping.make_variables(initial)

    def step(self, grads, tolerance):
        """Steps, compares, and lets both go on from the plain state."""
        before = {
            name: state(self.plain, variable)
            if self.plain.weights
            else {"": variable.numpy()}
            for name, variable in self.plain_vars.items()
        }
        grads = {name: stepping.as_tensor(g) for name, g in grads.items()}
        self.native.apply_gradients(
            [(grads[name], self.native_vars[name]) for name in grads]
        )
        with fused.disabled():
            self.plain.apply_gradients(
                [(grads[name], self.plain_vars[name]) for name in grads]
            )
        for name, ours in self.native_vars.items():
            theirs = self.plain_vars[name]
            after = state(self.plain, theirs)
            scales = magnitudes(self.plain, before[name], after)
            for slot, value in state(self.native, ours).items():
                # A sum of magnitudes may be infinite where no number is.
                largest = tf.as_dtype(value.dtype).max
                scale = np.minimum(scales[slot], largest)
                error = abs(value - after[slot]) / np.spacing(scale)
                same = (value == after[slot]) | (
                    np.isnan(value) & np.isnan(after[slot])
                )
                ulp = tolerance(f"{name} {value.dtype}")
                assert (same | (error <= ulp)).all(), (name, slot, error.max())
            slots = slots_of(self.plain, theirs)
            for name, slot in slots_of(self.native, ours).items():
                slot.assign(slots[name])
            ours.assign(theirs)


@pytest.mark.parametrize(("case", "dtype"), CASES, ids=str)
def test_fused_equals_plain(native_ops, case: Case, dtype):
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    initial = {
        name: stepping.random_array(rng, shape, dtype)
        for name, shape in SHAPES.items()
    }
    pair = Pair(lambda: case.build(SUBJECT), initial)
    for _ in range(STEPS):
        pair.step(
            dict(gradients(rng, dtype)),
            lambda variable: tolerance(str(case), variable),
        )
    assert any(
        (pair.plain_vars[name].numpy() != value).any()
        for name, value in initial.items()
    )


@pytest.mark.parametrize("name", [row.name for row in BUILT_IN])
@hypothesis.given(data=st.data(), problem=problems())
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
def test_random_configurations(native_ops, name, data, problem):
    chosen = data.draw(arguments(name))
    optimizer = getattr(SUBJECT.optimizers, name)
    initial, steps = problem
    pair = Pair(lambda: optimizer(**chosen), initial)
    for grads in steps:
        pair.step(grads, lambda _: tolerance_of_any(name, chosen))
