"""Optimizers and schedules by name and by config: `get` and its siblings."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any

from keras_legacy_opt import hosts

# What Keras' new optimizers write into their configs, which legacy's never had.
_KEYS_OF_OTHERS = ("is_legacy_optimizer", "jit_compile")

# Modules under whose name files of all ages speak of the built-in classes.
_BUILT_IN_MODULES = frozenset(
    [
        None,
        "builtins",
        "keras.mixed_precision",
        "keras.mixed_precision.loss_scale_optimizer",
        "keras.optimizers",
        "keras.optimizers.legacy",
        "keras.optimizers.schedules",
        "keras.src.mixed_precision.loss_scale_optimizer",
        "tf_keras.mixed_precision",
        "tf_keras.optimizers",
        "tf_keras.optimizers.legacy",
        "tf_keras.optimizers.schedules",
        "tf_keras.src.mixed_precision.loss_scale_optimizer",
    ]
)

# Names that built-in classes had.
_FORMER_NAMES = {"LossScaleOptimizerV1": "LossScaleOptimizer"}


def serialize(optimizer: Any) -> dict[str, Any]:
    """The config of an optimizer together with its class.

    Args:
      optimizer: a `keras_legacy_opt.Optimizer`.

    Returns:
      A JSON-compatible dictionary that `deserialize` and `get`, and the
      deserializers of Keras 3 and tf_keras, turn back into an optimizer.

    >>> import keras_legacy_opt
    >>> config = keras_legacy_opt.serialize(keras_legacy_opt.SGD(0.1))
    >>> config["class_name"], config["config"]["learning_rate"]
    ('SGD', 0.1)
    """
    return _serialize_object(optimizer)


def deserialize(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
) -> Any:
    """The optimizer that a dictionary describes.

    Args:
      config: `{"class_name": ..., "config": {...}}`, as written by `serialize`
        or by any release of Keras 2.  The class name of a built-in optimizer
        may be in any letter case.
      custom_objects: maps names to classes or functions that the config names.

    Raises:
      ValueError: if no such optimizer is known, or the dictionary is malformed.

    >>> import keras_legacy_opt
    >>> old = {"class_name": "Adam", "config": {"lr": 0.01, "decay": 1e-4}}
    >>> keras_legacy_opt.deserialize(old).get_config()["learning_rate"]
    0.01
    """
    return _deserialize_object(
        config, hosts.OptimizerHost, "optimizer", custom_objects
    )


def get(identifier: Any) -> Any:
    """The optimizer that a name, a dictionary or an optimizer means.

    Args:
      identifier: the name of a built-in optimizer in any letter case, a
        dictionary as taken by `deserialize`, or an optimizer, which is returned
        unchanged.

    Raises:
      ValueError: if it is none of these.

    >>> import keras_legacy_opt
    >>> keras_legacy_opt.get("adam").get_config()["beta_2"]
    0.999
    """
    if isinstance(identifier, hosts.OptimizerHost):
        return identifier
    if isinstance(identifier, Mapping):
        return deserialize(identifier)
    if isinstance(identifier, str):
        return deserialize({"class_name": identifier, "config": {}})
    raise ValueError(
        f"Could not interpret the optimizer {identifier!r} of type"
        f" {type(identifier).__name__}: pass one of"
        f" {hosts.public_names(hosts.OptimizerHost)}, a config dictionary, or a"
        " keras_legacy_opt optimizer."
    )


def serialize_schedule(schedule: Any) -> dict[str, Any]:
    """The config of a learning rate schedule together with its class.

    Args:
      schedule: a schedule of this package, of Keras 3 or of tf_keras.

    Returns:
      A JSON-compatible dictionary, for `deserialize_schedule`.
    """
    return _serialize_object(schedule)


def deserialize_schedule(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
) -> Any:
    """The learning rate schedule that a dictionary describes.

    Args:
      config: `{"class_name": ..., "config": {...}}`, as written by
        `serialize_schedule` or by any release of Keras.
      custom_objects: maps names to classes that the config names.

    Raises:
      ValueError: if no such schedule is known, or the dictionary is malformed.
    """
    return _deserialize_object(
        config, hosts.ScheduleHost, "schedule", custom_objects
    )


def _serialize_object(instance: Any) -> dict[str, Any]:
    cls = type(instance)
    name = cls.__name__
    ours = hosts.public_class(name, cls) is cls
    return {
        "module": cls.__module__,
        "class_name": name,
        "config": instance.get_config(),
        "registered_name": f"{hosts.PACKAGE}>{name}" if ours else name,
    }


def _deserialize_object(
    config: Mapping[str, Any],
    base: type,
    kind: str,
    custom_objects: Mapping[str, Any] | None,
) -> Any:
    if not isinstance(config, Mapping) or "class_name" not in config:
        raise ValueError(
            f"The {kind} must be a dictionary with the keys 'class_name' and"
            f" 'config'. Received: {config!r}."
        )
    cls = _find_class(config, base, kind, custom_objects or {})
    kwargs = copy.deepcopy(dict(config.get("config") or {}))
    for key in _KEYS_OF_OTHERS:
        kwargs.pop(key, None)
    if kind == "optimizer":
        return cls.from_config(kwargs, custom_objects=custom_objects)
    return cls.from_config(kwargs)


def _find_class(
    config: Mapping[str, Any],
    base: type,
    kind: str,
    custom_objects: Mapping[str, Any],
) -> type:
    """The class that a config names; never anything that is none of `kind`.

    Configs come from files, and files come from anywhere: a class is ours, one
    that the caller gave or registered, or an imported class of `kind`.
    """
    name = config["class_name"]
    module = config.get("module")
    registered = config.get("registered_name") or name
    for text in (name, registered, module or ""):
        if not isinstance(text, str):
            raise ValueError(
                f"The {kind} is malformed: its 'class_name', 'module' and"
                f" 'registered_name' must be strings. Received: {text!r}."
            )
    for key in (registered, name):
        if key in custom_objects:
            return custom_objects[key]
    in_package = str(module).partition(".")[0] == hosts.PACKAGE
    if module in _BUILT_IN_MODULES or in_package:
        own_name = name.rpartition(">")[2]
        cls = hosts.public_class(_FORMER_NAMES.get(own_name, own_name), base)
        if cls is not None:
            return cls
    for key in (registered, name):
        cls = hosts.registered_object(key)
        if hosts.is_kind_of(cls, base):
            return cls
    cls = getattr(sys.modules.get(module or ""), "__dict__", {}).get(name)
    if hosts.is_kind_of(cls, base):
        # Not made for us: it may call anything that a nested config names.
        _check_nested(config.get("config"), custom_objects)
        return cls
    raise ValueError(
        f"Unknown {kind} {name!r}"
        f"{f' of module {module!r}' if module else ''}. Known are"
        f" {hosts.public_names(base)}; pass others in `custom_objects`, or"
        " import the module that defines and registers them."
    )


def _check_nested(value: Any, custom_objects: Mapping[str, Any]) -> None:
    """Raises an error if a nested config names no optimizer or schedule."""
    if isinstance(value, (list, tuple)):
        for part in value:
            _check_nested(part, custom_objects)
    elif isinstance(value, Mapping) and "class_name" in value:
        try:
            _find_class(value, hosts.OptimizerHost, "optimizer", custom_objects)
        except ValueError:
            _find_class(value, hosts.ScheduleHost, "schedule", custom_objects)
        _check_nested(value.get("config"), custom_objects)
    elif isinstance(value, Mapping):
        _check_nested(list(value.values()), custom_objects)
