"""A watch on the gradients of an optimizer, for the steps that are looked at.

Those of them that are eager, or are traced while the watch is on, compute the
norms of their gradients.  Once it is armed, those that are traced do so in the
steps in which it is on.  In all others nothing is added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import distribution, private_api
from keras_legacy_opt.state.variables import var_key
from keras_legacy_opt.step import chain as chains
from keras_legacy_opt.step import gradients

_UNSEEN = -1.0


class Watch:
    """What it has seen of an optimizer's gradients.

    The gradients are those of the loss, summed over the replicas: before they
    are clipped, and without the scale of the loss.

    Attributes:
      sparse: the keys of variables whose gradients were `IndexedSlices`.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None):
        self._strategy = strategy
        self._is_on = False
        # Whether it is on, for traced steps; None unless it is armed.
        self._asks: tf.Variable | None = None
        # {keys of the variables of a step: norms of their gradients}
        self._norms: dict[tuple[str, ...], tf.Variable] = {}
        self.sparse: set[str] = set()

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of an optimizer is not watched."""

    def arm(self) -> None:
        """Has steps that are traced from now on ask whether it is on."""
        if self._asks is None:
            self._asks = self._variable(False, "asks_for_norms")

    def switch(self, on: bool) -> None:
        """Has the steps from now on looked at, or not."""
        self._is_on = on
        if self._asks is not None:
            self._asks.assign(on)
        if on:
            for keys, norms in self._norms.items():
                norms.assign(np.full([len(keys)], _UNSEEN))

    def sees_eagerly(self) -> bool:
        """Whether a step just now has to show its gradients."""
        return self._is_on and tf.executing_eagerly()

    def see(
        self,
        grads_and_vars: Sequence[tuple[Any, Any]],
        scales: Sequence[chains.Scale],
    ) -> None:
        """Called in each step, with gradients that are still to be scaled."""
        asks = None if tf.executing_eagerly() else self._asks
        if asks is None and not self._is_on:
            return
        keys = tuple(var_key(variable) for _, variable in grads_and_vars)
        for key, (gradient, _) in zip(keys, grads_and_vars, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                self.sparse.add(key)
        if keys not in self._norms:
            distribution.once_for_all_replicas(lambda: self._add(keys))

        def look() -> None:
            values = tf.stack([norm(g, v) for g, v in grads_and_vars])
            for link in scales:
                values = link.applied(values)
            self._norms[keys].assign(values, read_value=False)

        with tf.name_scope("norms_of_gradients"):
            if asks is None:
                look()
            else:
                private_api.call_rarely(asks, look)

    def _add(self, keys: tuple[str, ...]) -> None:
        unseen = np.full([len(keys)], _UNSEEN)
        self._norms[keys] = self._variable(unseen, "norms_of_gradients")

    def _variable(self, value: Any, name: str) -> tf.Variable:
        with tf.init_scope(), distribution.scope_of(self._strategy):
            return tf.Variable(
                value,
                trainable=False,
                name=name,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

    def seen(self) -> dict[str, float]:
        """The norms, by the keys of variables, of those that had a gradient."""
        return {
            key: float(value)
            for keys, norms in self._norms.items()
            for key, value in zip(keys, norms.numpy(), strict=True)
            if value != _UNSEEN
        }


def norm(gradient: Any, variable: Any) -> tf.Tensor:
    """The L2 norm of a gradient, in float64, of whatever magnitude."""
    if isinstance(gradient, tf.IndexedSlices):
        gradient, _ = gradients.deduplicate(
            gradient.values, gradient.indices, gradients.rows_of(variable)
        )
    return exact_norm(gradient)


def exact_norm(x: tf.Tensor) -> tf.Tensor:
    """The L2 norm in float64, where squares can neither overflow nor vanish."""
    if x.dtype.is_complex:
        x = tf.abs(tf.cast(x, tf.complex128))
    if x.dtype != tf.float64:  # The squares of all others are float64s.
        return tf.sqrt(2.0 * tf.nn.l2_loss(tf.cast(x, tf.float64)))
    # Of no elements, it is an infinity.
    largest = tf.maximum(tf.reduce_max(x), -tf.reduce_min(x))
    is_scale = tf.math.is_finite(largest) & (largest > 0.0)
    scale = tf.where(is_scale, largest, tf.ones_like(largest))
    return scale * tf.sqrt(2.0 * tf.nn.l2_loss(x / scale))


def half_of_squares(x: tf.Tensor) -> tf.Tensor:
    """Half the sum of squares, in one pass, in float32 or float64."""
    if x.dtype.is_complex:
        x = tf.abs(x)
    if x.dtype not in (tf.float32, tf.float64):
        x = tf.cast(x, tf.float32)
    return tf.nn.l2_loss(x)


def is_exact(half: float, size: int, dtype: tf.DType) -> bool:
    """Whether `half_of_squares`, of so many elements, is large enough.

    What squares that are no more than zeros would have added is then nothing,
    to it.
    """
    least = 1e-300 if dtype in (tf.float64, tf.complex128) else 1e-30
    return size * least < half < math.inf
