"""State of wrappers: in files of all kinds, pickles, copies."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt
from keras_legacy_opt import SGD, Adam, addons

from .conftest import INNER, WRAPPERS, assert_same, fit, make_model

every_wrapper = pytest.mark.parametrize("name", WRAPPERS)


def trained(name, steps=3, inner="Adam"):
    optimizer, var = WRAPPERS[name](INNER[inner]()), tf.Variable([1.0, 2.0])
    train(optimizer, var, steps)
    return optimizer, var


def train(optimizer, var, steps=3):
    for t in range(steps):
        optimizer.apply_gradients([(tf.constant([0.5, 1.0 + t]), var)])


def assert_go_on_alike(ours, expected, steps=5):
    for optimizer, var in (ours, expected):
        train(optimizer, var, steps)
    np.testing.assert_array_equal(ours[1], expected[1])
    assert_same(ours[0], expected[0])


@every_wrapper
@pytest.mark.parametrize("is_legacy", [True, False])
def test_configuration(name, is_legacy):
    optimizer = WRAPPERS[name](Adam(0.25, clipnorm=2.0))
    optimizer.clipvalue = 0.5
    config = keras_legacy_opt.serialize(optimizer, use_legacy_format=is_legacy)
    other = keras_legacy_opt.deserialize(config)
    assert type(other) is type(optimizer)
    assert other.get_config() == optimizer.get_config()
    inner = other
    while hasattr(inner, "_optimizer"):
        inner = inner._optimizer
    assert float(inner.learning_rate) == 0.25
    assert inner.clipnorm == 2.0


def test_configuration_of_tensorflow_addons():
    config = {
        "module": "tensorflow_addons.optimizers.moving_average",
        "class_name": "MovingAverage",
        "config": {
            "name": "MovingAverage",
            "optimizer": {
                "module": "keras.optimizers.legacy",
                "class_name": "SGD",
                "config": {"name": "SGD", "learning_rate": 0.5, "decay": 0.0},
                "registered_name": None,
            },
            "average_decay": 0.9,
            "num_updates": None,
            "start_step": 2,
            "dynamic_decay": True,
        },
        "registered_name": "Addons>MovingAverage",
    }
    optimizer = keras_legacy_opt.deserialize(config)
    assert isinstance(optimizer, addons.MovingAverage)
    assert float(optimizer.lr) == 0.5
    assert optimizer.get_config()["start_step"] == 2
    old = {
        "class_name": "Addons>Lookahead",
        "config": {
            "optimizer": {"class_name": "Adam", "config": {"lr": 0.5}},
            "sync_period": 4,
            "slow_step_size": 0.25,
        },
    }
    assert int(keras_legacy_opt.deserialize(old).sync_period) == 4


@every_wrapper
@pytest.mark.parametrize("restore_first", [True, False])
def test_checkpoint(name, restore_first, tmp_path):
    optimizer, var = trained(name)
    path = tf.train.Checkpoint(o=optimizer, v=var).save(tmp_path / "c")
    other, restored = trained(name, 0 if restore_first else 2)
    status = tf.train.Checkpoint(o=other, v=restored).restore(path)
    train(other, restored, 1)
    status.assert_consumed()
    train(optimizer, var, 1)
    assert_go_on_alike((other, restored), (optimizer, var))


def test_names_in_checkpoints(tmp_path):
    """As in those of tensorflow_addons."""
    for name, child, slot in (
        ("MovingAverage", "awg_optimizer", "average"),
        ("Lookahead", "lh_base_optimizer", "slow"),
    ):
        optimizer, var = trained(name)
        path = tf.train.Checkpoint(o=optimizer, v=var).save(tmp_path / name)
        names = {
            key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
            for key, _ in tf.train.list_variables(path)
        }
        assert names - {"_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter"} == {
            "v",
            "o/iter",
            f"o/{child}/beta_1",
            f"o/{child}/beta_2",
            f"o/{child}/decay",
            f"o/{child}/learning_rate",
            f"v/.OPTIMIZER_SLOT/o/{slot}",
            f"v/.OPTIMIZER_SLOT/o/{child}/m",
            f"v/.OPTIMIZER_SLOT/o/{child}/v",
        }


@every_wrapper
def test_get_and_set_weights(name):
    optimizer, var = trained(name)
    for steps in (0, 1):
        other, same = trained(name, steps)
        same.assign(var)
        other.set_weights(optimizer.get_weights())
        assert_go_on_alike((other, same), trained_copy(optimizer, var), 2)


def trained_copy(optimizer, var):
    """An equal pair, which may be trained."""
    copied, same = pickle.loads(pickle.dumps(optimizer)), tf.Variable(var)
    return copied, same


@every_wrapper
def test_pickle(name, tmp_path):
    optimizer, var = trained(name)
    other, same = trained_copy(optimizer, var)
    assert_go_on_alike((other, same), (optimizer, var))
    path = tf.train.Checkpoint(o=other, v=same).save(tmp_path / "c")
    keys = [key for key, _ in tf.train.list_variables(path)]
    assert any(optimizer._CHILD in key for key in keys)


@every_wrapper
def test_deepcopy(name):
    optimizer, var = trained(name)
    copied = copy.deepcopy(optimizer)
    before = [w.numpy() for w in copied.weights]
    train(optimizer, var, 2)
    for a, b in zip(before, copied.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert copied._optimizer is not optimizer._optimizer
    assert copied.iterations is copied._optimizer.iterations


def test_around_an_optimizer_that_was_trained():
    """It goes on where it was; with a wrapper, or without."""
    inner, var = SGD(1.0, momentum=0.5), tf.Variable([0.0, 0.0])
    train(inner, var, 2)
    optimizer = addons.MovingAverage(inner, 0.5)
    train(optimizer, var, 1)
    assert int(optimizer.iterations) == int(inner.iterations) == 3
    assert len(optimizer.weights) == 3
    train(inner, var, 1)
    assert int(optimizer.iterations) == 4


@every_wrapper
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_hdf5_file(name, tmp_path):
    import tf_keras

    model = fit(make_model(tf_keras, WRAPPERS[name](Adam(0.1))))
    model.save(tmp_path / "m.h5")
    loaded = tf_keras.models.load_model(tmp_path / "m.h5")
    for each in (model, loaded):
        fit(each)
    assert_same(loaded.optimizer, model.optimizer)


@pytest.mark.parametrize("name", ["MovingAverage", "nested"])
def test_saved_model(name, tmp_path):
    """A function that trains; and tf_keras' models."""
    optimizer, var = WRAPPERS[name](Adam(0.1)), tf.Variable([1.0, 2.0])
    module = tf.Module()
    module.optimizer, module.var = optimizer, var

    @tf.function(input_signature=[tf.TensorSpec([2])])
    def step(grad):
        optimizer.apply_gradients([(grad, var)])
        return var.read_value()

    module.step = step
    grad = tf.constant([0.5, 1.0])
    step(grad)
    tf.saved_model.save(module, str(tmp_path / "m"))
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    for _ in range(3):
        np.testing.assert_array_equal(step(grad), loaded.step(grad))


@pytest.mark.filterwarnings("ignore:Skipping full serialization")
def test_saved_model_of_keras(tmp_path):
    import tf_keras

    model = fit(make_model(tf_keras, WRAPPERS["nested"](Adam(0.1))))
    model.save(tmp_path / "m", save_format="tf")
    loaded = tf_keras.models.load_model(tmp_path / "m")
    for each in (model, loaded):
        fit(each)
    assert_same(loaded.optimizer, model.optimizer)


def test_models_that_are_built_in_fit(host):
    """Their variables have no values when the slots are first asked for."""
    results = []
    for is_built in (True, False):
        host.utils.set_random_seed(0)
        model = host.Sequential([host.layers.Dense(2, "relu")])
        if is_built:
            model.build((None, 3))
        optimizer = addons.MovingAverage(addons.Lookahead(Adam(0.1), 2), 0.5)
        model.compile(optimizer, "mse")
        fit(model)
        results.append(optimizer.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
