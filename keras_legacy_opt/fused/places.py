"""Which variables the native library can update: where they are, and what."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api

DTYPES = (tf.float32, tf.float64, tf.bfloat16, tf.float16)
# Of devices that it has kernels for.
KINDS = ("CPU", "GPU")


def refuses(variable: Any, kind: str = "CPU") -> str | None:
    """Why the native ops of a kind of device cannot update a variable.

    That they cannot be run on a GPU at all is said in `fused.gpu.devices`.

    Args:
      variable: of any kind.
      kind: one of `KINDS`.

    Returns:
      The reason; None if they can.
    """
    # A distributed one has handles in its replicas only.
    if not isinstance(variable, tf.distribute.DistributedValues) and (
        getattr(variable, "handle", None) is None
    ):
        return "it is no resource variable"
    dtype = variable.dtype.base_dtype
    if dtype not in DTYPES:
        known = ", ".join(each.name for each in DTYPES)
        return f"its dtype is {dtype.name}, and theirs are {known}"
    for device in private_api.devices_of(variable):
        if not _is_local(device, kind):
            where = device or ("a GPU" if kind == "CPU" else "any device")
            return f"it is on {where}, and they run on the {kind} here"
    return None


def kind_of(variables: Sequence[Any]) -> str | None:
    """The kind of the devices that all variables are on, if that is one kind.

    None as well if one is none that the native ops of this kind can update.
    """
    for kind in KINDS:
        if not any(refuses(variable, kind) for variable in variables):
            return kind
    return None


@functools.cache
def has_gpus() -> bool:
    """Whether TensorFlow sees a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


@functools.cache
def _is_local(device: str, kind: str) -> bool:
    spec = tf.DeviceSpec.from_string(device or "")
    if spec.job not in (None, "localhost"):
        # A worker of MultiWorkerMirroredStrategy names itself; anything else
        # may be a process without the library.
        local = tf.config.list_logical_devices("CPU")[0].name
        if spec.job != tf.DeviceSpec.from_string(local).job:
            return False
    if spec.device_type is None:
        return kind == "CPU" and not has_gpus()
    return spec.device_type == kind
