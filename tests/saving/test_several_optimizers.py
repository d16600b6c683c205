"""Checkpoints of several models, each with an optimizer of its own."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_legacy_opt import SGD, Adam, addons, checkpoints


def network(layers):
    shape = tf_keras.layers.Input((3,))
    dense = [tf_keras.layers.Dense(3) for _ in range(layers)]
    return tf_keras.Sequential([shape, *dense])


def trained(layers, optimizer, steps):
    model = network(layers)
    for _ in range(steps):
        optimizer.apply_gradients(
            [(tf.ones_like(v), v) for v in model.trainable_variables]
        )
    return model


def written(make, folder):
    """A checkpoint of two models; models and optimizers by their names."""
    optimizers = {"generator": make(0.1), "critic": make(0.2)}
    models = {
        "generator": trained(1, optimizers["generator"], 3),
        "critic": trained(3, optimizers["critic"], 5),
    }
    names = {f"optimizer_of_{n}": o for n, o in optimizers.items()}
    path = tf.train.Checkpoint(**models, **names).write(folder / "c")
    return path, models, optimizers


@pytest.mark.parametrize("name", ["generator", "critic"])
@pytest.mark.parametrize(
    "make",
    [Adam, lambda rate: addons.MovingAverage(Adam(rate), 0.8)],
    ids=["Adam", "MovingAverage"],
)
def test_each_model_gets_its_optimizer(make, name, tmp_path):
    """Not the one with the most state."""
    path, models, optimizers = written(make, tmp_path)
    model = network({"generator": 1, "critic": 3}[name])
    optimizer = make(0.5)
    report = checkpoints.restore(path, {name: model}, optimizer, strict=False)
    assert not report.of("missing", "mismatch")
    assert all(name not in entry.source for entry in report.of("unused"))
    assert float(optimizer.learning_rate) == float(
        optimizers[name].learning_rate
    )
    for a, b in zip(
        [*optimizer.get_weights(), *model.get_weights()],
        [*optimizers[name].get_weights(), *models[name].get_weights()],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_which_one_is_meant_may_be_unclear(tmp_path):
    """Without slots, nothing tells whose iterations they are."""
    path, models, _ = written(SGD, tmp_path)
    model, optimizer = network(1), SGD(0.5)
    report = checkpoints.restore(
        path, {"generator": model}, optimizer, strict=False
    )
    assert (int(optimizer.iterations), float(optimizer.learning_rate)) == (
        0,
        0.5,
    )
    unused = [entry.source for entry in report.of("unused")]
    assert "optimizer_of_generator/iter" in unused
    assert "optimizer/iter" in [entry.target for entry in report.of("missing")]
    for a, b in zip(
        model.get_weights(), models["generator"].get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)
