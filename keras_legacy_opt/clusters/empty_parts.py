"""What Keras 3 makes of the empty part that a worker has of a small batch.

It adds nothing to sums, and there is no mean of it: a loss is zero, and
BatchNormalization keeps the statistics that it has.
"""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

import tensorflow as tf

from keras_legacy_opt.clusters import multi_worker, switch


def correct(keras: types.ModuleType) -> list[switch.Fault]:
    """Corrects losses and statistics of no examples.

    Args:
      keras: the module.

    Returns:
      What may be wrong there.
    """
    faults = [_correct_losses(sys.modules[keras.losses.Loss.__module__])]
    if hasattr(keras.layers.BatchNormalization, "_moments"):
        faults.append(_correct_statistics(keras.layers.BatchNormalization))
    return faults


def _is_wanted() -> bool:
    return multi_worker.is_wanted(tf.distribute.get_strategy())


def _correct_losses(losses: Any) -> switch.Fault:
    reduce_values = losses.reduce_values
    fault = switch.Fault(
        "losses of workers without examples",
        lambda: reduce_values(tf.zeros([0])).shape.rank != 0,
    )

    @functools.wraps(reduce_values)
    def reduce_values_if_any(values: Any, *args: Any, **kwargs: Any) -> Any:
        # Keras leaves these as they are, and later takes their mean, 0 / 0.
        empty = tuple(values.shape) == (0,)
        if empty and _is_wanted() and fault.is_present():
            values = tf.reshape(values, [0, 1])
        return reduce_values(values, *args, **kwargs)

    losses.reduce_values = reduce_values_if_any
    return fault


def _makes_nan(moments: Any) -> bool:
    layer = types.SimpleNamespace(_reduction_axes=[0], synchronized=False)
    with tf.init_scope():
        mean, _ = moments(layer, tf.zeros([0, 1]), None)
        return bool(tf.math.is_nan(mean[0]))


def _correct_statistics(layer: Any) -> switch.Fault:
    moments = layer._moments
    fault = switch.Fault(
        "statistics of workers without examples",
        functools.partial(_makes_nan, moments),
    )

    @functools.wraps(moments)
    def moments_if_any(self: Any, inputs: Any, mask: Any) -> Any:
        found = moments(self, inputs, mask)
        if self.synchronized or not (_is_wanted() and fault.is_present()):
            return found  # Synchronized ones are of all workers' examples.
        none = tf.equal(tf.size(inputs), 0)
        kept = self.moving_mean, self.moving_variance
        return tuple(
            tf.where(none, tf.cast(before, new.dtype), new)
            for before, new in zip(kept, found, strict=True)
        )

    layer._moments = moments_if_any
    return fault
