"""float16 and bfloat16 compute in float32, and round once."""

import numpy as np
import pytest
import stepping
import tensorflow as tf
from registry import NATIVE, SUBJECT, own_cases

import keras_legacy_opt
from keras_legacy_opt.addons import LAMB
from keras_legacy_opt.rules.formula import formula_of

ROWS, WIDTH = 40, 9
INDICES = np.array([3, 7, 3, 39, 0, 3], np.int32)
# Between two passes, what is stored is rounded.
CASES = [case for case in own_cases(NATIVE) if not case.row.has_norms]
OPTIONAL = """
    transform condition per_variable average average_weight
""".split()


def coefficients_of(optimizer, formula):
    """The float32 scalars of an optimizer's first step."""
    variable = tf.Variable(tf.zeros([1]))
    optimizer._create_all_weights([variable])
    state = optimizer._prepare([variable])[variable.device, tf.float32]
    return {
        name: state[key] for name, key in formula.native.coefficients.items()
    }


def make_state(rng, formula, dtype):
    state = [stepping.random_array(rng, (ROWS, WIDTH), dtype)]
    for slot in formula.slots:
        noise = abs(stepping.random_array(rng, (ROWS, WIDTH), dtype))
        # The square of an average is no larger than the average square.
        mean = slot == "mg"
        state.append(
            noise / noise.dtype.type(8) if mean else noise + noise.dtype.type(1)
        )
    return state


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rounds_once(native_ops, rng, case, dtype):
    optimizer = case.build(SUBJECT)
    formula = formula_of(optimizer)
    native = formula.native
    inputs = ["var", *native.slots]
    scalars = coefficients_of(optimizer, formula)
    state = make_state(rng, formula, dtype)
    dense = stepping.random_array(rng, (ROWS, WIDTH), dtype)
    # No row twice: SGD applies duplicates one after the other.
    indices = INDICES[1:5]
    rows = stepping.random_array(rng, (len(indices), WIDTH), dtype)

    def run(sparse, cast):
        variables = [tf.Variable(cast(value)) for value in state]
        if sparse:
            handles = [v.handle for v in variables]
            getattr(native_ops, f"sparse_{native.op}")(
                **dict(zip(inputs, handles, strict=True)),
                grad=cast(rows),
                indices=indices,
                **scalars,
                **dict.fromkeys(OPTIONAL, []),
            )
        else:
            handles = [[v.handle] for v in variables]
            getattr(native_ops, native.op)(
                **dict(zip(inputs, handles, strict=True)),
                grad=[cast(dense)],
                **scalars,
                **dict.fromkeys(OPTIONAL, []),
            )
        return [v.numpy() for v in variables]

    for sparse in (False, True):
        halves = run(sparse, tf.constant)
        floats = run(sparse, lambda x: tf.constant(x.astype(np.float32)))
        for half, single in zip(halves, floats, strict=True):
            expected = single.astype(half.dtype)
            np.testing.assert_array_equal(half, expected)
        assert (halves[0] != state[0]).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lamb_steps_are_as_long_as_it_says(native_ops, rng, dtype):
    """Though most of `v` is 0 in 16 bits: it has no native op there."""
    optimizer = LAMB(0.1, weight_decay=0.01)
    variable = tf.Variable(stepping.random_array(rng, (ROWS, WIDTH), dtype))
    for _ in range(5):
        before = variable.numpy().astype(np.float64)
        grad = stepping.random_array(rng, (ROWS, WIDTH), dtype)
        optimizer.apply_gradients([(tf.constant(grad), variable)])
        change = variable.numpy().astype(np.float64) - before
        length = np.linalg.norm(change) / np.linalg.norm(before)
        np.testing.assert_allclose(length, 0.1, rtol=0.05)
    told = keras_legacy_opt.explain(optimizer, variable)[0]
    assert f"more digits than {dtype}" in told.refusals["native ops"]
