"""What legacy's `minimize` calls and Keras 3's `fit` does not."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from hosts.conftest import dense_model, fit
from keras_legacy_opt import SGD, Adam, LossScaleOptimizer, with_minimize


def _tripled(pairs):
    return [(g if g is None else 3 * g, v) for g, v in pairs]


class OwnMinimize(SGD):
    def minimize(self, loss, var_list, grad_loss=None, name=None, tape=None):
        return self.apply_gradients(
            _tripled(self._compute_gradients(loss, var_list, grad_loss, tape))
        )


class OwnComputeGradients(SGD):
    def _compute_gradients(self, loss, var_list, grad_loss=None, tape=None):
        return _tripled(
            super()._compute_gradients(loss, var_list, grad_loss, tape)
        )


class OwnGetGradients(SGD):
    def _get_gradients(self, tape, loss, var_list, grad_loss=None):
        return _tripled(super()._get_gradients(tape, loss, var_list, grad_loss))


def overridden_on_instance(name):
    def make(*args):
        optimizer = SGD(*args)
        inherited = getattr(optimizer, name)

        def override(*args, **kwargs):
            return _tripled(inherited(*args, **kwargs))

        setattr(optimizer, name, override)
        return optimizer

    return make


TRIPLING = {
    "minimize": OwnMinimize,
    "_compute_gradients": OwnComputeGradients,
    "_get_gradients": OwnGetGradients,
    "_get_gradients on instance": overridden_on_instance("_get_gradients"),
}


@pytest.mark.parametrize("override", TRIPLING)
@pytest.mark.parametrize("eager", [False, True])
def test_fit_refuses_to_train_without_an_override(override, eager, data):
    x, _, y = data
    options = {"run_eagerly": eager}
    model, optimizer = dense_model(keras), TRIPLING[override](0.01)
    before = model.get_weights()

    with pytest.raises(
        RuntimeError, match=re.escape(f"`{override.split()[0]}`")
    ):
        fit(model, optimizer, x, y, compile_options=options)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)

    assert with_minimize(model) is model
    fit(model, optimizer, x, y, compile_options=options)
    expected = dense_model(keras)
    fit(expected, SGD(0.03), x, y, compile_options=options)
    for a, e in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, e, rtol=2e-5, atol=1e-6)


WRAPPERS = {
    "Keras' LossScaleOptimizer": keras.optimizers.LossScaleOptimizer,
    "our LossScaleOptimizer": LossScaleOptimizer,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("override", ["_compute_gradients", "_get_gradients"])
def test_wrapped_optimizer(wrapper, override, data):
    x, _, y = data
    model = dense_model(keras)
    optimizer = WRAPPERS[wrapper](TRIPLING[override](0.01))
    with pytest.raises(RuntimeError, match=f"`{override}`"):
        fit(model, optimizer, x, y)

    fit(with_minimize(model), optimizer, x, y)

    expected = dense_model(keras)
    fit(expected, SGD(0.03), x, y)
    for a, e in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, e, rtol=2e-5, atol=1e-6)


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="a later Keras"
)
def test_one_optimizer_of_several(data):
    model = dense_model(keras)
    parts = keras.optimizers.OptimizerMap(SGD(), {"bias": OwnGetGradients()})
    with pytest.raises(RuntimeError, match="_get_gradients"):
        fit(model, keras.optimizers.MultiOptimizer(parts), data[0], data[2])


@pytest.mark.parametrize("override", TRIPLING)
def test_loops_of_ones_own_are_left_alone(override, host, data):
    """As legacy's: whoever computes gradients is asked for no others."""
    x, _, y = data

    class Model(host.Sequential):
        def train_step(self, batch):
            x, y = batch
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            variables = self.trainable_variables
            grads = tape.gradient(loss, variables)
            self.optimizer.apply_gradients(zip(grads, variables, strict=True))
            return {"squares": loss}

    model = Model([host.layers.Dense(1)])
    before = np.mean((np.asarray(model(x)) - y) ** 2)
    fit(model, TRIPLING[override](0.01), x, y)
    assert np.mean((np.asarray(model(x)) - y) ** 2) < before


@pytest.mark.parametrize("override", TRIPLING)
def test_tf_keras_calls_minimize_by_itself(override, data):
    x, _, y = data
    model = dense_model(tf_keras)
    assert with_minimize(model) is model
    fit(model, TRIPLING[override](0.01), x, y)
    expected = dense_model(tf_keras)
    fit(expected, SGD(0.03), x, y)
    for a, e in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, e, rtol=2e-5, atol=1e-6)


class Penalizing(SGD):
    """Its `_transform_loss` is not linear: the scale it sees makes a change."""

    def _transform_loss(self, loss):
        return loss + 0.5 * loss**2


