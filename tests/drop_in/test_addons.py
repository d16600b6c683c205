"""What stands in for tensorflow_addons, where it is not installed."""

import importlib
import importlib.util
import pickle
import sys

import pytest
import tensorflow as tf

import keras_legacy_opt
from keras_legacy_opt import addons, legacy_names

# Of what other tests have imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*imported from Keras before")


def test_every_module_and_name():
    with keras_legacy_opt.installed():
        for name, attributes in legacy_names.ADDONS.items():
            assert importlib.util.find_spec(name).name == name
            module = importlib.import_module(name)
            for attribute in attributes:
                value = getattr(module, attribute)
                assert value is getattr(addons, attribute)
        assert legacy_names.ADDONS["tensorflow_addons.optimizers"]
    assert not [m for m in sys.modules if m.startswith("tensorflow_addons")]
    with pytest.raises(ImportError):
        importlib.import_module("tensorflow_addons")


def test_old_code():
    """As it was written for tensorflow_addons, in all styles."""
    with keras_legacy_opt.installed():
        import tensorflow_addons as tfa
        from tensorflow_addons.optimizers import AdamW, Lookahead
        from tensorflow_addons.optimizers.weight_decay_optimizers import (
            extend_with_decoupled_weight_decay,
        )

        sgdw = extend_with_decoupled_weight_decay(
            tf.keras.optimizers.legacy.SGD
        )
        ranger = Lookahead(tfa.optimizers.RectifiedAdam(0.1), sync_period=2)
        adamw = AdamW(weight_decay=0.01, learning_rate=0.1)
        copy = pickle.loads(pickle.dumps(adamw))
        assert issubclass(sgdw, keras_legacy_opt.Optimizer)
    var = tf.Variable([1.0, 2.0])
    for optimizer in (ranger, adamw, copy):
        before = var.numpy()
        optimizer.apply_gradients([(tf.ones([2]), var)])
        assert (var.numpy() < before).all()


def test_installed_inside_installed():
    with keras_legacy_opt.installed():
        import tensorflow_addons as tfa

        with keras_legacy_opt.installed(top_level=True):
            pass
        assert tfa.optimizers.LAMB is addons.LAMB


def test_what_it_has_not():
    with keras_legacy_opt.installed():
        import tensorflow_addons as tfa

        assert not hasattr(tfa, "layers")
        with pytest.raises(AttributeError, match="stands in for its optim"):
            _ = tfa.metrics
        with pytest.raises(ImportError):
            importlib.import_module("tensorflow_addons.layers")


def test_the_real_package_is_left_alone(tmp_path, monkeypatch):
    package = tmp_path / "tensorflow_addons"
    package.mkdir()
    (package / "__init__.py").write_text("from . import optimizers, callbacks")
    (package / "optimizers.py").write_text("AdamW = 'real'")
    (package / "callbacks.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with keras_legacy_opt.installed():
            real = importlib.import_module("tensorflow_addons")
            assert real.optimizers.AdamW == "real"
        assert sys.modules["tensorflow_addons"] is real
        with keras_legacy_opt.installed():
            assert real.optimizers.AdamW == "real"
            assert importlib.import_module("tensorflow_addons") is real
    finally:
        for name in [m for m in sys.modules if m.startswith("tensorflow_add")]:
            del sys.modules[name]
