"""Wrappers that hold an optimizer, and count its weights among their own."""

import pickle
import warnings

import keras
import numpy as np
import pytest
import tf_keras
import third_party

import keras_legacy_opt
from keras_legacy_opt import (
    SGD,
    Adam,
    LossScaleOptimizer,
    addons,
    checkpoints,
)


class Lookahead(third_party.lookahead(keras_legacy_opt).__mro__[1]):
    def get_config(self):
        config = super().get_config()
        config["optimizer"] = keras_legacy_opt.serialize(config["optimizer"])
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        optimizer = keras_legacy_opt.deserialize(config["optimizer"])
        return cls(**{**config, "optimizer": optimizer})


MovingAverage = third_party.moving_average(keras_legacy_opt)
MovingAverage.__qualname__ = "MovingAverage"  # For pickles.
MovingAverage.__module__ = __name__
WRAPPERS = {"Lookahead": Lookahead, "MovingAverage": MovingAverage}
X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = np.ones((8, 1), "float32")


@pytest.fixture(params=[keras, tf_keras], ids=["keras3", "tf_keras"])
def host(request):
    return request.param


def make_model(host, optimizer):
    host.utils.set_random_seed(0)
    layers = host.layers
    model = host.Sequential(
        [layers.Input((3,)), layers.Dense(2), layers.Dense(1)]
    )
    model.compile(optimizer, "mse")
    return model


def train(model, epochs=2):
    model.fit(X, Y, 4, epochs=epochs, shuffle=False, verbose=0)
    return model


