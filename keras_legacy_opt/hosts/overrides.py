"""Methods that subclasses override: they see `tf.Variable`s, as legacy's did.

Keras 3, and code for it, hands over `keras.Variable`s, of which legacy code
knows nothing: it calls `ref()`, `device` or `assign(use_locking=)`.  Whatever
overrides one of the methods below, in a class, in a mixin or on an instance, is
therefore called through a guard that replaces `keras.Variable`s in the
arguments.  `KnownVariables` leads from their `tf.Variable`s back to them.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, originals

# What others call with variables.  The updates of one variable, such as
# `_resource_apply_dense`, are called by this package only.
TAKE_VARIABLES = frozenset(
    [
        "_aggregate_gradients",
        "_compute_gradients",
        "_create_all_weights",
        "_create_slots",
        "_get_gradients",
        "_prepare",
        "_transform_gradients",
        "_transform_unaggregated_gradients",
        "add_slot",
        "apply",
        "apply_gradients",
        "build",
        "get_gradients",
        "get_slot",
        "get_updates",
        "minimize",
    ]
)
# Those of them that take a callable `var_list`, as the second argument.
_TAKE_CALLABLES = ("_compute_gradients", "minimize")
_IS_GUARD = "_keras_legacy_opt_guard"


class OverrideMixin:
    """The part of an optimizer that guards what subclasses override."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if originals.package_of(cls) != hosts.PACKAGE:
            guard(cls)


def guard(cls: type) -> None:
    """Guards what `cls` overrides, unless it is guarded."""
    for name in TAKE_VARIABLES:
        if originals.are_own(cls, (name,)):
            continue
        if hasattr(getattr(cls, name), _IS_GUARD):
            continue
        definer = next(c for c in cls.__mro__ if name in vars(c))
        override = vars(definer)[name]
        if not callable(override):
            continue
        if originals.package_of(definer) == hosts.PACKAGE:
            continue  # Ours see to it themselves.
        if issubclass(definer, hosts.OptimizerHost):
            setattr(definer, name, _guarded(override, name))
        else:  # A mixin's, which optimizers of others may share.
            setattr(cls, name, _guarded(_next_after(cls, name, override), name))


def guarded_on(optimizer: Any, name: str, value: Any) -> Any:
    """`value`, guarded if it overrides the method `name` of `optimizer`."""
    if name in TAKE_VARIABLES and callable(value):
        return _InstanceOverride(optimizer, name, value)
    return value


def _guarded(override: Any, name: str) -> Callable[..., Any]:
    # AutoGraph converts a guard, and through it the override, as it would have
    # converted the override alone.
    if isinstance(override, types.FunctionType):

        @functools.wraps(override)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            args, kwargs = _with_tf_variables(self, name, args, kwargs)
            return override(self, *args, **kwargs)
    else:  # A static method, a `tf.function`, ...

        @functools.wraps(override)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            args, kwargs = _with_tf_variables(self, name, args, kwargs)
            return _bound(override, self)(*args, **kwargs)

    setattr(method, _IS_GUARD, True)
    return method


def _next_after(cls: type, name: str, override: Any) -> Callable[..., Any]:
    """A method that calls what `cls` inherits as `name`: now, `override`."""

    @functools.wraps(override)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(cls, self), name)(*args, **kwargs)

    return method


def _bound(override: Any, optimizer: Any) -> Callable[..., Any]:
    if hasattr(override, "__get__"):
        return override.__get__(optimizer, type(optimizer))
    return override


class _InstanceOverride:
    """An override that one optimizer has, which is called through a guard.

    All else about it is the override's: a copy or pickle of the optimizer has a
    copy, and a mock tells how it was called.
    """

    def __init__(self, optimizer: Any, name: str, override: Any):
        functools.update_wrapper(self, override, updated=())
        self._self_optimizer = optimizer
        self._self_name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = _with_tf_variables(
            self._self_optimizer, self._self_name, args, kwargs
        )
        return self.__wrapped__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_self_", "__")):  # Not there yet, in a copy.
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)


@tf.autograph.experimental.do_not_convert
def _with_tf_variables(
    optimizer: Any, name: str, args: Any, kwargs: Any
) -> tuple[Any, Any]:
    """The arguments of the method `name`, without `keras.Variable`s."""
    args = [_unwrapped(optimizer, arg) for arg in args]
    kwargs = {key: _unwrapped(optimizer, arg) for key, arg in kwargs.items()}
    if name in _TAKE_CALLABLES:
        if len(args) > 1 and callable(args[1]):
            args[1] = _unwrapping(optimizer, args[1])
        elif callable(kwargs.get("var_list")):
            kwargs["var_list"] = _unwrapping(optimizer, kwargs["var_list"])
    return args, kwargs


def _unwrapping(optimizer: Any, var_list: Callable[..., Any]) -> Any:
    return lambda: _unwrapped(optimizer, var_list())


def _unwrapped(optimizer: Any, argument: Any) -> Any:
    if isinstance(argument, Iterator):  # Such as `zip(gradients, variables)`.
        argument = list(argument)
    unwrap = optimizer._known_variables.unwrap
    return tf.nest.map_structure(
        lambda x: unwrap(x) if hosts.is_keras_variable(x) else x, argument
    )
