"""MultiWorkerMirroredStrategy, with two worker processes."""

import numpy as np
import pytest
import tensorflow as tf
import training
from keras_model import fitted_weights, looped_weights
from registry import SUBJECT

import keras_legacy_opt

DEFAULT = tf.distribute.get_strategy()


def on_one_device(case, kind="mixed"):
    return training.train(DEFAULT, lambda: case.build(SUBJECT), kind)


@pytest.mark.parametrize("case", training.every_case(), ids=str)
def test_steps(workers, case):
    for result in workers.results:
        ours = result(f"{case} ours")
        training.assert_same_bits(ours, result(f"{case} legacy"))
        if training.equals_one_device(case):
            training.assert_same_bits(ours, on_one_device(case))


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("case", training.one_case_per_row(), ids=str)
def test_one_kind_of_gradients(workers, kind, case):
    for result in workers.results:
        training.assert_same_bits(
            result(f"{case} {kind}"), on_one_device(case, kind)
        )


def make_adam():
    return keras_legacy_opt.Adam(0.01)


def assert_close(weights, expected):
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-5, atol=1e-6)


def test_tf_keras_fit(workers):
    expected = fitted_weights("tf_keras", DEFAULT, make_adam)
    for result in workers.results:
        for name in ("fit tf_keras ours", "made outside"):
            assert_close(result(name), expected)
        # TensorFlow rearranges the arithmetic of functions, not native ops.
        for ours, legacy in zip(
            result("fit tf_keras plain"),
            result("fit tf_keras its own"),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, legacy)


def test_keras_3_fit(workers):
    """More of it is in `test_keras_3_fit.py`."""
    expected = fitted_weights("keras 3", DEFAULT, make_adam)
    for result in workers.results:
        assert_close(result("fit keras 3 ours"), expected)


@pytest.mark.parametrize("host", ["keras 3", "tf_keras"])
def test_custom_loop(workers, host):
    expected = looped_weights(host, DEFAULT, make_adam)
    for result in workers.results:
        assert_close(result(f"loop {host}"), expected)


def test_checkpoint_restores_on_one_device(workers):
    chief, _ = workers.results
    before, after = training.restored_values(DEFAULT, workers.checkpoint)
    training.assert_same_bits(before, chief("checkpoint"))
    training.assert_same_bits(after, training.undisturbed_values())


def test_restores_checkpoint_of_one_device(workers, given_checkpoint):
    for result in workers.results:
        before, after = result("restored")
        training.assert_same_bits(before, given_checkpoint.values)
        training.assert_same_bits(after, training.undisturbed_values())


def test_goes_on_from_given_state(workers):
    """Given before the first step: the optimizer was pickled."""
    for result in workers.results:
        training.assert_same_bits(
            result("given"), training.undisturbed_values()
        )
