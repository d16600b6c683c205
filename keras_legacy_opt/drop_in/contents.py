"""What each module of a Keras holds after `install`, by the module's name."""

from __future__ import annotations

import functools
import importlib
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

from keras_legacy_opt import (
    hosts,
    legacy_names,
    private_api,
    serialization,
)

# Where `compile` asks what a string means.
_INTERNAL = ("keras.src.optimizers", "tf_keras.src.optimizers")

# In the configs of Keras' new optimizers, and in no other.
_KEYS_OF_NEW_OPTIMIZERS = frozenset(["use_ema", "ema_momentum"])


# What a string, or a class name in a config, means.
_OF_LEGACY = frozenset(
    name.lower() for name in (*legacy_names.OPTIMIZERS, "LossScaleOptimizer")
)


def knows(name: str) -> bool:
    """Whether a module of this name gets names, if it is imported."""
    return (
        name in _INTERNAL
        or name in legacy_names.ADDONS
        or name in legacy_names.HELPERS
        or _is_experimental(name)
        or bool(legacy_names.attributes(name))
    )


def of_module(
    name: str, own: Mapping[str, Any], top_level: bool
) -> dict[str, Any]:
    """The attributes that a module gets; none, if it is tensorflow_addons'.

    Args:
      name: the module's full name, one that `knows` knows.
      own: its own attributes.
      top_level: whether `tf.keras.optimizers` itself becomes legacy's.
    """
    if not top_level and (name in _INTERNAL or legacy_names.is_top_level(name)):
        return _reader_of_legacy(own)
    if name in _INTERNAL:
        return _functions(own)
    package = importlib.import_module(hosts.PACKAGE)
    values = {
        attribute: operator.attrgetter(path)(package)
        for attribute, path in legacy_names.attributes(name).items()
    }
    return values | (_functions(own) if "get" in values else {})


def of_stand_in(
    name: str, of_parent: Mapping[str, Any], top_level: bool
) -> dict[str, Any]:
    """The attributes of a module that Keras, or nobody, has.

    Args:
      name: the module's full name, one that `knows` knows.
      of_parent: the own attributes of the package that it is in.
      top_level: see `of_module`.
    """
    if name in legacy_names.ADDONS:
        addons = importlib.import_module(f"{hosts.PACKAGE}.addons")
        return {
            **{
                each: getattr(addons, each)
                for each in legacy_names.ADDONS[name]
            },
            "__getattr__": functools.partial(_not_of_addons, name),
        }
    if name in legacy_names.HELPERS:
        return private_api.gradient_helpers()
    if _is_experimental(name):  # What the package had for new ones.
        return {k: v for k, v in of_parent.items() if inspect.isclass(v)}
    return of_module(name, {}, top_level)


def children(name: str) -> tuple[str, ...]:
    """Stand-ins that are attributes of a module without being imported."""
    if name in legacy_names.ADDONS:
        below = name + "."
        return tuple(
            each.removeprefix(below)
            for each in legacy_names.ADDONS
            if each.startswith(below) and "." not in each.removeprefix(below)
        )
    is_public = _is_experimental(f"{name}.experimental")
    return ("legacy", "experimental") if is_public else ()


def _not_of_addons(module: str, name: str) -> Any:
    """`__getattr__` of what stands in for a module of tensorflow_addons."""
    raise AttributeError(
        f"module {module!r} has no attribute {name!r}: tensorflow_addons is not"
        f" installed, and {hosts.PACKAGE} stands in for its optimizers only."
    )


def _is_experimental(name: str) -> bool:
    return any(
        name == f"{keras}.optimizers.experimental"
        for keras in legacy_names.KERASES
    )


def _functions(own: Mapping[str, Any]) -> dict[str, Any]:
    """`get` and `deserialize`, which hand to a Keras what only it knows."""
    if not {"get", "deserialize"} <= own.keys():
        return {}
    return {
        "get": _get(own["get"], own["deserialize"]),
        "deserialize": _deserialize(own["deserialize"]),
    }


def _reader_of_legacy(own: Mapping[str, Any]) -> dict[str, Any]:
    """`deserialize`, which gives ours where legacy's gave its own."""
    if not {"get", "deserialize"} <= own.keys():
        return {}
    original = own["deserialize"]
    ours = _deserialize(original)

    @functools.wraps(original)
    def deserialize(
        config: Any,
        custom_objects: Mapping[str, Any] | None = None,
        **options: bool,
    ) -> Any:
        if _is_legacys(config, options, _takes_options(original)):
            # What `get` of tf_keras passes says less than the config.
            options = {**options, "use_legacy_optimizer": True}
            return ours(config, custom_objects, **options)
        return original(
            config, custom_objects, **_understood(original, options)
        )

    return {"deserialize": deserialize}


def _is_legacys(
    config: Any, options: Mapping[str, bool], in_keras_2: bool
) -> bool:
    """Whether the functions of TensorFlow 2.11 to 2.15 took it for legacy's.

    They did with all configs that did not say otherwise; in Keras 3, which does
    not say it, legacy's are known by their `decay`.
    """
    kwargs = config.get("config") if isinstance(config, Mapping) else None
    if not kwargs:
        return options.get("use_legacy_optimizer", False)
    return kwargs.get("is_legacy_optimizer", in_keras_2 or "decay" in kwargs)


def _is_ours(config: Any, custom_objects: Mapping[str, Any] | None) -> bool:
    """Whether a config, of whatever age, is of an optimizer that legacy had."""
    name = config.get("class_name") if isinstance(config, Mapping) else None
    if not isinstance(name, str):
        return False
    if name in (custom_objects or {}):
        return False  # Whatever it is, both Kerases know what to do.
    kwargs = config.get("config") or {}
    if _KEYS_OF_NEW_OPTIMIZERS.intersection(kwargs):
        return False
    package, _, own_name = name.rpartition(">")
    if package != hosts.PACKAGE and own_name.lower() not in _OF_LEGACY:
        return False  # Our addons are not legacy's, and Keras has some of them.
    return hosts.public_class(own_name, hosts.OptimizerHost) is not None


def _deserialize(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def deserialize(
        config: Any,
        custom_objects: Mapping[str, Any] | None = None,
        **options: bool,
    ) -> Any:
        if _wants_ours(options) and _is_ours(config, custom_objects):
            return serialization.deserialize(config, custom_objects, **options)
        return original(
            config, custom_objects, **_understood(original, options)
        )

    return deserialize


def _get(
    original: Callable[..., Any], deserialize: Callable[..., Any]
) -> Callable[..., Any]:
    @functools.wraps(original)
    def get(
        identifier: Any,
        custom_objects: Mapping[str, Any] | None = None,
        **options: bool,
    ) -> Any:
        config = identifier
        if isinstance(identifier, str):
            config = {"class_name": identifier, "config": {}}
        if _wants_ours(options) and _is_ours(config, custom_objects):
            return serialization.get(config, custom_objects, **options)
        understood = _understood(original, options)
        if isinstance(config, dict) and options and not understood:
            # The original would ask the `deserialize` that took its place.
            return deserialize(config, custom_objects)
        return original(identifier, **understood)

    return get


def _wants_ours(options: Mapping[str, bool]) -> bool:
    return options.get("use_legacy_optimizer", True)


def _understood(
    function: Callable[..., Any], options: dict[str, bool]
) -> dict[str, bool]:
    """What tf_keras' functions take, and those of Keras 3 do not."""
    return options if _takes_options(function) else {}


def _takes_options(function: Callable[..., Any]) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.kind is p.VAR_KEYWORD for p in parameters)
