"""N replicas compute what one device computes, and what legacy computes."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import training
from registry import BUILT_IN, COMMON, LEGACY, SUBJECT, Case, own_cases
from strategies import strategy_called, under_every_strategy

from keras_legacy_opt import fused


@functools.cache
def on_one_device(case, kind):
    default = tf.distribute.get_strategy()
    return training.train(default, lambda: case.build(SUBJECT), kind)


def under(strategy, case, library, kind="mixed", **kwargs):
    return training.train(
        strategy_called(strategy), lambda: case.build(library), kind, **kwargs
    )


@under_every_strategy
@pytest.mark.parametrize("case", training.every_case(), ids=str)
def test_steps(strategy, case):
    ours = under(strategy, case, SUBJECT)
    if training.equals_one_device(case):
        training.assert_same_bits(ours, on_one_device(case, "mixed"))
    training.assert_same_bits(ours, under(strategy, case, LEGACY))


@under_every_strategy
@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("case", training.one_case_per_row(), ids=str)
def test_one_kind_of_gradients(strategy, kind, case):
    ours = under(strategy, case, SUBJECT, kind)
    training.assert_same_bits(ours, on_one_device(case, kind))


@under_every_strategy
@pytest.mark.parametrize("row", BUILT_IN, ids=lambda row: row.name)
def test_in_function(strategy, row):
    case = Case(row, "plain")
    ours = under(strategy, case, SUBJECT, wrap=tf.function)
    # A function may fuse a multiplication and an addition.
    for name, value in on_one_device(case, "mixed").items():
        np.testing.assert_allclose(
            ours[name], value, rtol=1e-6, atol=1e-7, err_msg=name
        )


def rounded_gradients(variables, batch):
    """Their sums are not exact: the order of the summands shows."""
    batch = {k: x if k == "rows" else tf.sin(x) for k, x in batch.items()}
    return training.gradients_of(variables, batch)


@pytest.mark.parametrize("case", own_cases(BUILT_IN), ids=str)
def test_native_ops_change_nothing(case):
    native = under("mirrored", case, SUBJECT, gradients=rounded_gradients)
    with fused.disabled():
        plain = under("mirrored", case, SUBJECT, gradients=rounded_gradients)
    training.assert_same_bits(native, plain)


ADAM = next(row for row in BUILT_IN if row.name == "Adam")
COMMON_CASES = [Case(ADAM, option) for option in COMMON]


@under_every_strategy
@pytest.mark.parametrize("case", COMMON_CASES, ids=str)
def test_common_options(strategy, case):
    """Among them: gradients are clipped after their aggregation."""
    if "clip" in case.option_name and strategy == "central storage":
        for library in (SUBJECT, LEGACY):
            with pytest.raises(ValueError, match="not supported"):
                under(strategy, case, library)
        return
    ours = under(strategy, case, SUBJECT)
    training.assert_same_bits(ours, on_one_device(case, "mixed"))
    training.assert_same_bits(ours, under(strategy, case, LEGACY))
