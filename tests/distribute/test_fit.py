"""`fit` and custom loops of both Kerases, under the strategies of one machine.

The model is not linear: replicas round its gradients in another order than one
device does.  A sum of n numbers has a relative error of at most n units in the
last place; the bound below leaves room for eight steps of Adam with n = 8.
"""

import functools

import keras_model
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from strategies import strategy_called, under_every_strategy

import keras_legacy_opt

every_host = pytest.mark.parametrize("host", keras_model.KERAS)
DEFAULT = tf.distribute.get_strategy()


def make_adam():
    return keras_legacy_opt.Adam(0.01)


@functools.cache
def on_one_device(host):
    return keras_model.fitted_weights(host, DEFAULT, make_adam)


def assert_close(weights, expected):
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-5, atol=1e-6)


@under_every_strategy
@every_host
def test_fit(strategy, host):
    weights = keras_model.fitted_weights(
        host, strategy_called(strategy), make_adam
    )
    assert_close(weights, on_one_device(host))


@every_host
def test_fit_with_an_optimizer_made_outside_the_scope(host):
    """Keras 3's own are refused."""
    weights = keras_model.fitted_weights(
        host, strategy_called("mirrored"), make_adam, optimizer_in_scope=False
    )
    assert_close(weights, on_one_device(host))


@under_every_strategy
@pytest.mark.usefixtures("plain_path")
def test_fit_is_legacys_bit_by_bit(strategy):
    """On the plain path: TensorFlow rearranges the arithmetic of functions."""
    ours, legacy = (
        keras_model.fitted_weights(
            "tf_keras", strategy_called(strategy), lambda cls=cls: cls(0.01)
        )
        for cls in (keras_legacy_opt.Adam, tf_keras.optimizers.legacy.Adam)
    )
    for weight, other in zip(ours, legacy, strict=True):
        np.testing.assert_array_equal(weight, other)


@under_every_strategy
@every_host
def test_custom_loop(strategy, host):
    weights = keras_model.looped_weights(
        host, strategy_called(strategy), make_adam
    )
    assert_close(weights, keras_model.looped_weights(host, DEFAULT, make_adam))
    assert_close(weights, on_one_device(host))