MAKE = {
    "alone": lambda cls: cls(0.1),
    "our LossScaleOptimizer": lambda cls: LossScaleOptimizer(
        cls(0.1), dynamic=False, initial_scale=4.0
    ),
    "Keras' LossScaleOptimizer": lambda cls: (
        keras.optimizers.LossScaleOptimizer(cls(0.1), initial_scale=4.0)
    ),
}


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("by_minimize", [False, True])
def test_transform_loss(make, by_minimize, data):
    """In Keras 3 it does what it does in tf_keras' `fit` with legacy."""
    x, _, y = data

    class Legacy(tf_keras.optimizers.legacy.SGD):
        _transform_loss = Penalizing._transform_loss

    expected, reference = dense_model(tf_keras), Legacy(0.1)
    if make != "alone":
        reference = tf_keras.mixed_precision.LossScaleOptimizer(
            reference, dynamic=False, initial_scale=4.0
        )
    losses = fit(expected, reference, x, y).history["loss"]
    model = dense_model(keras)
    if by_minimize:
        with_minimize(model)

    history = fit(model, MAKE[make](Penalizing), x, y)

    np.testing.assert_allclose(history.history["loss"], losses, rtol=1e-5)
    for a, e in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, e, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("cls", [SGD, Penalizing])
def test_loss_scale_factor_in_minimize(cls, host, data):
    """It scales the loss and unscales the gradients, whoever computes them."""
    weights = []
    for factor in (None, 1024.0):
        model, optimizer = dense_model(host), cls(0.1)
        optimizer.loss_scale_factor = factor
        if host is keras:
            with_minimize(model)
        fit(model, optimizer, data[0], data[2])
        weights.append(model.get_weights())
    for plain, scaled in zip(*weights, strict=True):
        np.testing.assert_array_equal(plain, scaled)  # A power of 2 is exact.


# Whatever Keras 3's own train_step heeds.
COMPILE = {
    "weights of classes": {},
    "weights of samples": {},
    "metrics": {"metrics": ["mae"], "weighted_metrics": ["mse"]},
    "loss weights": {"loss_weights": [0.5]},
    "eager": {"run_eagerly": True},
    "xla": {"jit_compile": True},
    "no xla": {"jit_compile": False},
    "several steps": {"steps_per_execution": 3},
}


def _train(options, data, by_minimize, **weights):
    x, _, y = data
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(6, "relu", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(0.5, seed=1),
            layers.Dense(1),
        ]
    )
    if by_minimize:
        with_minimize(model)
    model.compile(Adam(0.05), **{"loss": "mse", **options})
    history = model.fit(x, y, batch_size=20, epochs=2, verbose=0, **weights)
    return model, history


@pytest.mark.parametrize("options", COMPILE)
def test_same_as_in_keras_3(options, data):
    """Without an override, not a bit differs: weights, losses, metrics."""
    weights = {"sample_weight": np.arange(48.0)}
    if options == "weights of classes":
        weights = {"class_weight": {0: 2, 1: 1}}
    (model, history), (expected, expected_history) = (
        _train(COMPILE[options], data, by_minimize, **weights)
        for by_minimize in (True, False)
    )
    assert history.history == expected_history.history
    for a, e in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, e)


def test_same_as_in_keras_3_in_mixed_precision(data):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        (model, history), (expected, expected_history) = (
            _train({}, data, by_minimize) for by_minimize in (True, False)
        )
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert history.history == expected_history.history
    for a, e in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, e)


def test_loss_of_each_sample_reaches_the_optimizer(data):
    """What differentially private optimizers clip by."""
    shapes = []

    class Recorder(SGD):
        def _compute_gradients(self, loss, *args, **kwargs):
            shapes.append(loss.shape)
            return super()._compute_gradients(loss, *args, **kwargs)

    model = with_minimize(dense_model(keras))
    loss = keras.losses.MeanSquaredError(reduction=None)
    model.compile(Recorder(), loss, run_eagerly=True)
    model.train_on_batch(data[0][:5], data[2][:5])
    assert shapes == [(5,)]


def test_model_with_a_train_step_of_its_own():
    class Own(keras.Sequential):
        def train_step(self, data):
            return keras_legacy_opt.train_step(self, data)

    class Ours(keras.Sequential):
        train_step = keras_legacy_opt.train_step

    for cls in (Own, Ours):
        model = cls([keras.layers.Dense(1)])
        model.compile(OwnMinimize(0.1), "mse")
        model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
        assert int(model.optimizer.iterations) == 1
    with_minimize(Ours())
    with pytest.raises(ValueError, match="Own has a `train_step` of its own"):
        with_minimize(Own())
    on_instance = dense_model(keras)
    on_instance.train_step = lambda data: {}
    with pytest.raises(ValueError, match="`train_step` of its own"):
        with_minimize(on_instance)


def test_what_is_no_model_and_what_is_no_optimizer():
    with pytest.raises(TypeError, match="model of Keras 3 or tf_keras.*Adam"):
        with_minimize(Adam())
    model = with_minimize(dense_model(keras))
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match="SGD has no `minimize`"):
        model.train_on_batch(np.ones((4, 4)), np.ones((4, 1)))
