"""Scaling and clipping without a pass of their own: the updates do both.

A norm costs one read of the gradients; the clipped gradients are never written.
Norms come from the ops that `tf.clip_by_norm` and `tf.clip_by_global_norm`
take them from, because no other order of summation yields the same bits.
"""

from __future__ import annotations

import collections
import math
from typing import Any, NamedTuple

import tensorflow as tf

from keras_legacy_opt import distribution, gradients, hosts, originals
from keras_legacy_opt.clipping import CLIPPING, GradsAndVars
from keras_legacy_opt.fused import policy

_DTYPES = (tf.float32, tf.float64)
# What comes before, between and after; each must be as this package has it.
_ENTRANCE = (
    "apply_gradients",
    "_transform_unaggregated_gradients",
    "_aggregate_gradients",
    "_prepare",
    "_prepare_local",
)
_STEPS = ("_transform_gradients", "_distributed_apply")


class Scaling(NamedTuple):
    """What the updates still have to do with the gradients of a step.

    Attributes:
      factor: scalar to multiply them by, or None.
      divisor: scalar to divide them by, or None.
      condition: bool scalar, or None: if it is False, no variable changes.
    """

    factor: Any = None
    divisor: Any = None
    condition: Any = None


UNSCALED = Scaling()


class Transformed:
    """A gradient, and what the update has to do to it first.

    Attributes:
      gradient: tensor or `IndexedSlices`.
      transform: tensor of shape [4], or None: multiply by the first number,
        clip to the second, multiply by the third, divide by the fourth.
      condition: bool scalar, or None: whether to update at all.
    """

    def __init__(
        self,
        gradient: Any,
        transform: tf.Tensor | None,
        condition: tf.Tensor | None,
    ):
        self.gradient = gradient
        self.transform = transform
        self.condition = condition


def can_multiply(optimizer: Any, grads_and_vars: GradsAndVars) -> bool:
    """Whether the updates can multiply the gradients, and then clip them."""
    # Only values: a norm cannot be told, to the bit, without the products.
    return _options(optimizer) in ([], ["clipvalue"]) and _can_scale(
        optimizer, grads_and_vars
    )


def can_divide(optimizer: Any, grads_and_vars: GradsAndVars) -> bool:
    """Whether the updates can divide the gradients."""
    return not _options(optimizer) and _can_scale(optimizer, grads_and_vars)


def can_skip(optimizer: Any, grads_and_vars: GradsAndVars) -> bool:
    """Whether the updates can be told not to change anything."""
    formula = policy.dense_formula(optimizer) or policy.sparse_formula(
        optimizer
    )
    return (
        formula is not None
        and not formula.also
        and originals.is_own(optimizer, _ENTRANCE)
        and _are_native(optimizer, grads_and_vars)
    )


def _can_scale(optimizer: Any, grads_and_vars: GradsAndVars) -> bool:
    return (
        optimizer.gradient_aggregator is gradients.all_reduce_sum
        and originals.is_own(optimizer, _ENTRANCE)
        and _can_transform(optimizer, grads_and_vars)
    )


def _can_transform(optimizer: Any, grads_and_vars: GradsAndVars) -> bool:
    """Whether native ops update every variable, and can compute as is due."""
    dtypes = {hosts.unwrap(v).dtype.base_dtype for _, v in grads_and_vars}
    return (
        len(dtypes) == 1
        and dtypes.issubset(_DTYPES)
        and _are_native(optimizer, grads_and_vars)
    )


def _are_native(optimizer: Any, grads_and_vars: GradsAndVars) -> bool:
    """Whether native ops, and nothing else, update every variable."""
    if (
        optimizer.gradient_transformers
        or not originals.is_own(optimizer, _STEPS)
        or distribution.current_strategy() is not None
        or policy.ops() is None
    ):
        return False
    times = collections.Counter(id(var) for _, var in grads_and_vars)
    known = optimizer._known_variables
    return all(
        times[id(var)] == 1
        and not known.is_overwritten(var)
        and policy.updates(optimizer, grad, known.unwrap(var))
        for grad, var in grads_and_vars
    )


def _options(optimizer: Any) -> list[str]:
    return [name for name in CLIPPING if getattr(optimizer, name) is not None]


def transform_gradients(
    optimizer: Any, grads_and_vars: GradsAndVars, scaling: Scaling = UNSCALED
) -> GradsAndVars:
    """`optimizer._transform_gradients`, deferred to the updates if possible."""
    options = _options(optimizer)
    if (scaling.factor is not None or scaling.divisor is not None) or (
        len(options) == 1 and _can_transform(optimizer, grads_and_vars)
    ):
        transforms = _transforms(optimizer, grads_and_vars, options, scaling)
    else:
        grads_and_vars = optimizer._transform_gradients(grads_and_vars)
        if scaling.condition is None:
            return grads_and_vars
        transforms = [None] * len(grads_and_vars)
    return [
        (Transformed(grad, transform, scaling.condition), var)
        for (grad, var), transform in zip(
            grads_and_vars, transforms, strict=True
        )
    ]


def scaling_alone(scaling: Scaling, dtype: tf.DType) -> list[tf.Tensor]:
    """The transform of gradients that are not clipped, as an op takes it."""
    if scaling.factor is None and scaling.divisor is None:
        return []
    return [_transform(dtype, scaling)]


def _transforms(
    optimizer: Any,
    grads_and_vars: GradsAndVars,
    options: list[str],
    scaling: Scaling,
) -> list[tf.Tensor]:
    """One transform per gradient; the same tensor for all where possible."""
    dtype = grads_and_vars[0][1].dtype.base_dtype
    count = len(grads_and_vars)
    if not options:
        return [_transform(dtype, scaling)] * count
    (option,) = options
    limit = optimizer._clip_limits.limit(option, getattr(optimizer, option))
    limit = tf.convert_to_tensor(limit(dtype), dtype)
    if option == "clipvalue":
        return [_transform(dtype, scaling, limit=limit)] * count
    values = [gradients.values_of(grad) for grad, _ in grads_and_vars]
    if option == "clipnorm":
        norms = [tf.sqrt(tf.reduce_sum(value * value)) for value in values]
        return [
            _transform(dtype, multiplier=limit, divisor=tf.maximum(norm, limit))
            for norm in norms
        ]
    norm = tf.linalg.global_norm(values)
    scale = limit * tf.minimum(1.0 / norm, tf.ones([], dtype) / limit)
    # Not finite in, not finite out.
    scale += norm - norm
    return [_transform(dtype, multiplier=scale)] * count


def _transform(
    dtype: tf.DType,
    scaling: Scaling = UNSCALED,
    limit: Any = math.inf,
    multiplier: Any = 1.0,
    divisor: Any = 1.0,
) -> tf.Tensor:
    """The four numbers of `Transformed.transform`."""
    factor = 1.0 if scaling.factor is None else tf.cast(scaling.factor, dtype)
    if scaling.divisor is not None:
        divisor = tf.cast(scaling.divisor, dtype)
    return tf.stack(
        [
            tf.convert_to_tensor(number, dtype)
            for number in (factor, limit, multiplier, divisor)
        ]
    )
