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


CASES = registry.own_cases(
    (*registry.BUILT_IN, *registry.ADDONS, *registry.WRAPPERS)
)


@pytest.mark.parametrize("case", CASES, ids=str)
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

    stored = config["learning_rate"]
    assert stored == json.loads(
        json.dumps(MODULES[provider].serialize(schedule))
    )
    if provider != "ours":
        assert stored["module"] == "keras.optimizers.schedules"
        assert stored["registered_name"] is None

    copies = [keras_legacy_opt.SGD.from_config(config)]
    for host in (keras, tf_keras):
        copies.append(
            host.optimizers.deserialize(host.optimizers.serialize(optimizer))
        )
    for again in copies:
        # Both Kerases, of all ages, call theirs the same: it becomes ours.
        assert type(again.lr) is getattr(schedules, name)
        assert again.lr.get_config() == schedule.get_config()
        for step in range(8):
            assert float(again.lr(step)) == float(schedule(step))
        assert again.get_config()["learning_rate"]["config"] == stored["config"]
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


@pytest.mark.parametrize("host", [keras, tf_keras], ids=["keras3", "tf_keras"])
def test_schedule_of_a_user_of_a_keras(host):
    """Its Keras serializes it; by what its author registered, it is found."""

    @host.saving.register_keras_serializable(package=f"t_{host.__name__}")
    class Constant(host.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return tf.constant(0.25)

        def get_config(self):
            return {}

    optimizer = keras_legacy_opt.SGD(Constant())
    config = keras_legacy_opt.serialize(optimizer)
    stored = config["config"]["learning_rate"]
    assert stored == host.saving.serialize_keras_object(Constant())
    assert type(keras_legacy_opt.deserialize(config).lr) is Constant


def test_arguments_of_tensorflow_2_11_to_2_15():
    class Doubled(keras_legacy_opt.SGD):
        pass

    custom_objects = {"Doubled": Doubled}
    old = keras_legacy_opt.serialize(Doubled(0.5), use_legacy_format=True)
    assert old.keys() == {"class_name", "config"}
    new = keras_legacy_opt.serialize(Doubled(0.5), use_legacy_format=False)
    for config in (old, new):
        for legacy_format in (False, True):
            for legacy_optimizer in (False, True):
                for call in (
                    keras_legacy_opt.get,
                    keras_legacy_opt.deserialize,
                ):
                    again = call(
                        config,
                        custom_objects=custom_objects,
                        use_legacy_format=legacy_format,
                        use_legacy_optimizer=legacy_optimizer,
                    )
                    assert type(again) is Doubled
                    assert again.get_config()["learning_rate"] == 0.5
    by_name = keras_legacy_opt.get("Doubled", custom_objects=custom_objects)
    assert type(by_name) is Doubled
    # As legacy, an optimizer of ours is called by its bare name there.
    legacy = tf_keras.optimizers
    assert keras_legacy_opt.serialize(
        keras_legacy_opt.Adam(0.5), use_legacy_format=True
    ) == legacy.serialize(legacy.legacy.Adam(0.5), use_legacy_format=True)
    assert keras_legacy_opt.serialize(None) is None
    with pytest.warns(UserWarning, match="for optimizers. Received"):
        assert keras_legacy_opt.serialize(5) == 5


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_by_their_own_functions(name):
    schedule = getattr(schedules, name)(*SCHEDULES[name])
    theirs = getattr(tf_keras.optimizers.schedules, name)(*SCHEDULES[name])
    old = schedules.serialize(schedule, use_legacy_format=True)
    assert old == tf_keras.optimizers.schedules.serialize(
        theirs, use_legacy_format=True
    )
    for written in (
        old,
        schedules.serialize(schedule),
        schedules.serialize(theirs),
        # What `learning_rate` returns is at the same time a number.
        schedules.serialize(keras_legacy_opt.SGD(schedule).learning_rate),
        schedules.serialize(keras_legacy_opt.SGD(theirs).learning_rate),
        tf_keras.optimizers.schedules.serialize(schedule),
        keras.optimizers.schedules.serialize(schedule),
    ):
        again = schedules.deserialize(json.loads(json.dumps(written)))
        assert type(again) is type(schedule)
        assert again.get_config() == schedule.get_config()
    found = schedules.deserialize(
        {"class_name": "Mine", "config": {"start": 0.5}},
        custom_objects={"Mine": Halving},
        use_legacy_format=True,
    )
    assert type(found) is Halving
    with pytest.raises(ValueError, match="Unknown schedule 'Mine'"):
        schedules.deserialize({"class_name": "Mine", "config": {}})


def scaled(value):
    return 2 * value


class Holder(keras_legacy_opt.Optimizer):
    """Its config holds objects, as they are."""

    def __init__(self, inner, other=None, name="Holder", **kwargs):
        super().__init__(name)
        self.inner, self.other, self.kwargs = inner, other, kwargs

    def get_config(self):
        return {
            **super().get_config(),
            "inner": self.inner,
            "other": self.other,
            **self.kwargs,
        }


class Restoring(Holder):
    """And its `from_config` has no `custom_objects`, as many had none."""

    @classmethod
    def from_config(cls, config):
        config["inner"] = keras_legacy_opt.deserialize(config["inner"])
        config["other"] = schedules.deserialize(config["other"])
        return cls(**config)


def test_nested_objects_are_serialized():
    inner = Holder(keras_legacy_opt.Adam(Halving(0.5)), [Halving(0.25)])
    holder = Restoring(
        inner,
        keras.optimizers.schedules.CosineDecay(0.1, 5),
        array=np.ones(2),
        number=np.float32(0.5),
        nested={"a": (1, [Halving(2.0)])},
    )
    config = keras_legacy_opt.serialize(holder)
    assert json.loads(json.dumps(config))["config"] == {
        "name": "Holder",
        "inner": json.loads(json.dumps(keras_legacy_opt.serialize(inner))),
        "other": keras.optimizers.schedules.serialize(holder.other),
        "array": {
            "class_name": "__numpy__",
            "config": {"value": [1.0, 1.0], "dtype": "float64"},
        },
        "number": 0.5,
        "nested": {"a": [1, [schedules.serialize(Halving(2.0))]]},
    }
    nested = config["config"]["inner"]["config"]
    assert nested["inner"]["class_name"] == "Adam"
    assert nested["inner"]["config"]["learning_rate"]["class_name"] == "Halving"
    assert nested["other"][0]["config"] == {"start": 0.25}


def test_from_config_without_custom_objects():
    """It is called without them; what they name is found all the same."""

    class Inner(keras_legacy_opt.SGD):
        pass

    class Rate(Halving):
        pass

    config = keras_legacy_opt.serialize(Restoring(Inner(0.5), Rate(0.25)))
    for written in (config, json.loads(json.dumps(config))):
        again = keras_legacy_opt.deserialize(
            written,
            {"Restoring": Restoring, "Inner": Inner, "Rate": Rate},
        )
        assert type(again) is Restoring
        assert type(again.inner) is Inner
        assert type(again.other) is Rate
    with pytest.raises(ValueError, match="Unknown optimizer 'Inner'"):
        keras_legacy_opt.deserialize(config, {"Restoring": Restoring})


def test_what_keras_2_serialized_unasked():
    """Its old format: objects of a config are marked, functions are names."""
    holder = Holder(
        keras_legacy_opt.Adam(0.5), schedules.CosineDecay(0.1, 5), f=scaled
    )
    config = json.loads(
        json.dumps(keras_legacy_opt.serialize(holder, use_legacy_format=True))
    )
    assert config["config"]["inner"]["__passive_serialization__"]
    assert config["config"]["f"] == "scaled"
    again = keras_legacy_opt.deserialize(
        config, {"Holder": Holder, "scaled": scaled}
    )
    assert type(again.inner) is keras_legacy_opt.Adam
    assert type(again.other) is schedules.CosineDecay
    assert again.kwargs == {"f": scaled}


def test_a_function_that_makes_an_optimizer():
    made = keras_legacy_opt.get(
        {"class_name": "halved", "config": {"rate": 1.0}},
        custom_objects={"halved": lambda rate: keras_legacy_opt.SGD(rate / 2)},
    )
    assert made.get_config()["learning_rate"] == 0.5


def test_only_known_arguments():
    for call in (keras_legacy_opt.get, keras_legacy_opt.deserialize):
        with pytest.raises(TypeError, match="unexpected keyword"):
            call({"class_name": "SGD", "config": {}}, use_legacy=True)
