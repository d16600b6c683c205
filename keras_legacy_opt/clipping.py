"""Limits of the gradients' elements and norms, and how they are imposed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import distribution

GradsAndVars = Sequence[tuple[Any, Any]]
Limit = Callable[[tf.DType], Any]


def clip_by_value(grads_and_vars: GradsAndVars, limit: Limit) -> GradsAndVars:
    """Clips each element to [-limit, limit]."""
    return [
        (tf.clip_by_value(g, -limit(g.dtype), limit(g.dtype)), v)
        for g, v in grads_and_vars
    ]


def clip_by_norm(grads_and_vars: GradsAndVars, limit: Limit) -> GradsAndVars:
    """Clips each gradient's own L2 norm.

    The norm of `IndexedSlices` is that of its values as they are, repeated
    rows not yet summed.
    """
    return [(tf.clip_by_norm(g, limit(g.dtype)), v) for g, v in grads_and_vars]


def clip_by_global_norm(
    grads_and_vars: GradsAndVars, limit: Limit
) -> GradsAndVars:
    """Clips the L2 norm of all gradients together."""
    gradients = [g for g, _ in grads_and_vars]
    clipped, _ = tf.clip_by_global_norm(gradients, limit(gradients[0].dtype))
    return [(g, v) for g, (_, v) in zip(clipped, grads_and_vars, strict=True)]


# In the order of application.
CLIPPING = {
    "clipvalue": clip_by_value,
    "clipnorm": clip_by_norm,
    "global_clipnorm": clip_by_global_norm,
}


class ClipLimits:
    """The limits that are set, as variables for traced functions to read.

    A trace would keep a number for ever; a variable may change.
    """

    def __init__(self) -> None:
        self.variables: dict[str, tf.Variable] = {}

    def create(self, option: str, value: float) -> None:
        """Makes the variable of `option`, unless it is there."""
        if option not in self.variables:
            self.variables[option] = tf.Variable(
                value,
                dtype=tf.float64,  # as exact as a Python float
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                name=option,
            )

    def update(self, option: str, value: float | None) -> None:
        """Changes the limit in functions that were traced before."""
        if value is not None and option in self.variables:
            self.variables[option].assign(value)

    def clip(
        self, option: str, value: float, grads_and_vars: GradsAndVars
    ) -> GradsAndVars:
        """Clips by `option`, to `value` or to its variable in a trace."""
        distribution.check_clipping(option)
        variable = self.variables.get(option)
        if variable is None or tf.executing_eagerly():
            return CLIPPING[option](grads_and_vars, lambda dtype: value)
        return CLIPPING[option](
            grads_and_vars, lambda dtype: tf.cast(variable, dtype)
        )
