"""Optimizers and schedules by name, by config, and through every Keras."""

import json

import keras
import numpy as np
import pytest
import registry
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from keras_legacy_opt import schedules

NAMES = [row.name for row in registry.BUILT_IN]
SCHEDULES = {
    "ExponentialDecay": (0.1, 2, 0.5),
    "PiecewiseConstantDecay": ([2, 4], [0.1, 0.2, 0.3]),
    "PolynomialDecay": (0.1, 5),
    "InverseTimeDecay": (0.1, 2, 0.5),
    "CosineDecay": (0.1, 5),
    "CosineDecayRestarts": (0.1, 5),
}
MODULES = {
    "ours": schedules,
    "keras3": keras.optimizers.schedules,
    "tf_keras": tf_keras.optimizers.schedules,
}


@pytest.mark.parametrize("name", NAMES)
def test_get_by_name(name):
    cls = getattr(keras_legacy_opt, name)
    for spelling in (name, name.lower(), name.upper()):
        assert type(keras_legacy_opt.get(spelling)) is cls
    optimizer = cls()
    assert keras_legacy_opt.get(optimizer) is optimizer


@pytest.mark.parametrize("case", registry.own_cases(registry.BUILT_IN), ids=str)
def test_round_trips(case):
    """Ours, Keras 3's and tf_keras' serializers, through JSON, any to any."""
    optimizer = case.build(registry.SUBJECT)
    if "callable" in case.option_name:
        # Legacy's config holds the value that the callable returns.
        assert optimizer.get_config()["momentum"] == 0.7
    expected = optimizer.get_config()
    for writer in (keras_legacy_opt, keras.optimizers, tf_keras.optimizers):
        config = json.loads(json.dumps(writer.serialize(optimizer)))
        for reader in (
            keras_legacy_opt,
            keras.optimizers,
            tf_keras.optimizers,
        ):
            again = reader.deserialize(json.loads(json.dumps(config)))
            assert type(again) is type(optimizer)
            assert again.get_config() == expected
    assert keras_legacy_opt.get(config).get_config() == expected


def test_old_configs():
    """As Keras 1 and 2 wrote them, with nested schedules and other keys."""
    old = {
        "class_name": "Adam",
        "config": {"lr": 0.01, "decay": 1e-3, "epsilon": None},
    }
    config = keras_legacy_opt.get(old).get_config()
    assert (config["learning_rate"], config["decay"]) == (0.01, 1e-3)
    assert config["epsilon"] == 1e-7
    assert old["config"]["lr"] == 0.01  # The argument is left as it was.

    adagrad = {"class_name": "Adagrad", "config": {"lr": 0.1}}
    config = keras_legacy_opt.get(adagrad).get_config()
    assert config["initial_accumulator_value"] == 0.1

    newer = {
        "module": "keras.optimizers.legacy",
        "class_name": "SGD",
        "registered_name": None,
        "config": {
            "name": "SGD",
            "is_legacy_optimizer": True,
            "learning_rate": {
                "module": "keras.optimizers.schedules",
                "class_name": "PolynomialDecay",
                "config": {"initial_learning_rate": 0.1, "decay_steps": 10},
                "registered_name": None,
            },
        },
    }
    schedule = keras_legacy_opt.get(newer).lr
    assert type(schedule) is schedules.PolynomialDecay
    np.testing.assert_allclose(schedule(10), 1e-4, rtol=1e-6)


@pytest.mark.parametrize("provider", MODULES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_of_every_keras_survive(name, provider):
    schedule = getattr(MODULES[provider], name)(*SCHEDULES[name])
    optimizer = keras_legacy_opt.SGD(schedule)
    config = json.loads(json.dumps(optimizer.get_config()))

    again = keras_legacy_opt.SGD.from_config(config)

    assert type(again.lr) is type(schedule)
    for step in range(8):
        assert float(again.lr(step)) == float(schedule(step))
    for host in (keras, tf_keras):
        through_host = host.optimizers.deserialize(
            host.optimizers.serialize(optimizer)
        )
        assert type(through_host.lr) is type(schedule)
    # Nadam is the one that takes none.
    with pytest.raises(ValueError, match="Nadam does not support"):
        keras_legacy_opt.Nadam(schedule)


class Halving(schedules.LearningRateSchedule):
    def __init__(self, start):
        self.start = start

    def __call__(self, step):
        return self.start * 0.5 ** tf.cast(step, tf.float32)

    def get_config(self):
        return {"start": self.start}


def test_custom_objects():
    class Doubled(keras_legacy_opt.SGD):
        pass

    config = keras_legacy_opt.serialize(Doubled(Halving(0.5)))
    again = keras_legacy_opt.deserialize(
        config, custom_objects={"Doubled": Doubled, "Halving": Halving}
    )
    assert type(again) is Doubled
    assert again.lr.start == 0.5
    # The schedule's own module is enough to find it.
    assert type(again.lr) is type(
        keras_legacy_opt.SGD.from_config(config["config"]).lr
    )
    with pytest.raises(ValueError, match="Unknown optimizer 'Doubled'"):
        keras_legacy_opt.deserialize(config)


@pytest.mark.parametrize("host", [keras, tf_keras], ids=["keras3", "tf_keras"])
def test_registered_subclass(host):
    @host.saving.register_keras_serializable(package=f"t_{host.__name__}")
    class Registered(keras_legacy_opt.Adam):
        pass

    config = host.optimizers.serialize(Registered(0.5))
    assert type(keras_legacy_opt.deserialize(config)) is Registered
    assert type(host.optimizers.deserialize(config)) is Registered
