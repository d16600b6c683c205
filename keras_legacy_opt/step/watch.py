"""A watch on the gradients of an optimizer, for the steps that are looked at.

Those of them that are eager, or are traced while the watch is on, compute the
norms of their gradients.  In all others nothing is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import distribution
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
        # {keys of the variables of a step: norms of their gradients}
        self._norms: dict[tuple[str, ...], tf.Variable] = {}
        self.sparse: set[str] = set()

    def __deepcopy__(self, memo: Any) -> None:
        """A copy of an optimizer is not watched."""

    def switch(self, on: bool) -> None:
        """Has the steps from now on looked at, or not."""
        self._is_on = on
        if on:
            for norms in self._norms.values():
                norms.assign(tf.fill(norms.shape, _UNSEEN))

    def sees_eagerly(self) -> bool:
        """Whether a step just now has to show its gradients."""
        return self._is_on and tf.executing_eagerly()

    def see(
        self,
        grads_and_vars: Sequence[tuple[Any, Any]],
        scales: Sequence[chains.Scale],
    ) -> None:
        """Called in each step, with gradients that are still to be scaled."""
        if not self._is_on:
            return
        keys = tuple(var_key(variable) for _, variable in grads_and_vars)
        for key, (gradient, _) in zip(keys, grads_and_vars, strict=True):
            if isinstance(gradient, tf.IndexedSlices):
                self.sparse.add(key)
        if keys not in self._norms:
            distribution.once_for_all_replicas(lambda: self._add(keys))
        with tf.name_scope("norms_of_gradients"):
            values = tf.stack([norm(g, v) for g, v in grads_and_vars])
            for link in scales:
                values = link.applied(values)
            self._norms[keys].assign(values, read_value=False)

    def _add(self, keys: tuple[str, ...]) -> None:
        with tf.init_scope(), distribution.scope_of(self._strategy):
            self._norms[keys] = tf.Variable(
                tf.fill([len(keys)], _UNSEEN),
                trainable=False,
                name="norms_of_gradients",
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
    """The L2 norm of a gradient, in float32."""
    if isinstance(gradient, tf.IndexedSlices):
        gradient, _ = gradients.deduplicate(
            gradient.values, gradient.indices, gradients.rows_of(variable)
        )
    return tf.cast(tf.sqrt(2.0 * half_of_squares(gradient)), tf.float32)


def half_of_squares(x: tf.Tensor) -> tf.Tensor:
    """Half the sum of squares, in one pass, in float32 or float64."""
    if x.dtype.is_complex:
        x = tf.abs(x)
    if x.dtype not in (tf.float32, tf.float64):
        x = tf.cast(x, tf.float32)
    return tf.nn.l2_loss(x)
