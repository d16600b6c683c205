"""Which variables the native library can update: on the CPU, of its dtypes."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api

DTYPES = (tf.float32, tf.float64, tf.bfloat16, tf.float16)


def refuses(variable: Any) -> str | None:
    """Why the native ops cannot update a variable; None if they can."""
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
        if not _is_local_cpu(device):
            return f"it is on {device or 'a GPU'}, and they run on the CPU here"
    return None


@functools.cache
def _is_local_cpu(device: str) -> bool:
    spec = tf.DeviceSpec.from_string(device or "")
    if spec.job not in (None, "localhost"):
        # A worker of MultiWorkerMirroredStrategy names itself; anything else
        # may be a process without the library.
        local = tf.config.list_logical_devices("CPU")[0].name
        if spec.job != tf.DeviceSpec.from_string(local).job:
            return False
    if spec.device_type is None:
        return not tf.config.list_logical_devices("GPU")
    return spec.device_type == "CPU"
