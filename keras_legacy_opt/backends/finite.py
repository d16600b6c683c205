"""Whether gradients are finite, in one read of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt.fused import loader, places, switch
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
    if switch.refuses() is None and not any(map(places.refuses, variables)):
        factor = 1.0 if factor is None else factor
        return loader.ops().all_finite(values, factor)
    if factor is not None:
        values = [value * tf.cast(factor, value.dtype) for value in values]
    finite = [tf.reduce_all(tf.math.is_finite(value)) for value in values]
    return tf.reduce_all(finite)
