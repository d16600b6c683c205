"""Which path updates a variable: the native ops, or the optimizer's own.

Both yield the same numbers.  The native ops are taken for a variable if all of
this holds when the step is run eagerly or traced:

* the library is loaded, and not switched off;
* the function being traced is not compiled by XLA, which cannot call it;
* the optimizer is one of this package's, and the methods which update a
  variable are overridden neither by its class nor on the instance;
* the variable is a resource variable of a float dtype on a local CPU, has no
  constraint, and is updated once in the step.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_legacy_opt import originals, private_api
from keras_legacy_opt.fused import formulas, loader

DTYPES = (tf.float32, tf.float64, tf.bfloat16, tf.float16)

# The methods that an update runs through.  Where one is overridden, it decides.
_DENSE_METHODS = ("_resource_apply_dense", "get_slot")
_SPARSE_METHODS = (
    "get_slot",
    "_resource_apply_sparse_duplicate_indices",
    "_resource_apply_sparse",
    "_resource_scatter_add",
    "_resource_scatter_update",
)

_switch = threading.local()


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Steps that this thread runs or traces inside do without native ops.

    So do the steps of the replicas of a `strategy.run` that is called inside.

    >>> with keras_legacy_opt.fused.disabled():
    ...     keras_legacy_opt.fused.policy.ops() is None
    True
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


def ops() -> loader.Ops | None:
    """The native ops, if the step that is run or traced may use them."""
    if getattr(_switch, "off", False) or private_api.compiled_by_xla():
        return None
    return loader.load()


def dense_formula(optimizer: Any) -> formulas.Formula | None:
    """The op that updates variables of `optimizer` by dense gradients."""
    return _formula(optimizer, _DENSE_METHODS)


def sparse_formula(optimizer: Any) -> formulas.Formula | None:
    """The op that updates variables of `optimizer` by sparse gradients."""
    return _formula(optimizer, _SPARSE_METHODS)


def takes(variable: Any) -> bool:
    """Whether the native ops can update `variable`."""
    if isinstance(variable, tf.distribute.DistributedValues):
        is_resource = True  # It has handles in replicas only.
    else:
        is_resource = getattr(variable, "handle", None) is not None
    return (
        is_resource
        and variable.dtype.base_dtype in DTYPES
        and all(map(_is_local_cpu, private_api.devices_of(variable)))
    )


def updates(optimizer: Any, grad: Any, variable: Any) -> bool:
    """Whether native ops update `variable` by `grad`."""
    if isinstance(grad, tf.IndexedSlices):
        formula = sparse_formula(optimizer)
    else:
        formula = dense_formula(optimizer)
    return (
        formula is not None
        and optimizer._known_variables.constraint(variable) is None
        and takes(variable)
    )


def _formula(
    optimizer: Any, methods: tuple[str, ...]
) -> formulas.Formula | None:
    cls = originals.own_class(type(optimizer))
    formula = formulas.FORMULAS.get(cls.__name__) if cls else None
    if formula is None or not originals.is_own(optimizer, methods):
        return None
    return formula(optimizer)


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
