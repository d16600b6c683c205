"""Training by `minimize` in Keras 3's `fit`, which does without.

An optimizer that has its own `minimize`, or its own way to compute gradients in
there, needs this: differential privacy and gradient surgery do it so.
"""

from __future__ import annotations

import importlib
import types
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

import tensorflow as tf

from keras_legacy_opt import hosts, private_api
from keras_legacy_opt.state.base import OptimizerBase

_Model = TypeVar("_Model")


def with_minimize(model: _Model) -> _Model:
    """Makes `model.fit` call `optimizer.minimize`, as `fit` of Keras 2 did.

    Keras 3 computes gradients itself.  An optimizer that overrides `minimize`,
    `_compute_gradients` or `_get_gradients` therefore raises an error in `fit`,
    until this was called.  All else is as in Keras 3's own training: losses,
    metrics, weights of samples and classes, mixed precision, strategies.

    >>> class Rounding(keras_legacy_opt.SGD):
    ...     def _get_gradients(self, *args, **kwargs):
    ...         pairs = super()._get_gradients(*args, **kwargs)
    ...         return [(tf.round(grad), var) for grad, var in pairs]
    >>> model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    >>> model = keras_legacy_opt.with_minimize(model)
    >>> model.compile(Rounding(0.1), "mse")
    >>> _ = model.fit(tf.ones((2, 3)), tf.ones((2, 1)), verbose=0)

    Call it again for a model that was loaded or cloned.

    Args:
      model: a model, compiled or not.  One of tf_keras needs no change.

    Returns:
      The same model.

    Raises:
      TypeError: if it is no model.
      ValueError: if it has a `train_step` of its own.
    """
    cls, is_keras_3 = hosts.model_class(model)
    if is_keras_3:
        _train_by_minimize(model, cls)
    return model


def train_step(model: Any, data: Any) -> dict[str, Any]:
    """One step of training as in `fit`, by `model.optimizer.minimize`.

    `with_minimize` makes `fit` use it.  In a class, it can be the method, or
    what a `train_step` calls in place of that of `super()`:

    >>> class Model(tf.keras.Sequential):
    ...     train_step = keras_legacy_opt.train_step

    Args:
      model: a compiled model.
      data: a batch: inputs, or a tuple of these, targets and sample weights.

    Returns:
      The values of the metrics, by name.
    """
    cls, is_keras_3 = hosts.model_class(model)
    if not is_keras_3:
        return cls.train_step(model, data)
    utils = importlib.import_module("keras.utils")
    x, y, sample_weight = utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
        y_pred, loss = private_api.forward_pass(model, x, y, sample_weight)
    if model.trainable_weights:
        _minimize(model.optimizer, loss, model.trainable_weights, tape)
    else:
        warnings.warn(
            "The model does not have any trainable weights.", stacklevel=2
        )
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _train_by_minimize(model: Any, cls: Any) -> None:
    present = getattr(model.train_step, "__func__", model.train_step)
    if present not in (cls.train_step, train_step):
        raise ValueError(
            f"{type(model).__name__} has a `train_step` of its own. There,"
            " replace scale_loss, tape.gradient and apply_gradients by"
            " `self.optimizer.minimize(loss, variables, tape=tape)`, or"
            " `super().train_step(data)` by"
            " `keras_legacy_opt.train_step(self, data)`."
        )
    model.train_step = types.MethodType(train_step, model)
    model.train_function = None  # It has the other train_step.


def _minimize(
    optimizer: Any, loss: tf.Tensor, variables: Sequence[Any], tape: Any
) -> None:
    inner = getattr(optimizer, "inner_optimizer", None)
    if hasattr(optimizer, "minimize"):
        optimizer.minimize(loss, variables, tape=tape)
    elif isinstance(inner, OptimizerBase):
        # Keras 3's LossScaleOptimizer, as that of legacy would do it.
        with tape:
            loss = private_api.scaled_by(optimizer, loss)
        given = {id(hosts.unwrap(v)): v for v in variables}
        pairs = inner._compute_gradients(loss, variables, tape=tape)
        optimizer.apply_gradients(
            [(grad, given.get(id(v), v)) for grad, v in pairs]
        )
    else:
        raise TypeError(
            f"{type(optimizer).__name__} has no `minimize`: compile the model"
            " with an optimizer of keras_legacy_opt."
        )
