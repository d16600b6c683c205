"""The native ops yield NaN, infinities and zeros where TensorFlow's ops do.

Every state meets every gradient, of huge and tiny numbers, infinities and NaN.
"""

import contextlib
import itertools

import numpy as np
import pytest
import tensorflow as tf
from registry import NATIVE, SUBJECT, Late, own_cases
from test_fused_equals_plain import state, tolerance

import keras_legacy_opt
from keras_legacy_opt import fused

# The square of 2e19 is infinite in float32, that of 2e-23 is 0 or denormal.
NUMBERS = (0.0, -0.7, 2e19, -2e19, 3e38, 2e-23, -1e-42, np.inf, -np.inf, np.nan)
POSITIVE = (0.0, 0.4, 3e38, np.inf, np.nan)
# Slots that hold averages of squares, or of absolute values.
NEVER_NEGATIVE = {
    *("rms", "v", "vhat", "accumulator", "accum_grad", "accum_var"),
    *("lr", "grad_norm_sum", "reward"),
}
RATES = {
    "usual": {},
    "zero": {"learning_rate": 0.0},
    "warm-up": {
        "learning_rate": Late(
            lambda library: library.schedules.PolynomialDecay(0.0, 10, 0.1)
        )
    },
    "tiny": {"learning_rate": 1e-39},
}
CASES = [
    (case, rate)
    for case in own_cases(NATIVE)
    if not case.row.has_norms  # TensorFlow's overflow.
    for rate in RATES
    if rate == "usual" or case.option_name in ("plain", "l2 shrinkage", "all")
    if case.row.name != "Nadam" or rate != "warm-up"  # It takes no schedule.
    if case.row.name != "COCOB" or rate == "usual"  # It has no rate.
]


@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize(("case", "rate"), CASES, ids=str)
def test_special_values(native_ops, case, rate, is_sparse):
    if case.row.name == "Ftrl" and is_sparse and rate != "usual":
        # TensorFlow's sparse kernel refuses a learning rate of 0.
        rate = "usual"
    pairs = np.array(list(itertools.product(NUMBERS, NUMBERS)), np.float32)
    rows = len(pairs)
    width = 3  # Loops have whole vectors, and a tail.
    before, grads = (np.repeat(column[:, None], width, 1) for column in pairs.T)
    results = []
    for slot_value in (None, *POSITIVE[2:], -1e38):
        for context in (fused.disabled, contextlib.nullcontext):
            with context():
                optimizer = case.build(SUBJECT, **RATES[rate])
                variable = tf.Variable(before)
                optimizer.build([variable])
                for name in optimizer.get_slot_names():
                    if slot_value is None:
                        continue
                    if name in NEVER_NEGATIVE and slot_value < 0:
                        continue
                    slot = optimizer.get_slot(variable, name)
                    slot.assign(np.full(slot.shape, slot_value, np.float32))
                gradient = tf.constant(grads)
                if is_sparse:
                    gradient = tf.IndexedSlices(gradient, tf.range(rows))
                optimizer.apply_gradients([(gradient, variable)])
                results.append(state(optimizer, variable))
        theirs, ours = results[-2:]
        ulp = tolerance(str(case), "wide_table float32")
        for name, value in theirs.items():
            _assert_same(ours[name], value, ulp, (name, slot_value), pairs)


def _assert_same(ours, theirs, ulp, where, pairs):
    with np.errstate(all="ignore"):
        close = abs(ours - theirs) <= ulp * np.spacing(abs(theirs))
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs)) | close
    bad = np.argwhere(~same)[:3]
    assert same.all(), [
        (where, pairs[i], ours[i, j], theirs[i, j]) for i, j in bad
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"transforms": 2},
        {"conditions": 2},
        {"per_variables": 2},
        {"average_weights": 2},
    ],
    ids=lambda given: next(iter(given)),
)
@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
def test_a_second_transform_or_condition_is_refused(
    native_ops, given, is_sparse
):
    """It would be read as if it were another input."""
    variable = tf.Variable([[1.0, 2.0]])
    extra = [
        [tf.ones(4)] * given.get("transforms", 0),
        [tf.constant(True)] * given.get("conditions", 0),
        [tf.ones(2)] * given.get("per_variables", 0),
        [],
        [tf.ones([])] * given.get("average_weights", 0),
    ]
    if is_sparse:
        inputs = variable.handle, tf.ones([1, 2]), [0], 0.1
        op = native_ops.sparse_sgd
    else:
        inputs = [variable.handle], [tf.ones([1, 2])], 0.1
        op = native_ops.sgd
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most one"):
        op(*inputs, *extra)
    assert variable.numpy().tolist() == [[1.0, 2.0]]


def traced(step):
    return tf.function(lambda: tf.group(step()) and None, autograph=False)


@pytest.mark.parametrize("wrap", [lambda f: f, traced], ids=["", "traced"])
@pytest.mark.parametrize("number", [0.0, -0.5, 1.0, np.nan])
@pytest.mark.parametrize(
    "name",
    [
        "learning_rate",
        "learning_rate_power",
        "l1_regularization_strength",
        "l2_regularization_strength",
    ],
)
def test_ftrl_takes_the_numbers_that_tensorflow_takes(
    native_ops, name, number, wrap
):
    """Its sparse kernel refuses some; a step of them changes nothing."""

    def outcome():
        optimizer = keras_legacy_opt.Ftrl(0.1)
        variable = tf.Variable([[1.0], [2.0]])
        optimizer.build([variable])
        setattr(optimizer, name, number)
        gradient = tf.IndexedSlices(tf.constant([[1.0]]), tf.constant([0]))
        is_refused = False
        try:
            wrap(lambda: optimizer.apply_gradients([(gradient, variable)]))()
        except tf.errors.InvalidArgumentError:
            is_refused = True
        values = [variable.numpy(), *optimizer.get_weights()[1:]]
        return is_refused, np.concatenate(values).tolist()

    with fused.disabled():
        expected = outcome()
    np.testing.assert_equal(outcome(), expected)
