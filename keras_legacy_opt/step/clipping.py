"""Limits of the gradients' elements and norms, and how they are imposed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import distribution
from keras_legacy_opt.fused import norms
from keras_legacy_opt.rules.formula import arithmetic
from keras_legacy_opt.state.base import OptimizerBase
from keras_legacy_opt.step.gradients import values_of

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
    bound = limit(gradients[0].dtype)
    norm = _global_norm(grads_and_vars, bound)
    clipped, _ = tf.clip_by_global_norm(gradients, bound, use_norm=norm)
    return [(g, v) for g, (_, v) in zip(clipped, grads_and_vars, strict=True)]


def _global_norm(grads_and_vars: GradsAndVars, limit: Any) -> tf.Tensor | None:
    """The norm of all, in one launch on a GPU; None: TensorFlow takes it."""
    values = [values_of(gradient) for gradient, _ in grads_and_vars]
    variables = [variable for _, variable in grads_and_vars]
    if norms.refuses(values, variables) is not None:
        return None
    dtype = values[0].dtype
    limit = tf.cast(limit, arithmetic(dtype))
    return tf.cast(norms.clipping(values, variables, limit)[0], dtype)


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
                _exact(value),
                dtype=tf.float64,  # as exact as a Python float
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                name=option,
            )

    def update(self, option: str, value: float | None) -> None:
        """Changes the limit in functions that were traced before."""
        if value is not None and option in self.variables:
            self.variables[option].assign(_exact(value))

    def limit(self, option: str, value: float) -> Limit:
        """The limit by dtype: `value`, or in a trace its variable."""
        variable = self.variables.get(option)
        given = tf.executing_eagerly() or isinstance(value, tf.Variable)
        if variable is None or given:
            return lambda dtype: value
        return lambda dtype: tf.cast(variable, dtype)


def _exact(value: Any) -> Any:
    """A number, or a tensor of any dtype, without a digit lost."""
    return tf.cast(value, tf.float64) if tf.is_tensor(value) else value


class ClippingMixin(OptimizerBase):
    """The part of an optimizer that keeps its limits."""

    _clipnorm: float | None
    _global_clipnorm: float | None
    _clipvalue: float | None
    _clip_limits: ClipLimits
    gradient_transformers: Sequence[Callable[..., GradsAndVars]]

    @property
    def clipnorm(self) -> float | None:
        """`float` or `None`: the limit of each gradient's L2 norm."""
        return self._clipnorm

    @clipnorm.setter
    def clipnorm(self, val: float | None) -> None:
        _set_limit(self, "clipnorm", val)

    @property
    def global_clipnorm(self) -> float | None:
        """`float` or `None`: the limit of all gradients' L2 norm."""
        return self._global_clipnorm

    @global_clipnorm.setter
    def global_clipnorm(self, val: float | None) -> None:
        _set_limit(self, "global_clipnorm", val)

    @property
    def clipvalue(self) -> float | None:
        """`float` or `None`: the limit of each gradient's elements."""
        return self._clipvalue

    @clipvalue.setter
    def clipvalue(self, val: float | None) -> None:
        _set_limit(self, "clipvalue", val)


def _set_limit(
    optimizer: ClippingMixin, option: str, val: float | None
) -> None:
    transformers = optimizer.gradient_transformers
    if val is not None and transformers:
        raise ValueError(
            f"`{option}` cannot be set when `gradient_transformers` is set:"
            f" clip in one of these. Received: {option}={val},"
            f" gradient_transformers={transformers}."
        )
    object.__setattr__(optimizer, f"_{option}", val)
    optimizer._clip_limits.update(option, val)


def create_limits(optimizer: ClippingMixin) -> None:
    """Makes variables of the limits that are set, unless they are there."""
    with optimizer._distribution_strategy_scope():
        for option in CLIPPING:
            if getattr(optimizer, option) is not None:
                value = getattr(optimizer, option)
                optimizer._clip_limits.create(option, value)


def clip(
    optimizer: ClippingMixin, grads_and_vars: GradsAndVars
) -> GradsAndVars:
    """Clips by every limit that is set."""
    for option in CLIPPING:
        value = getattr(optimizer, option)
        if value is not None:
            distribution.check_clipping(option)
            limit = optimizer._clip_limits.limit(option, value)
            grads_and_vars = CLIPPING[option](grads_and_vars, limit)
    return grads_and_vars
