"""Norms of gradients on a GPU, and what clips by them, in one launch."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.fused import loader, places, switch
from keras_legacy_opt.fused.gpu import devices, units


class Row:
    """One row of a table on a device, which nobody cuts out before it must.

    Attributes:
      table: the tensor.
      index: the number of the row.
    """

    def __init__(self, table: tf.Tensor, index: int):
        self.table, self.index = table, index


def joined(rows: Sequence[Row]) -> tf.Tensor:
    """The rows of one table, as a tensor; the table itself, if it is all."""
    table, indices = rows[0].table, [row.index for row in rows]
    count = len(indices)
    if count == table.shape[0] and indices == list(range(count)):
        return table
    return tf.gather(table, indices[0] if count == 1 else indices)


def refuses(values: Sequence[Any], variables: Sequence[Any]) -> str | None:
    """Why the library does not take norms of gradients; None if it does.

    On the CPU it never does: the bits of TensorFlow's ops are legacy's.

    Args:
      values: gradients, or the values of sparse ones.
      variables: as many, on whose devices the gradients are.
    """
    if not places.has_gpus() or places.kind_of(variables) != "GPU":
        return "not all variables are on a GPU"
    reason = switch.refuses()
    if reason is not None:
        return reason
    dtypes = {value.dtype.name for value in values}
    on = set(map(private_api.devices_of, variables))
    if len(on) > 1 or len(dtypes) > 1:
        return "not all are on one GPU and of one dtype"
    (dtype,), (gpus,) = dtypes, on
    if dtype not in units.NAMES:
        return f"there is no kernel for {dtype}"
    return devices.refuses(gpus, f"Norm_{units.NAMES[dtype]}")


def clipping(
    values: Sequence[tf.Tensor],
    variables: Sequence[Any],
    limit: Any,
    transform: Sequence[tf.Tensor] = (),
    of_each: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Norms, and transforms that clip by them, where nothing is refused.

    Args:
      values: as of `refuses`.
      variables: likewise.
      limit: of the norms, a scalar.
      transform: what happens to gradients before, of shape [4], or nothing.
      of_each: whether every gradient is clipped by its own norm.

    Returns:
      The norm and the transform of all, [] and [4]; or a row for each.
    """
    with _on_device_of(variables):
        return loader.ops().gradient_norm(
            values, limit, list(transform), of_each=of_each
        )


def _on_device_of(
    variables: Sequence[Any],
) -> contextlib.AbstractContextManager[Any]:
    # In a replica, TensorFlow is on the replica's device already.
    on = private_api.devices_of(variables[0])
    return tf.device(on[0]) if len(on) == 1 else contextlib.nullcontext()
