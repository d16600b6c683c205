"""Which GPUs of TensorFlow the native library can run its kernels on."""

from __future__ import annotations

import os
from collections.abc import Iterable

import tensorflow as tf

from keras_legacy_opt.fused import loader

SWITCH = "KERAS_LEGACY_OPT_GPU"  # "0": as if there were no kernels for GPUs

# Devices, and units, whose kernels are there. What is not, is asked for again:
# it may have failed for lack of memory. Who knows that it will fail again says
# so at once. In a forked child, there are none.
_there: set[tuple[str, tuple[str, ...]]] = set()
os.register_at_fork(after_in_child=_there.clear)


def refuses(devices: Iterable[str], *units: str) -> str | None:
    """Why kernels cannot run on GPUs of TensorFlow, in words; None if they can.

    They are compiled, if they are not yet, so that no step waits for that.

    Args:
      devices: the names of local GPUs, as variables have them.
      *units: the names of those that are compiled together, such as
        "Dense_Adam_float" or "Rows"; none asks for the devices only.
    """
    ops = loader.load()
    if ops is None:
        return loader.why_not()
    if os.environ.get(SWITCH) == "0":
        return f"the environment variable {SWITCH} is 0"
    if ops.gpu is None:
        return "the native library was built without kernels for GPUs"
    for device in devices:
        if (device, units) in _there:
            continue
        reason = _refuses(device, units)
        if reason is not None:
            return reason
        _there.add((device, units))
    return None


def report() -> list[str]:
    """For people: on which GPUs native ops run, or why on none."""
    logical = [each.name for each in tf.config.list_logical_devices("GPU")]
    if not logical:
        return [refuses([]) or "TensorFlow sees no GPU here"]
    reasons = {each: refuses([each], "Dense_Adam_float") for each in logical}
    return [
        each if reason is None else f"not {each}: {reason}"
        for each, reason in reasons.items()
    ]


def _refuses(device: str, units: tuple[str, ...]) -> str | None:
    physical = _physical(device)
    if physical is None:
        return f"there is no {device} here"
    if not tf.test.is_built_with_cuda():
        return f"TensorFlow was built without CUDA, and {device} is another GPU"
    details = tf.config.experimental.get_device_details(physical)
    if "compute_capability" not in details:
        return f"{device} is no GPU of CUDA"
    ordinal = int(physical.name.rpartition(":")[2])
    runtime = loader.ops().gpu
    if runtime is None:
        return None  # Who asks has asked that before.
    for unit in units:
        reason = runtime.lacks(ordinal, unit)
        if reason is not None:
            return reason
    return None if units else runtime.why_not(ordinal)


def _physical(device: str) -> tf.config.PhysicalDevice | None:
    """The GPU of a logical device, of which it may have several."""
    index = tf.DeviceSpec.from_string(device).device_index or 0
    found: list[tf.config.PhysicalDevice] = []
    for each in tf.config.get_visible_devices("GPU"):
        parts = tf.config.get_logical_device_configuration(each)
        found += [each] * (len(parts) if parts else 1)
    return found[index] if index < len(found) else None
