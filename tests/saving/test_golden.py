"""Every artefact of every old release is restored and trained on."""

import golden_sets
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_legacy_opt import addons, checkpoints

# Spacings of float32 at the largest weight, for each step of a continuation:
# gradients come from another Keras than the recorded, and roundings add up.
TOLERANCE = 2.0

HOSTS = {"keras": keras, "tf_keras": tf_keras}
# The restored state, where it is not the recorded one: see tests/golden.
LINEAR_TIMES_LR = ("tf-2.4", "ftrl_l1_l2_shrinkage")


def cases(golden, kind, name):
    """The case in each release: none of them lacks any."""
    return [
        golden_sets.Case(golden / release / kind / name)
        for release in golden_sets.SETS
    ]


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
    for case in cases(golden, "model", name):
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


@pytest.mark.parametrize("name", ["adam", "nadam", LINEAR_TIMES_LR[1]])
@pytest.mark.parametrize("host", HOSTS)
def test_model_goes_on_in_a_wrapper(golden, host, name):
    """Whose averages begin as the weights that were restored."""
    for case in cases(golden, "model", name):
        for path in case.artefacts().values():
            model = golden_sets.build_model(HOSTS[host])
            model.compile(addons.MovingAverage(case.optimizer(), 0.5), "mse")
            report = checkpoints.restore(path, model, strict=False)
            told = {(e.status, e.source) for e in report.problems}
            assert told <= {("missing", ""), ("mismatch", "optimizer")}
            assert len(report.of("missing")) == len(model.trainable_weights)
            for variable in model.trainable_variables:
                average = model.optimizer.get_slot(variable, "average")
                np.testing.assert_array_equal(average, variable)
            assert_continues(case, model)


@pytest.mark.parametrize("name", golden_sets.case_names())
def test_raw(golden, name):
    """Bare variables, through our restore and through tf.train.Checkpoint."""
    for case in cases(golden, "raw", name):
        release = case.release
        path = str(case.folder / "ckpt" / "raw")
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


@pytest.mark.parametrize("name", golden_sets.case_names())
def test_tf_keras_reads_them_itself(golden, name):
    """Its load_weights, and tf.train.Checkpoint, with our optimizer."""
    model = golden_sets.build_model(tf_keras)
    for case in cases(golden, "model", name):
        if model.optimizer is None:
            model.compile(case.optimizer(), "mse")
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        for restore, path in (
            (checkpoint.read, case.folder / "ckpt" / "ckpt-1"),
            (model.load_weights, case.folder / "weights" / "weights"),
        ):
            status = restore(str(path))
            model.optimizer.build(model.trainable_variables)
            status.assert_existing_objects_matched()
            assert_state(case, model, model.optimizer)
            for w in (*model.weights, *model.optimizer.weights):
                w.assign(tf.zeros_like(w))


@pytest.mark.parametrize("name", golden_sets.case_names())
def test_keras_file_of_keras_2_has_no_state_and_says_so(golden, name):
    model = golden_sets.build_model(tf_keras)
    for release in ("tf-2.15", "tf_keras-2.21"):
        case = golden_sets.Case(golden / release / "model" / name)
        path = case.unzipped("model.keras")
        model.compile(checkpoints.optimizer_of(path), "mse")
        with pytest.raises(checkpoints.CheckpointError, match="holds no state"):
            checkpoints.restore(path, model)
        with pytest.warns(UserWarning, match="holds no state of optimizer"):
            checkpoints.restore(path, model, strict=False)
        model.load_weights(path)  # Of the weights, as legacy: in silence.
        model.optimizer.build(model.trainable_variables)
        expected = case.expected("model", golden_sets.SAVED_AT)
        for actual, array in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(actual, array)
        assert int(model.optimizer.iterations) == 0
        stored = case.info["after_step_3"]["get_config"]
        for option, value in model.optimizer.get_config().items():
            if isinstance(value, float):
                assert np.float32(value) == np.float32(stored[option])
            elif not isinstance(value, dict):
                assert value == stored[option]
