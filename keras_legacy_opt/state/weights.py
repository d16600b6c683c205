"""Variables of an optimizer's own: the iterations, and those it adds."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.state import slots
from keras_legacy_opt.state.base import OptimizerBase
from keras_legacy_opt.state.variables import make_own


class WeightMixin(OptimizerBase):
    """The part of an optimizer that creates its own variables."""

    @property
    def iterations(self) -> Any:
        """int64 scalar variable: the number of steps so far.

        Before it is first used, it may be set to another variable, or to the
        number to start from.
        """
        if self._iterations is None:
            _create_iterations(self, "zeros")
        return self._iterations

    @iterations.setter
    def iterations(self, variable: Any) -> None:
        count_with(self, variable)

    def add_weight(
        self,
        name: str,
        shape: Any,
        dtype: Any = None,
        initializer: Any = "zeros",
        trainable: bool | None = None,
        synchronization: tf.VariableSynchronization = (
            tf.VariableSynchronization.AUTO
        ),
        aggregation: tf.VariableAggregation = tf.VariableAggregation.NONE,
    ) -> Any:
        """Adds a variable to the optimizer and to its checkpoints.

        Args:
          name: String, its name in checkpoints.
          shape: its shape.
          dtype: its dtype; float32 if `None` and `initializer` is no value.
          initializer: a name, an initializer, a function of (shape, dtype), or
            the initial value itself.
          trainable: whether it is trainable; `True` if `None`.
          synchronization: when it is synchronized under a strategy.
          aggregation: how it is aggregated under a strategy.

        Returns:
          The variable.

        Raises:
          ValueError: if it is trainable and to be synchronized on read.
        """
        if synchronization == tf.VariableSynchronization.ON_READ:
            if trainable:
                raise ValueError(
                    f"Variable {name!r} cannot be trainable with"
                    " synchronization=ON_READ: pass trainable=False."
                )
            trainable = False
        if isinstance(initializer, str) or callable(initializer):
            initializer = slots.resolve_initializer(initializer)
            dtype = tf.float32 if dtype is None else dtype
            self._first_values[name] = functools.partial(
                initializer, shape=shape, dtype=dtype
            )
        elif dtype is None:
            dtype = dtype_of_value(initializer)
        with self._distribution_strategy_scope():
            variable = self._add_variable_with_custom_getter(
                name=name,
                shape=shape,
                getter=_make_variable,
                overwrite=True,
                initializer=initializer,
                dtype=dtype,
                trainable=True if trainable is None else trainable,
                synchronization=synchronization,
                aggregation=aggregation,
            )
        make_own(variable, f"{self._name}/{name}")
        return variable


def count_with(optimizer: WeightMixin, variable: Any) -> None:
    """Sets `iterations`; see there."""
    if optimizer._iterations is not None:
        raise RuntimeError(
            "Cannot set `iterations` to a new Variable after the"
            " optimizer's variables were created: assign to it instead."
            f" Received: {variable}."
        )
    variable = hosts.unwrap(variable)
    if not isinstance(variable, tf.Variable):
        _create_iterations(optimizer, _start_of_count(variable))
        return
    optimizer._iterations = variable
    if not hasattr(optimizer._iterations, "path"):
        optimizer._iterations.path = f"{optimizer._name}/iter"
    optimizer._weights.append(optimizer._iterations)


def _create_iterations(optimizer: WeightMixin, initializer: Any) -> None:
    optimizer._iterations = optimizer.add_weight(
        "iter",
        shape=[],
        dtype=tf.int64,
        initializer=initializer,
        trainable=False,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
    optimizer._weights.append(optimizer._iterations)


def _start_of_count(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            "`iterations` must be an int64 variable, or an integer to start"
            f" from. Received: {value!r} of type {type(value).__name__}."
        ) from None


def dtype_of_value(value: Any) -> tf.DType:
    """The dtype of a variable that is made of a value."""
    if type(value) is int and not -(2**31) <= value < 2**31:
        return tf.int64
    for python_type, dtype in (
        (bool, tf.bool),
        (int, tf.int32),
        (float, tf.float32),
    ):
        if type(value) is python_type:
            return dtype
    return tf.as_dtype(np.asarray(value).dtype)


def _make_variable(
    name: str, shape: Any, dtype: Any, initializer: Any, **kwargs: Any
) -> Any:
    if callable(initializer):
        initializer = functools.partial(initializer, shape=shape, dtype=dtype)
    # v1's constructor, whose variables keep their names in TF1 checkpoints.
    return tf.compat.v1.Variable(
        initial_value=initializer,
        name=name,
        dtype=dtype,
        shape=tf.TensorShape(shape),
        use_resource=True,
        **kwargs,
    )