def assert_equal(optimizer, other):
    for a, b in zip(optimizer.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(optimizer.iterations) == int(other.iterations)
    inner, other_inner = optimizer._optimizer, other._optimizer
    assert int(inner.iterations) == int(other_inner.iterations)


def assert_inner_slots_equal(model, other):
    for variable, same in zip(
        model.trainable_variables, other.trainable_variables, strict=True
    ):
        for slot in ("m", "v"):
            np.testing.assert_array_equal(
                model.optimizer._optimizer.get_slot(variable, slot),
                other.optimizer._optimizer.get_slot(same, slot),
            )


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_keras_file_restores_what_a_wrapper_holds(host, wrapper, tmp_path):
    model = train(make_model(host, WRAPPERS[wrapper](Adam(0.1))))
    model.save(tmp_path / "m.keras")
    loaded = host.models.load_model(
        tmp_path / "m.keras", custom_objects=WRAPPERS
    )

    for each in (model, loaded):
        train(each)

    assert type(loaded.optimizer) is WRAPPERS[wrapper]
    assert int(loaded.optimizer.iterations) == 8
    assert_equal(model.optimizer, loaded.optimizer)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_state_is_there_before_the_next_step(tmp_path):
    """Keras 3 builds what it loads."""
    model = train(make_model(keras, MovingAverage(Adam(0.1))))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(
        tmp_path / "m.keras", custom_objects=WRAPPERS
    )
    for a, b in zip(
        model.optimizer.get_weights(),
        loaded.optimizer.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("wrapper", ["MovingAverage", "GradientAccumulation"])
def test_saved_model_of_a_wrapper_with_a_loss_scale(wrapper, tmp_path):
    optimizer = {
        "MovingAverage": lambda: addons.MovingAverage(Adam(0.1), 0.5),
        "GradientAccumulation": lambda: addons.GradientAccumulation(
            Adam(0.1), 3
        ),
    }[wrapper]()
    model = train(make_model(tf_keras, LossScaleOptimizer(optimizer)))
    model.save(tmp_path / "m", save_format="tf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = tf_keras.models.load_model(tmp_path / "m")
    assert int(loaded.optimizer.iterations) > 0
    for each in (model, loaded):
        each.optimizer.inner_optimizer.learning_rate = 0.05
    for _ in range(2):
        assert_equal(
            model.optimizer.inner_optimizer, loaded.optimizer.inner_optimizer
        )
        for name in ("loss_scale", "dynamic_counter"):
            assert float(getattr(model.optimizer, name)) == float(
                getattr(loaded.optimizer, name)
            )
        for each in (model, loaded):
            train(each)


@pytest.mark.parametrize(
    "wrap", [lambda o: o, addons.MovingAverage], ids=["bare", "MovingAverage"]
)
@pytest.mark.parametrize("given", ["nothing", "inner", "outer"])
@pytest.mark.parametrize("as_weights", [False, True])
def test_checkpoint_of_a_loss_scale(wrap, given, as_weights, host, tmp_path):
    def make():
        return make_model(host, LossScaleOptimizer(wrap(Adam(0.1))))

    model, other = train(make()), make()
    optimizer = {
        "nothing": None,
        "inner": model.optimizer.inner_optimizer,
        "outer": model.optimizer,
    }[given]
    path = checkpoints.save(
        tmp_path / "m", model, optimizer, as_weights=as_weights
    )
    report = checkpoints.restore(path, other)
    assert not report.problems
    for a, b in zip(
        model.optimizer.get_weights(),
        other.optimizer.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert int(other.optimizer.dynamic_counter) == 4


@pytest.mark.parametrize("option", ["clipnorm", "clipvalue", "global_clipnorm"])
@pytest.mark.parametrize("around", [False, True])
def test_saved_model_with_limits_of_clipping(option, around, tmp_path):
    """They are in the configuration; nobody misses them."""
    optimizer = Adam(0.1, **{option: 0.5})
    if around:
        optimizer = addons.Lookahead(optimizer, **{option: 0.25})
    model = train(make_model(tf_keras, optimizer))
    model.save(tmp_path / "m", save_format="tf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = tf_keras.models.load_model(tmp_path / "m")
    assert loaded.optimizer.get_config() == optimizer.get_config()
    for each in (model, loaded):
        train(each)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pickle_of_a_wrapper():
    model = train(make_model(keras, MovingAverage(Adam(0.1))))
    loaded = make_model(keras, pickle.loads(pickle.dumps(model.optimizer)))
    loaded.set_weights(model.get_weights())
    for each in (model, loaded):
        train(each)
    assert_equal(model.optimizer, loaded.optimizer)


def test_unfrozen_variables_of_a_wrapper(tmp_path):
    """Slots find their variables by name, whichever came first."""
    model = make_model(keras, MovingAverage(Adam(0.1)))
    model.layers[0].trainable = False
    train(model)
    model.layers[0].trainable = True
    model.compile(model.optimizer, "mse")
    train(model)
    model.save(tmp_path / "m.keras")
    other = keras.models.load_model(
        tmp_path / "m.keras", custom_objects=WRAPPERS
    )
    assert_inner_slots_equal(model, other)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_frozen_layers_of_a_wrapper(wrapper, host, tmp_path):
    """What it holds keeps the slots of all that was ever trained, too."""
    model = train(make_model(host, WRAPPERS[wrapper](Adam(0.1))))
    model.layers[0].trainable = False
    model.compile(model.optimizer, "mse")
    train(model)
    model.save(tmp_path / "m.keras")
    loaded = host.models.load_model(
        tmp_path / "m.keras", custom_objects=WRAPPERS
    )
    for each in (model, loaded):
        each.layers[0].trainable = True
        each.compile(each.optimizer, "mse")
        train(each)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert_inner_slots_equal(model, loaded)


class Both(keras_legacy_opt.Optimizer):
    """Hides two optimizers where Keras' savers do not look."""

    def __init__(self, name="Both", **kwargs):
        super().__init__(name, **kwargs)
        self._specs = [{"optimizer": SGD(0.1, momentum=0.5)}]

    @property
    def weights(self):
        return [w for s in self._specs for w in s["optimizer"].weights]

    def apply_gradients(self, grads_and_vars, name=None, **kwargs):
        optimizer = self._specs[0]["optimizer"]
        return optimizer.apply_gradients(grads_and_vars, name, **kwargs)


def test_what_keras_does_not_find_is_told(host, tmp_path):
    model = train(make_model(host, Both()))
    with pytest.warns(UserWarning, match="will not have.*of Both.*/momentum:0"):
        model.save(tmp_path / "m.keras")
