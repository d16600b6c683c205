"""Learning rates that cycle and warm up; BERT's AdamWeightDecay."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import third_party

import keras_legacy_opt
from keras_legacy_opt import SGD, addons

from .conftest import fit, make_model


def halving(x):
    return 1 / x


def reference(step, kind, gamma=0.9):
    """The formula, in float64."""
    cycle = np.floor(1 + step / 8)
    height = max(0.0, 1 - abs(step / 4 - 2 * cycle + 1))
    scale = {
        "Cyclical": 1 / cycle,
        "TriangularCyclical": 1.0,
        "Triangular2Cyclical": 1 / 2 ** (cycle - 1),
        "ExponentialCyclical": gamma**step,
    }[kind]
    return 0.1 + 0.9 * height * scale


CYCLICAL = {
    "Cyclical": {"scale_fn": halving},
    "TriangularCyclical": {},
    "Triangular2Cyclical": {},
    "ExponentialCyclical": {"gamma": 0.9},
}
every_kind = pytest.mark.parametrize("kind", CYCLICAL)


def make(kind):
    cls = getattr(addons, f"{kind}LearningRate")
    return cls(0.1, 1.0, step_size=4, **CYCLICAL[kind])


@every_kind
def test_cyclical(kind):
    schedule = make(kind)
    for step in range(20):
        expected = reference(step, kind)
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-5)
        assert schedule(tf.constant(step, tf.int64)).dtype == tf.float32


@every_kind
def test_cyclical_in_configurations_and_fit(kind, host):
    schedule = make(kind)
    custom = {"halving": halving} if kind == "Cyclical" else None
    config = keras_legacy_opt.serialize(SGD(schedule))
    optimizer = keras_legacy_opt.deserialize(config, custom_objects=custom)
    assert (
        optimizer.get_config()["learning_rate"]["config"]
        == SGD(schedule).get_config()["learning_rate"]["config"]
    )
    model = fit(make_model(host, optimizer))
    np.testing.assert_allclose(
        float(model.optimizer.learning_rate), reference(3, kind), rtol=1e-5
    )
    if custom:
        with pytest.raises(ValueError, match="not registered"):
            keras_legacy_opt.deserialize(config)


def test_configuration_of_tensorflow_addons():
    config = {
        "module": "tensorflow_addons.optimizers.cyclical_learning_rate",
        "class_name": "TriangularCyclicalLearningRate",
        "config": {
            "initial_learning_rate": 0.1,
            "maximal_learning_rate": 1.0,
            "step_size": 4,
            "scale_mode": "cycle",
        },
        "registered_name": "Addons>TriangularCyclicalLearningRate",
    }
    schedule = keras_legacy_opt.schedules.deserialize(config)
    np.testing.assert_allclose(float(schedule(3)), 0.775)


@pytest.mark.parametrize("from_start", [False, True])
def test_warm_up(from_start, traced):
    decay = keras_legacy_opt.schedules.PolynomialDecay(0.5, 10, 0.1)
    schedule = addons.WarmUp(
        0.5, decay, 4, power=2.0, decay_from_start=from_start
    )
    copied = keras_legacy_opt.schedules.deserialize(
        keras_legacy_opt.schedules.serialize(schedule)
    )
    assert copied.get_config() == schedule.get_config()
    rate = traced(lambda step: copied(step))
    for step in range(8):
        expected = 0.5 * (step / 4) ** 2
        if step >= 4:
            expected = float(decay(step if from_start else step - 4))
        actual = rate(tf.constant(step, tf.int64))
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


BERT = {
    "name": "AdamWeightDecay",
    "learning_rate": {
        "module": "transformers.optimization_tf",
        "class_name": "WarmUp",
        "config": {
            "initial_learning_rate": 5e-05,
            "decay_schedule_fn": {
                "module": "keras.optimizers.schedules",
                "class_name": "PolynomialDecay",
                "config": {
                    "initial_learning_rate": 5e-05,
                    "decay_steps": 900,
                    "end_learning_rate": 0.0,
                    "power": 1.0,
                    "cycle": False,
                    "name": None,
                },
                "registered_name": None,
            },
            "warmup_steps": 100,
            "power": 1.0,
            "name": None,
        },
        "registered_name": "WarmUp",
    },
    "decay": 0.0,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-08,
    "amsgrad": False,
    "weight_decay_rate": 0.01,
}


def test_configurations_of_others():
    optimizer = keras_legacy_opt.deserialize(
        {
            "module": "transformers.optimization_tf",
            "class_name": "AdamWeightDecay",
            "config": BERT,
            "registered_name": "AdamWeightDecay",
        }
    )
    assert isinstance(optimizer, addons.AdamWeightDecay)
    assert float(optimizer.weight_decay_rate) == np.float32(0.01)
    assert optimizer.gradient_clip_norm == 0
    np.testing.assert_allclose(
        float(optimizer.learning_rate(50)), 2.5e-05, rtol=1e-6
    )
    again = keras_legacy_opt.get(keras_legacy_opt.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    of_models = {
        **BERT,
        "gradient_clip_norm": 1.0,
        "include_in_weight_decay": ["kernel"],
        "exclude_from_weight_decay": ["LayerNorm", "bias"],
    }
    optimizer = addons.AdamWeightDecay.from_config(of_models)
    assert optimizer.gradient_clip_norm == 1.0
    assert optimizer.exclude_from_weight_decay == ["LayerNorm", "bias"]


def test_adam_weight_decay_is_that_of_others(traced, rng):
    """Dense and sparse, next to the code that such packages have."""
    ours = addons.AdamWeightDecay(
        0.1,
        beta_2=0.8,
        weight_decay_rate=0.2,
        exclude_from_weight_decay=["vector"],
        gradient_clip_norm=1.0,
    )
    theirs = third_party.adam_weight_decay(tf_keras.optimizers.legacy)(
        0.1,
        beta_2=0.8,
        weight_decay_rate=0.2,
        exclude_from_weight_decay=["vector"],
    )
    results = []
    seed = rng.integers(1000)
    for optimizer in (ours, theirs):
        rng = np.random.default_rng(seed)
        variables = [
            tf.Variable(rng.normal(size=shape).astype("float32"), name=name)
            for name, shape in (
                ("matrix", (3, 2)),
                ("vector", (4,)),
                ("table", (5, 2)),
            )
        ]

        def step(*grads, optimizer=optimizer, variables=variables):
            optimizer.apply_gradients(zip(grads, variables, strict=True))

        step = traced(step)
        for _ in range(4):
            step(
                tf.constant(rng.normal(size=(3, 2)).astype("float32")),
                tf.constant(rng.normal(size=4).astype("float32")),
                tf.IndexedSlices(
                    tf.constant(rng.normal(size=(3, 2)).astype("float32")),
                    tf.constant([1, 3, 1]),
                    tf.constant([5, 2]),
                ),
            )
        results.append([v.numpy() for v in variables])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)


def test_inclusion_wins_and_rate_may_change():
    optimizer = addons.AdamWeightDecay(
        0.5,
        weight_decay_rate=0.5,
        include_in_weight_decay=["output"],
        exclude_from_weight_decay=["kernel"],
    )
    variables = [
        tf.Variable(1.0, name=name) for name in ("output/kernel", "kernel")
    ]

    @tf.function
    def step():
        optimizer.apply_gradients([(tf.constant(0.0), v) for v in variables])

    step()
    assert [float(v) for v in variables] == [0.75, 1.0]
    optimizer.weight_decay_rate = 1.0
    step()
    assert [float(v) for v in variables] == [0.375, 1.0]
    names = set(optimizer._trackable_children())
    assert "weight_decay_rate" not in names
    assert "learning_rate" in names
