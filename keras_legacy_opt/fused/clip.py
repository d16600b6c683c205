"""Clipping without a pass of its own: the updates scale as they read.

A norm costs one read of the gradients; the clipped gradients are never written.
Norms come from the ops that `tf.clip_by_norm` and `tf.clip_by_global_norm`
take them from, because no other order of summation yields the same bits.
"""

from __future__ import annotations

import collections
import math
from typing import Any

import tensorflow as tf

from keras_legacy_opt import distribution
from keras_legacy_opt.clipping import CLIPPING, GradsAndVars
from keras_legacy_opt.fused import policy

_DTYPES = (tf.float32, tf.float64)
_STEPS = ("_transform_gradients", "_distributed_apply")


class Transformed:
    """A gradient, and what the update has to do to it first.

    Attributes:
      gradient: tensor or `IndexedSlices`.
      transform: tensor of shape [4]: unscale by the first number, clip to the
        second, multiply by the third, divide by the fourth.
    """

    def __init__(self, gradient: Any, transform: tf.Tensor):
        self.gradient = gradient
        self.transform = transform


def transform_gradients(
    optimizer: Any, grads_and_vars: GradsAndVars
) -> GradsAndVars:
    """`optimizer._transform_gradients`, deferred to the updates if possible."""
    options = [
        name for name in CLIPPING if getattr(optimizer, name) is not None
    ]
    if len(options) != 1 or not _can_defer(optimizer, grads_and_vars):
        return optimizer._transform_gradients(grads_and_vars)
    (option,) = options
    dtype = grads_and_vars[0][1].dtype.base_dtype
    limit = optimizer._clip_limits.limit(option, getattr(optimizer, option))
    limit = tf.convert_to_tensor(limit(dtype), dtype)
    values = [
        g.values if isinstance(g, tf.IndexedSlices) else g
        for g, _ in grads_and_vars
    ]
    transforms = _transforms(values, option, limit)
    return [
        (Transformed(grad, transform), var)
        for (grad, var), transform in zip(
            grads_and_vars, transforms, strict=True
        )
    ]


def _can_defer(optimizer: Any, grads_and_vars: GradsAndVars) -> bool:
    """Whether native ops will update every variable, and can clip."""
    if (
        optimizer.gradient_transformers
        or not policy.is_own(type(optimizer), _STEPS)
        or distribution.current_strategy() is not None
        or policy.ops() is None
    ):
        return False
    times = collections.Counter(id(var) for _, var in grads_and_vars)
    dtype = grads_and_vars[0][1].dtype.base_dtype
    return dtype in _DTYPES and all(
        var.dtype.base_dtype == dtype
        and times[id(var)] == 1
        and policy.updates(optimizer, grad, var)
        for grad, var in grads_and_vars
    )


def _transforms(
    values: list[tf.Tensor], option: str, limit: tf.Tensor
) -> list[tf.Tensor]:
    """One transform per gradient; the same tensor for all where possible."""
    one = tf.ones([], limit.dtype)
    unlimited = tf.constant(math.inf, limit.dtype)
    if option == "clipnorm":
        norms = [tf.sqrt(tf.reduce_sum(value * value)) for value in values]
        return [
            tf.stack([one, unlimited, limit, tf.maximum(norm, limit)])
            for norm in norms
        ]
    if option == "global_clipnorm":
        norm = tf.linalg.global_norm(values)
        scale = limit * tf.minimum(1.0 / norm, one / limit)
        # Not finite in, not finite out.
        scale += norm - norm
        return [tf.stack([one, unlimited, scale, one])] * len(values)
    return [tf.stack([one, limit, one, one])] * len(values)
