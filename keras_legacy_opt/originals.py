"""Which methods of an optimizer are still this package's own.

What is faster than calling a method may be done only where nobody has another
idea of it: in a subclass, on our class, or on the instance, at any time.
"""

from __future__ import annotations

import functools
import types
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type)

# {class of this package: what its attributes were when it was defined}
_originals: dict[type, dict[str, Any]] = {}


def recorded(cls: _Class) -> _Class:
    """`cls`, a class of this package, whose attributes are taken down."""
    _originals[cls] = {name: getattr(cls, name, None) for name in dir(cls)}
    return cls


def package_of(cls: type) -> str:
    """The package that a class says it is of; "" if it says nothing."""
    # As of one that `type` made where no module was executed.
    return getattr(cls, "__module__", "").partition(".")[0]


def own_class(cls: type) -> type | None:
    """The class of this package that `cls` is, or is derived from."""
    for base in cls.__mro__:
        if base in _originals:
            return base
    return None


def are_own(cls: type, names: tuple[str, ...]) -> bool:
    """Whether `cls` has the attributes `names` from this package's classes."""
    own = own_class(cls)
    if own is None:
        return False
    originals = _originals[own]
    return all(
        getattr(cls, name) is originals[name] or _is_of_another(cls, name)
        for name in names
    )


def _is_of_another(cls: type, name: str) -> bool:
    """Whether it has an attribute from one of several of our classes.

    As those have that mix ours with each other.
    """
    definer = next((c for c in cls.__mro__ if name in vars(c)), cls)
    return package_of(definer) in ("keras_legacy_opt", "tensorflow") and any(
        _originals[base].get(name) is getattr(cls, name)
        for base in cls.__mro__
        if base in _originals
    )


def is_own(optimizer: Any, names: tuple[str, ...]) -> bool:
    """Whether `optimizer` has them from there: no instance attributes, too."""
    return vars(optimizer).keys().isdisjoint(names) and are_own(
        type(optimizer), names
    )


@functools.cache
def methods_of(cls: type) -> frozenset[str]:
    """The methods of a class of this package, and its `iterations`.

    Whatever its steps call of its own is among them.
    """
    return frozenset({"iterations"}).union(
        name
        for base in cls.__mro__
        if package_of(base) == "keras_legacy_opt"
        for name, value in vars(base).items()
        if isinstance(value, types.FunctionType)
    )


def all_own(optimizer: Any) -> bool:
    """Whether the class of `optimizer`, and all its methods, are ours."""
    cls = type(optimizer)
    return own_class(cls) is cls and is_own(optimizer, tuple(methods_of(cls)))


def overridden(optimizer: Any, names: tuple[str, ...]) -> list[str]:
    """Which of them `optimizer` does not have from there."""
    if is_own(optimizer, names):
        return []
    return [name for name in names if not is_own(optimizer, (name,))]
