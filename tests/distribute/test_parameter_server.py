"""ParameterServerStrategy: a coordinator, two workers, two servers."""

import keras_model
import numpy as np
import pytest
import tensorflow as tf
import training
from registry import SUBJECT

import keras_legacy_opt

DEFAULT = tf.distribute.get_strategy()


def on_one_device(make_optimizer, kind="mixed", accumulates=1):
    values = training.train(DEFAULT, make_optimizer, kind, accumulates)
    named = {}
    for name, value in values.items():
        parts = name.removesuffix(":0").split("/")
        if parts[-1] != "iter":
            named[" ".join(parts[-2:]) if len(parts) > 1 else parts[0]] = value
    return named


def assert_equal(ours, expected, case=None):
    for name, value in expected.items():
        if name not in ours:
            continue
        if case and case.row.name == "AdamWeightDecay":
            # Its global norm is added up of shards' norms.
            np.testing.assert_allclose(ours[name], value, rtol=1e-6, atol=1e-7)
        else:
            np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.parametrize("case", training.equal_cases(), ids=str)
def test_steps_equal_one_device(coordinator, case):
    ours = coordinator.result(f"{case} ours")
    assert ours["iterations"] == training.STEPS
    assert len(ours) == 1 + 3 * (1 + len(case.option.slots))
    assert_equal(ours, on_one_device(lambda: case.build(SUBJECT)), case)


@pytest.mark.parametrize("case", training.one_case_per_row(), ids=str)
def test_steps_equal_legacy(coordinator, case):
    training.assert_same_bits(
        coordinator.result(f"{case} ours"), coordinator.result(f"{case} legacy")
    )


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_one_kind_of_gradients(coordinator, kind):
    assert_equal(
        coordinator.result(kind),
        on_one_device(lambda: keras_legacy_opt.Adam(0.1), kind),
    )


def test_both_workers_at_once_lose_nothing(coordinator):
    """100 steps: all sums are exact in float32, and so is SGD(0.125)."""
    ours = coordinator.result("at once")
    assert ours["iterations"] == 100
    expected = training.initial_values()
    for batch in training.batches():
        for name in ("matrix", "vector"):
            step = batch[name].sum(0) / training.BATCH * 0.125
            expected[name] -= 25 * step
        np.add.at(
            expected["table"],
            batch["rows"],
            -25 * 0.125 * batch["table"] / training.BATCH,
        )
    for name, value in expected.items():
        # Only the initial values need rounding.
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", training.wrapper_cases(), ids=str)
def test_wrappers_equal_one_device(coordinator, case):
    ours = coordinator.result(f"{case} ours")
    count = case.row.accumulates
    assert ours["iterations"] == training.STEPS // count
    expected = on_one_device(lambda: case.build(SUBJECT), accumulates=count)
    # Each shard is clipped by its own norm.
    tolerance = {"rtol": 1e-6, "atol": 1e-7}
    for name, value in ours.items():
        if name != "iterations":
            np.testing.assert_allclose(
                value, expected[name], **tolerance, err_msg=name
            )


def test_both_workers_accumulate_at_once(coordinator):
    """Each batch counts once, in one of 50 steps."""
    ours, waiting = coordinator.result("accumulate at once")
    assert (ours["iterations"], waiting) == (50, 0)
    alone = coordinator.result("at once")
    for name in training.SHAPES:
        np.testing.assert_allclose(ours[name], alone[name], rtol=0, atol=1e-5)
        assert not ours[f"{name} accumulated_gradient"].any()


def test_several_optimizers(coordinator):
    values, iterations = coordinator.result("two optimizers")
    assert iterations == (training.STEPS, training.STEPS)
    sgd = on_one_device(lambda: keras_legacy_opt.SGD(0.1))
    adagrad = on_one_device(lambda: keras_legacy_opt.Adagrad(0.1))
    for name, expected in (
        ("table", sgd),
        ("matrix", adagrad),
        ("vector", adagrad),
    ):
        np.testing.assert_array_equal(values[name], expected[name])


def test_optimizer_made_outside_the_scope(coordinator):
    assert_equal(
        coordinator.result("made outside"),
        on_one_device(lambda: keras_legacy_opt.Adam(0.1)),
    )


def test_errors(coordinator):
    cross_replica = coordinator.result.failure("cross-replica")
    assert cross_replica.kind == "RuntimeError"
    assert "strategy.run" in cross_replica.message
    unaggregated = coordinator.result.failure("without aggregation")
    assert unaggregated.kind == "NotImplementedError"
    assert "ParameterServerStrategy" in unaggregated.message


def test_tf_keras_fit(coordinator):
    """Workers are not in step: the order, and thus the result, may vary."""
    for label in ("ours", "its own"):
        weights = coordinator.result(f"fit tf_keras {label}")
        assert all(np.isfinite(w).all() for w in weights)


def test_keras_3_fit_with_sharded_variables(coordinator):
    """Its layers take none; what else it does is in `test_keras_3_fit.py`."""
    for label in ("ours", "its own"):
        error = coordinator.result.failure(f"fit keras 3 {label}")
        assert error.kind == "TypeError"
        assert "embeddings' is sharded" in error.message
        assert "without `variable_partitioner`" in error.message


def test_keras_3_custom_loop(coordinator):
    """Its layers take no sharded variables."""
    weights = coordinator.result("loop keras 3")
    expected = keras_model.looped_weights(
        "keras 3", DEFAULT, lambda: keras_legacy_opt.Adam(0.01)
    )
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-5, atol=1e-6)


def test_sharded_checkpoint(coordinator):
    before, after = coordinator.result("restored sharded")
    training.assert_same_bits(before, coordinator.result("checkpoint"))
    training.assert_same_bits(after, training.undisturbed_values())


def test_restores_checkpoint_of_one_device(coordinator, given_checkpoint):
    before, after = coordinator.result("restored")
    training.assert_same_bits(before, given_checkpoint.values)
    training.assert_same_bits(after, training.undisturbed_values())


def test_checkpoint_restores_on_one_device(coordinator):
    before, after = training.restored_values(DEFAULT, coordinator.checkpoint)
    training.assert_same_bits(before, coordinator.result("checkpoint"))
    training.assert_same_bits(after, training.undisturbed_values())


def test_goes_on_from_given_state(coordinator):
    """Given before the first step: the optimizer was pickled."""
    training.assert_same_bits(
        coordinator.result("given"), training.undisturbed_values()
    )
