"""Every artefact of every old release is restored and trained on."""

import warnings

import golden_sets
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_legacy_opt import checkpoints

# Spacings of float32 at the largest weight, for each step of a continuation:
# gradients come from another Keras than the recorded, and roundings add up.
TOLERANCE = 2.0

HOSTS = {"keras": keras, "tf_keras": tf_keras}
# The restored state, where it is not the recorded one: see tests/golden.
LINEAR_TIMES_LR = ("tf-2.4", "ftrl_l1_l2_shrinkage")


def model_cases(golden, name):
    for release in golden_sets.SETS:
        folder = golden / release / "model" / name
        if folder.exists():
            yield golden_sets.Case(folder)


def assert_state(case, model, optimizer):
    for actual, expected in zip(
        model.get_weights(),
        case.expected("model", golden_sets.SAVED_AT),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)
    if (case.release, case.info["case"]) == LINEAR_TIMES_LR:
        return
    for actual, expected in zip(
        optimizer.get_weights(),
        case.expected("opt", golden_sets.SAVED_AT),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)


def assert_continues(case, model):
    for step in range(golden_sets.SAVED_AT + 1, golden_sets.MODEL_STEPS + 1):
        x, y = case.data["x"][step - 1], case.data["y"][step - 1]
        model.train_on_batch(x, y)
        expected = case.expected("model", step)
        for actual, array in zip(model.get_weights(), expected, strict=True):
            steps = step - golden_sets.SAVED_AT
            ulps = golden_sets.ulps(actual, array)
            assert ulps <= TOLERANCE * steps, (case.release, step)


@pytest.mark.parametrize("name", golden_sets.case_names())
@pytest.mark.parametrize("host", HOSTS)
def test_model(golden, host, name):
    """Into one model, again and again: the first time, it has no slots yet."""
    model = optimizer = None
    restored = set()
    for case in model_cases(golden, name):
        if model is None:
            model = golden_sets.build_model(HOSTS[host])
            optimizer = case.optimizer()
            model.compile(optimizer, "mse")
        for kind, path in case.artefacts().items():
            report = checkpoints.restore(path, model)
            assert not report.problems
            assert_state(case, model, optimizer)
            assert_continues(case, model)
            restored.add(kind)
    assert restored >= {"checkpoint", "weights", "h5"}


@pytest.mark.parametrize("name", golden_sets.case_names())
def test_raw(golden, name):
    """Bare variables, through our restore and through tf.train.Checkpoint."""
    for release in golden_sets.SETS:
        folder = golden / release / "raw" / name
        if not folder.exists():
            continue
        case = golden_sets.Case(folder)
        path = str(folder / "ckpt" / "raw")
        for through_ours in (True, False):
            dense = tf.Variable(case.data["dense"], name="dense")
            sparse = tf.Variable(case.data["sparse"], name="sparse")
            optimizer = case.optimizer()
            variables = {"dense": dense, "sparse": sparse}
            if through_ours:
                checkpoints.restore(path, variables, optimizer)
            elif (release, name) == LINEAR_TIMES_LR:
                continue
            else:
                status = tf.train.Checkpoint(
                    optimizer=optimizer, **variables
                ).read(path)
                optimizer.build([dense, sparse])
                status.assert_consumed()
            if (release, name) != LINEAR_TIMES_LR:
                for actual, expected in zip(
                    optimizer.get_weights(),
                    case.expected("opt", golden_sets.SAVED_AT),
                    strict=True,
                ):
                    np.testing.assert_array_equal(actual, expected)
            for step in range(golden_sets.SAVED_AT, golden_sets.RAW_STEPS):
                grad, values, indices = (
                    tf.constant(case.data[name][step])
                    for name in (
                        "dense_grad",
                        "sparse_grad_values",
                        "sparse_grad_indices",
                    )
                )
                slices = tf.IndexedSlices(values, indices, (6, 2))
                optimizer.apply_gradients([(grad, dense), (slices, sparse)])
                for variable in (dense, sparse):
                    expected = case.trace[variable.name[:-2]][step]
                    ulps = golden_sets.ulps(variable.numpy(), expected)
                    steps = step + 1 - golden_sets.SAVED_AT
                    assert ulps <= TOLERANCE * steps, (release, step)


@pytest.mark.parametrize("release", ["tf-2.15", "tf_keras-2.21"])
def test_keras_file_of_keras_2_has_no_state_and_says_so(golden, release):
    case = golden_sets.Case(golden / release / "model" / "adam_tuned")
    path = case.unzipped("model.keras")
    with pytest.warns(UserWarning, match="holds no state of optimizer"):
        model = load_with_ours(path)
    expected = case.expected("model", golden_sets.SAVED_AT)
    for actual, array in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(actual, array)
    assert int(model.optimizer.iterations) == 0


def load_with_ours(path):
    """tf_keras' load_model, compiled with the optimizer of the file."""
    model = tf_keras.models.load_model(path, compile=False)
    model.compile(checkpoints.optimizer_of(path), "mse")
    with warnings.catch_warnings():
        model.optimizer.build(model.trainable_variables)
    model.optimizer.load_own_variables({})
    return model
