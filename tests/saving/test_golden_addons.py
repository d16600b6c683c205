"""What tensorflow_addons computed and saved goes on, to the last bits.

Spacings of float32, at the largest value of an array, for each step.
"""

import golden_addons
import keras
import npz
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from golden_sets import ulps

import keras_legacy_opt
from keras_legacy_opt import checkpoints
from keras_legacy_opt.checkpoints import conversion

TOLERANCE = 2.0
HOSTS = {"keras": keras, "tf_keras": tf_keras}
# What the original forgets to write into its configuration.
FORGOTTEN = {"NovoGrad": {"amsgrad", "decay"}}

NAMES = golden_addons.case_names()
# MultiOptimizer has no bare variables: its configuration names a model's.
RAW_NAMES = [name for name in NAMES if name != "multi_optimizer"]
every_case = pytest.mark.parametrize("name", RAW_NAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("addons")
    golden_addons.unpack(folder)
    return folder / "addons"


@pytest.fixture
def case(folder, name):
    return golden_addons.Case(folder / name)


def test_no_class_is_missing():
    names = {n for each in golden_addons.classes().values() for n in each}
    assert all(map(golden_addons.class_of, names))


def assert_close(actual, expected, steps, where):
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        difference = ulps(actual[key], value)
        assert difference <= TOLERANCE * steps, (*where, key, difference)


def assert_goes_on(case, optimizer, variables, start):
    trace = case.trace("raw")
    for step in range(start, golden_addons.STEPS):
        gradients = case.gradients(step, case.info["is_sparse"])
        optimizer.apply_gradients(
            list(zip(gradients, variables.values(), strict=True))
        )
        now = {name: variable.numpy() for name, variable in variables.items()}
        now |= golden_addons.state(optimizer, variables)
        assert_close(now, trace[step], step + 1 - start, (step,))


@every_case
def test_bare_variables(case):
    optimizer, variables = case.optimizer(), case.variables()
    assert_goes_on(case, optimizer, variables, 0)
    path = case.folder / "averaged.npz"
    if path.exists():
        optimizer.assign_average_vars(list(variables.values()))
        now = {name: variable.numpy() for name, variable in variables.items()}
        assert_close(now, npz.read(path), golden_addons.STEPS, ("mean",))


@every_case
def test_checkpoint(case):
    """Through our restore, and through tf.train.Checkpoint."""
    path = str(case.folder / "ckpt" / "raw")
    for through_ours in (True, False):
        optimizer, variables = case.optimizer(), case.variables()
        if through_ours:
            checkpoints.restore(path, variables, optimizer)
        else:
            everything = tf.train.Checkpoint(optimizer=optimizer, **variables)
            status = everything.read(path)
            optimizer.build(list(variables.values()))
            status.assert_consumed()
        start = golden_addons.RAW_SAVED_AT
        now = {name: variable.numpy() for name, variable in variables.items()}
        now |= golden_addons.state(optimizer, variables)
        for key, value in case.trace("raw")[start - 1].items():
            np.testing.assert_array_equal(now[key], value, err_msg=key)
        assert_goes_on(case, optimizer, variables, start)


def assert_configuration(optimizer, recorded):
    ours = golden_addons.plain(optimizer.get_config())
    for name in FORGOTTEN.get(type(optimizer).__name__, ()):
        del ours[name]
    assert ours == golden_addons.plain(recorded["get_config"])


@every_case
def test_configuration(case):
    for when in ("before_training", "after_training"):
        recorded = case.info[when]
        for kind in ("serialize", "serialize_legacy"):
            optimizer = keras_legacy_opt.deserialize(recorded[kind])
            assert type(optimizer) is golden_addons.class_of(
                case.info["optimizer"]
            )
            assert_configuration(optimizer, recorded)
    assert_configuration(case.optimizer(), case.info["before_training"])


def assert_trains_on(case, model, start, stop):
    for step in range(start, stop):
        model.train_on_batch(case.data["x"][step], case.data["y"][step])
        now = {f"model_{i}": w for i, w in enumerate(model.get_weights())}
        expected = case.trace("model")[step]
        assert_close(now, expected, step + 1 - start, (start, step))


@pytest.mark.parametrize("host", HOSTS)
@every_case
def test_model(case, host):
    """From the file of a model and its checkpoint."""
    model, start = case.model(HOSTS[host]), golden_addons.MODEL_SAVED_AT
    optimizer = case.optimizer(model)
    found = checkpoints.optimizer_of(case.folder / "model.h5")
    assert type(found) is type(optimizer)
    model.compile(optimizer, "mse", run_eagerly=True)
    for path, steps in {"model.h5": 4, "model_ckpt/model": 2}.items():
        report = checkpoints.restore(case.folder / path, model)
        assert not report.problems
        assert_trains_on(case, model, start, start + steps)


# Without the architecture: weights of layers, not of parts of them.
FILES_OF_SEVERAL = ("model.h5", "converted", "converted.h5", "model_ckpt/model")


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", FILES_OF_SEVERAL)
def test_model_of_a_multi_optimizer(folder, name, host, tmp_path):
    """Whose original saves nothing of the optimizers inside but their options.

    What is missing is told, and all else is restored.
    """
    case = golden_addons.Case(folder / "multi_optimizer")
    path = case.folder / name
    if "converted" in name:
        path = tmp_path / name
        conversion.convert(str(case.folder / "model.h5"), str(path))
    model = case.model(HOSTS[host])
    optimizer = case.optimizer(model)
    model.compile(optimizer, "mse", run_eagerly=True)
    for each in optimizer.optimizers:
        each.learning_rate = 0.5
    with pytest.raises(checkpoints.MismatchError, match="missing") as caught:
        checkpoints.restore(path, model)
    missing = {e.target for e in caught.value.report.of("missing")}
    assert {
        "optimizer/optimizer_0/iter",
        "optimizer/optimizer_1/iter",
    } <= missing
    assert {"m", "v", "momentum"} <= {m.rpartition("/")[2] for m in missing}
    checkpoints.restore(path, model, strict=False)
    start = golden_addons.MODEL_SAVED_AT
    assert int(optimizer.iterations) == start
    expected = case.trace("model")[start - 1]
    for i, weights in enumerate(model.get_weights()):
        np.testing.assert_array_equal(weights, expected[f"model_{i}"])
    rates = [float(each.learning_rate) for each in optimizer.optimizers]
    if name != "model_ckpt/model":  # It has none.
        np.testing.assert_allclose(rates, [0.02, 0.1], rtol=1e-6)
