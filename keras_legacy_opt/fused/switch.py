"""Whether the native ops may be called just now, by whatever optimizer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.fused import loader

_switch = threading.local()


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Steps that this thread runs or traces inside do without native ops.

    So do the steps of the replicas of a `strategy.run` that is called inside.

    >>> with keras_legacy_opt.fused.disabled():
    ...     keras_legacy_opt.fused.switch.refuses()
    'they are switched off by `fused.disabled()`'
    """
    before = getattr(_switch, "off", False)
    _switch.off = True
    try:
        yield
    finally:
        _switch.off = before


def as_here(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`; if this is inside `disabled`, so is each call of it.

    Replicas run in threads of their own; what they merge runs in another.
    """
    if not getattr(_switch, "off", False):
        return function

    @tf.autograph.experimental.do_not_convert
    def without_native_ops(*args: Any, **kwargs: Any) -> Any:
        with disabled():
            return function(*args, **kwargs)

    return without_native_ops


def refuses() -> str | None:
    """Why a step that is run or traced here cannot call native ops, if so."""
    if getattr(_switch, "off", False):
        return "they are switched off by `fused.disabled()`"
    if private_api.compiled_by_xla():
        return "XLA compiles the function, and cannot call them"
    return loader.why_not()
