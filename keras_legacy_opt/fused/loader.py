"""Loads the native library: once, on first use, and never with an error."""

from __future__ import annotations

import ctypes
import functools
import inspect
import os
import re
import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from keras_legacy_opt.fused import library
from keras_legacy_opt.fused.gpu import runtime

SWITCH = "KERAS_LEGACY_OPT_FUSED"  # "0": as if there were no library


def _make_lock() -> None:
    global _lock
    _lock = threading.Lock()


_make_lock()
# In a child, nobody releases what a thread of the parent held.
os.register_at_fork(after_in_child=_make_lock)

# What is called when a library has been loaded.
on_load: list[Callable[[], Any]] = []


class Ops:
    """The ops of a loaded library.

    Attributes:
      path: of the library.
      isa: the instruction set that its loops were chosen for.
      gpu: what it does on GPUs; None if it was built without.
    """

    def __init__(self, path: str):
        self.path = path
        self._module = tf.load_op_library(path)
        handle = ctypes.CDLL(path)
        handle.keras_legacy_opt_isa.restype = ctypes.c_char_p
        self.isa = handle.keras_legacy_opt_isa().decode()
        self.gpu = runtime.of(handle)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, f"keras_legacy_opt_{name}")

    @functools.cache  # noqa: B019 - one object, for ever
    def inputs(self, op: str) -> tuple[str, ...]:
        """The names of what an op takes, in the order of its definition."""
        return tuple(inspect.signature(getattr(self, op)).parameters)


def load() -> Ops | None:
    """The native ops, or None; the first failure is logged."""
    return _load()[0]


def ops() -> Ops:
    """The native ops, where somebody has asked whether there are some.

    Raises:
      RuntimeError: if there are none.
    """
    loaded = load()
    if loaded is None:
        raise RuntimeError(f"There is no native library: {why_not()}.")
    return loaded


def is_available() -> bool:
    """Whether the native library is loaded, or could be just now."""
    return load() is not None


def why_not() -> str | None:
    """Why there is no native library, in words; None if there is."""
    return _load()[1]


def _load() -> tuple[Ops | None, str | None]:
    with _lock:
        return _load_once()


@functools.cache
def _load_once() -> tuple[Ops | None, str | None]:
    if os.environ.get(SWITCH) == "0":
        return None, f"the environment variable {SWITCH} is 0"
    try:
        ops, reason = _first_that_loads()
    except Exception as error:  # The step goes on without it, whatever it is.
        ops, reason = None, f"looking for it failed ({error!r})"
    if ops is None:
        logging.warning(
            "keras_legacy_opt updates variables through TensorFlow's own ops:"
            " %s. The numbers are the same.",
            reason,
        )
    return ops, reason


def cxx11_abi() -> int:
    """TensorFlow's setting of _GLIBCXX_USE_CXX11_ABI."""
    return tf.sysconfig.CXX11_ABI_FLAG


def _first_that_loads() -> tuple[Ops | None, str | None]:
    reasons, others = [], set()
    remedy = "python -m keras_legacy_opt build"
    for folder in library.folders():
        path = folder / library.LIBRARY
        try:
            library.check(folder, tf.__version__, cxx11_abi())
            ops = Ops(str(path))
        except library.ForAnotherTensorFlow as why:
            others.add(why.version)
        except library.Unusable as why:
            reasons.append(f"{path} is not usable, because {why}")
        except (tf.errors.OpError, OSError, AttributeError) as error:
            reasons.append(f"{path} does not load ({error})")
            remedy = "python -m keras_legacy_opt build --force"
        else:
            for function in on_load:
                function()
            return ops, None
    if not reasons:
        reasons.append(
            f"no native library was built for TensorFlow {tf.__version__}"
            + _but_for(others)
        )
    return None, f"{printable('; '.join(reasons))}; `{remedy}` builds one"


def _but_for(versions: set[str]) -> str:
    """What follows on "for TensorFlow 2.99.0": which are there instead."""

    def numbers(version: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", version)]

    them = ", ".join(sorted(versions, key=numbers))
    return f", but for {them}" if them else ""


def printable(text: str) -> str:
    """Without what a terminal would obey: others may have chosen a name."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
