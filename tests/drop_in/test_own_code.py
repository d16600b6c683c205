"""What `install` gives to a module, the module's own code does not see."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_legacy_opt

# Files that TensorFlow still has, with classes that call `super(Name, self)`.
FILES = "tensorflow.python.keras.optimizer_v2"
CLASSES = {
    "adam": "Adam",
    "gradient_descent": "SGD",
    "learning_rate_schedule": "ExponentialDecay",
    "optimizer_v2": "OptimizerV2",
}
pytestmark = pytest.mark.filterwarnings("ignore:.*imported from Keras before")


@pytest.mark.parametrize("top_level", [False, True])
@pytest.mark.parametrize("compiled", ["ours", "own", "by name", "not"])
def test_saved_models_are_loaded_while_it_is_installed(
    compiled, top_level, tmp_path
):
    folder = str(tmp_path / "model")
    with keras_legacy_opt.installed(top_level):
        optimizers = {
            "ours": lambda: keras_legacy_opt.Adam(0.1),
            "own": lambda: tf_keras.optimizers.Adam(0.1),
            "by name": lambda: "adam",
        }
        model = tf_keras.Sequential([tf_keras.layers.Dense(1)])
        if compiled == "not":
            model(np.ones((4, 2)))
        else:
            model.compile(optimizers[compiled](), "mse")
            model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
        model.save(folder)
        loaded = tf_keras.models.load_model(folder)
        np.testing.assert_array_equal(
            loaded.predict(np.ones((4, 2)), verbose=0),
            model.predict(np.ones((4, 2)), verbose=0),
        )
        if compiled != "not":
            assert type(loaded.optimizer) is type(model.optimizer)
        if isinstance(model.optimizer, keras_legacy_opt.Optimizer):
            assert int(loaded.optimizer.iterations) == 1


@pytest.mark.parametrize(("file", "name"), CLASSES.items())
def test_files_have_two_faces(file, name):
    """Ours for who imports them, their own for themselves."""
    module = importlib.import_module(f"{FILES}.{file}")
    own = getattr(module, name)
    with keras_legacy_opt.installed():
        assert getattr(module, name) is not own
        assert getattr(module, name).__module__.startswith("keras_legacy_opt")
        assert vars(module)[name] is own
        module.other = own  # As it is with any module.
        assert module.other is own
        del module.other
    assert getattr(module, name) is own
    assert type(module) is type(importlib)


def test_instances_of_the_files_classes_go_on():
    sgd = importlib.import_module(f"{FILES}.gradient_descent").SGD
    with keras_legacy_opt.installed():
        optimizer = sgd(0.5)
        variable = tf.Variable(1.0)
        optimizer.apply_gradients([(tf.constant(1.0), variable)])
        assert float(variable) == 0.5


def test_who_sets_an_attribute_has_it(monkeypatch):
    adam = importlib.import_module(f"{FILES}.adam")
    with keras_legacy_opt.installed():
        with monkeypatch.context() as patch:
            patch.setattr(adam, "Adam", keras.Model)
            assert adam.Adam is keras.Model
        assert adam.Adam is not keras.Model
