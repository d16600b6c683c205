"""Models and data of `tests/hosts`, for wrappers and what is around them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from keras_legacy_opt import SGD, Adam, addons

KERASES = {"keras3": keras, "tf_keras": tf_keras}
INNER = {
    "SGD": lambda: SGD(0.1, momentum=0.9),
    "Adam": lambda: Adam(0.1),
}
# {name: function of an optimizer}, of each class that wraps one
WRAPPERS = {
    "Lookahead": lambda o: addons.Lookahead(o, 3, 0.4),
    "MovingAverage": lambda o: addons.MovingAverage(o, 0.8),
    "SWA": lambda o: addons.SWA(o, 2, 3),
    "GradientAccumulation": lambda o: addons.GradientAccumulation(o, 2),
    "nested": lambda o: addons.GradientAccumulation(
        addons.MovingAverage(addons.Lookahead(o, 2), 0.8), 2
    ),
}


@pytest.fixture(params=KERASES)
def host(request):
    """A Keras: every test runs in both."""
    return KERASES[request.param]


@pytest.fixture(params=["eager", "function"])
def traced(request):
    """What a step is called through."""
    return tf.function if request.param == "function" else lambda step: step


TOKENS = np.random.default_rng(0).integers(0, 10, (24, 3)).astype("int32")
LABELS = TOKENS.sum(axis=1, keepdims=True).astype("float32") / 20


def make_model(host, optimizer=None):
    """An embedding, whose gradient is sparse, and a dense layer."""
    layers = host.layers
    model = host.Sequential(
        [
            layers.Input((3,), dtype="int32"),
            layers.Embedding(10, 2),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    rng = np.random.default_rng(1)
    model.set_weights(
        [rng.uniform(-0.5, 0.5, w.shape) for w in model.get_weights()]
    )
    if optimizer is not None:
        model.compile(optimizer, "mse")
    return model


def fit(model, epochs=1, **options):
    """Three batches of 8 in each epoch, always the same."""
    options = {"batch_size": 8, "shuffle": False, "verbose": 0, **options}
    model.fit(TOKENS, LABELS, epochs=epochs, **options)
    return model


def state_of(optimizer):
    """All weights, and those of what is inside, by value."""
    return [np.array(each) for each in optimizer.get_weights()]


def assert_same(optimizer, other):
    for ours, expected in zip(
        state_of(optimizer), state_of(other), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)


class Halves(keras_legacy_opt.Optimizer):
    """An optimizer of a user: halves variables, and counts in a slot."""

    def __init__(self, name="Halves", **kwargs):
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", 0.5)

    def _create_slots(self, var_list):
        for var in var_list:
            self.add_slot(var, "count")

    def _resource_apply_dense(self, grad, var):
        count = self.get_slot(var, "count")
        return tf.group(
            count.assign_add(tf.ones_like(count)),
            var.assign(var * self._get_hyper("learning_rate", var.dtype)),
        )

    def get_config(self):
        return super().get_config()
