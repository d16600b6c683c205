"""Reads of scalars, of which a step makes many.

Eagerly, what `tf.cast`, `tf.identity` and a variable's methods do around an op
takes several times as long as the op.  In graphs they stay: Grappler goes by
the names of operations, and so do the bits.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api


def is_plain(variable: Any) -> bool:
    """Whether a variable can be read and written by its handle, just now."""
    return tf.executing_eagerly() and private_api.is_plain(variable)


def cast(value: Any, dtype: tf.DType) -> tf.Tensor:
    """`tf.cast(value, dtype)`, of a dense tensor, variable or number."""
    # Reads of what may be trained, tapes want to know of.
    if is_plain(value) and not value.trainable:
        value = tf.raw_ops.ReadVariableOp(
            resource=value.handle, dtype=value.dtype
        )
    if not isinstance(value, tf.Tensor) or not tf.executing_eagerly():
        return tf.cast(value, dtype)
    if value.dtype == dtype:
        return value
    return tf.raw_ops.Cast(x=value, DstT=dtype)


def stack(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """`tf.stack(tensors)`, of tensors of one dtype and shape."""
    if tf.executing_eagerly():
        return tf.raw_ops.Pack(values=tensors)
    return tf.stack(tensors)


def once(tensor: tf.Tensor) -> tf.Tensor:
    """What was read from a variable, whatever is written to it later."""
    return tensor if tf.executing_eagerly() else tf.identity(tensor)


def constant(number: float, dtype: tf.DType) -> Any:
    """`tf.cast(number, dtype)`, which is made once; of few numbers only."""
    if tf.executing_eagerly():
        return _constant(number, dtype)
    return tf.cast(number, dtype)


@functools.cache
def _constant(number: float, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(number, dtype)


def count(variable: Any, ahead: int, dtype: tf.DType) -> tf.Tensor:
    """`variable + ahead`, of an int64 variable, as another dtype."""
    if not is_plain(variable) or variable.dtype != tf.int64:
        return tf.cast(variable + ahead, dtype)
    number = tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=tf.int64)
    return tf.raw_ops.Cast(x=tf.raw_ops.AddV2(x=number, y=ahead), DstT=dtype)


def count_one(variable: Any) -> None:
    """Adds 1 to an int64 variable, eagerly."""
    if is_plain(variable) and variable.dtype == tf.int64:
        one = _constant(1, tf.int64)
        tf.raw_ops.AssignAddVariableOp(resource=variable.handle, value=one)
    else:
        variable.assign_add(1, read_value=False)
