"""Whether gradients are finite, in one read of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.fused import loader, places, switch
from keras_legacy_opt.fused.gpu import devices, units
from keras_legacy_opt.step.gradients import values_of


def all_finite(
    gradients: Sequence[Any], variables: Sequence[Any], factor: Any = None
) -> tf.Tensor:
    """Whether all elements of gradients are finite.

    Args:
      gradients: tensors or `IndexedSlices`.
      variables: as many variables, on whose devices the gradients are.
      factor: scalar to multiply the gradients by, before they are judged.

    Returns:
      A bool scalar.
    """
    values = list(map(values_of, gradients))
    scope = _scope_of_op(values, variables)
    if scope is not None:
        factor = 1.0 if factor is None else factor
        with scope:
            return loader.ops().all_finite(values, factor)
    if factor is not None:
        values = [value * tf.cast(factor, value.dtype) for value in values]
    finite = [tf.reduce_all(tf.math.is_finite(value)) for value in values]
    return tf.reduce_all(finite)


def _scope_of_op(
    values: Sequence[tf.Tensor], variables: Sequence[Any]
) -> contextlib.AbstractContextManager[Any] | None:
    """Where the native op judges all of them; None if it cannot."""
    if switch.refuses() is not None:
        return None
    kind = places.kind_of(variables)
    here = contextlib.nullcontext()
    if kind is None or (kind == "CPU" and not places.has_gpus()):
        return None if kind is None else here
    places_of = set(map(private_api.devices_of, variables))
    only = next(iter(places_of))
    if kind == "GPU":
        dtypes = {units.NAMES.get(value.dtype.name) for value in values}
        needed = [f"Finite_{dtype}" for dtype in dtypes]
        if len(places_of) > 1 or devices.refuses(only, *needed):
            return None
    # In a replica, TensorFlow is on the replica's device already.
    return tf.device(only[0]) if len(places_of) == len(only) == 1 else here
