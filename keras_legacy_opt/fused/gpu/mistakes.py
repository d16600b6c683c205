"""What GPUs find wrong in a step when no other step comes that tells it."""

from __future__ import annotations

import atexit
import ctypes

import tensorflow as tf
from absl import logging

from keras_legacy_opt.fused import loader

_ROOM = 4096  # for a sentence
_INVALID_ARGUMENT = 3  # absl::StatusCode::kInvalidArgument


def synchronize() -> None:
    """Waits until all GPUs have done their steps; raises what they found wrong.

    A GPU finds a bad index of a sparse gradient, and scalars that a formula
    refuses, after `apply_gradients` has returned.  The next step of the same
    variable tells it; after the last one, this does.  What nobody was told is
    logged when the process ends.

    Where no native ops run on GPUs, it does nothing but wait.

    >>> keras_legacy_opt.fused.synchronize()

    Raises:
      tf.errors.InvalidArgumentError: for the first such mistake, which is not
        told again; one of another variable is, by its step or the next call.
      RuntimeError: if it is called inside a `tf.function` or a graph.
    """
    tf.test.experimental.sync_devices()
    error = _next()
    if error is not None:
        raise error


def _next() -> tf.errors.OpError | None:
    """The first mistake that is known by now; it is not told again."""
    ops = loader.load()
    if ops is None or ops.gpu is None:
        return None
    take = ctypes.CDLL(ops.path).keras_legacy_opt_gpu_mistake
    take.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    text = ctypes.create_string_buffer(_ROOM)
    code = take(text, _ROOM)
    if code == 0:
        return None
    kind = tf.errors.InternalError
    if code == _INVALID_ARGUMENT:
        kind = tf.errors.InvalidArgumentError
    return kind(None, None, text.value.decode(errors="replace"))


def _log_the_last() -> None:
    """Logs mistakes that nobody was told, when the process ends."""
    error = _next()
    while error is not None:
        logging.error("keras_legacy_opt: %s", error.message)
        # What else a GPU that failed says is of no use.
        is_mistake = isinstance(error, tf.errors.InvalidArgumentError)
        error = _next() if is_mistake else None


loader.on_load.append(lambda: atexit.register(_log_the_last))
