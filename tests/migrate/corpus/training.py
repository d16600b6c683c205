"""Every way to name a legacy optimizer, in a program that runs."""
from __future__ import annotations

import re  # not what compiles models

# TensorFlow, and what old code takes from it.
import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow import keras
from tensorflow.keras import layers, optimizers, losses
from tensorflow.keras.optimizers import Adam, SGD as Descent  # two of them
import tensorflow.keras.optimizers as ko
from tensorflow.keras.optimizers.schedules import (
    ExponentialDecay,
    PolynomialDecay as Polynomial,
)
from tensorflow.keras.mixed_precision import LossScaleOptimizer

Base = keras.optimizers.Optimizer
module = tf.keras.optimizers


class Half(Base):
    def __init__(self, learning_rate=0.01, name="Half", **kwargs):
        super(Half, self).__init__(name, **kwargs)
        self._set_hyper("learning_rate", learning_rate)

    def _resource_apply_dense(self, grad, var, apply_state=None):
        return var.assign_sub(0.5 * self._decayed_lr(tf.float32) * grad)

    def get_config(self):
        return super().get_config()


class Own(tf.keras.optimizers.RMSprop):
    pass


def make():
    if hasattr(tf.keras.optimizers, "legacy"):
        first = tf.keras.optimizers.legacy.Adam(lr=0.1)
    else:
        first = tf.keras.optimizers.Adam(lr=0.1)
    return [
        first,
        Adam(
            learning_rate=0.1,  # a comment that stays
        ),
        Descent(ExponentialDecay(0.1, 2, 0.5), momentum=0.9),
        optimizers.RMSprop(optimizers.schedules.CosineDecay(0.1, 3)),
        ko.Adamax(Polynomial(0.1, 3)),
        ko.get("adamax"),
        tf.optimizers.Adagrad(0.1),
        tf1.keras.optimizers.Ftrl(0.1),
        tf.keras.optimizers.Adam.from_config({"learning_rate": 0.1}),
        keras.optimizers.deserialize(
            tf.keras.optimizers.serialize(module.Adadelta(0.1))
        ),
        (LossScaleOptimizer)(module.SGD(0.1)).inner_optimizer,
        Half(),
        Own(0.1),
        "adam",
    ]


def train(optimizer):
    x = tf.reshape(tf.range(8.0), [4, 2])
    if optimizer == "adam":
        model = keras.Sequential([layers.Input((2,)), layers.Dense(1)])
        model.compile(optimizer="adam", loss=losses.MeanSquaredError())
        model.compile('adam', losses.MeanSquaredError())
        optimizer = model.optimizer
    weights = tf.Variable([[0.5], [-0.5]])
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x @ weights - x[:, :1]) ** 2)
        optimizer.apply_gradients([(tape.gradient(loss, weights), weights)])
    return [weights.numpy(), *optimizer.get_weights()]


assert re.compile("adam").match("adam")
results = [train(optimizer) for optimizer in make()]
