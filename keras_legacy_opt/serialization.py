"""Optimizers and schedules by name and by config: `get` and its siblings."""

from __future__ import annotations

import copy
import inspect
import sys
import types
import warnings
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

# Packages whose classes are this package's, by their names.
_FOLLOWED = (hosts.PACKAGE, "tensorflow_addons", "transformers", "official")

# Marks what Keras 2 turned into a dictionary on its own account, and turned
# back before any `from_config`.
_PASSIVE = "__passive_serialization__"

# Names that built-in classes had.
_FORMER_NAMES = {"LossScaleOptimizerV1": "LossScaleOptimizer"}


def serialize(optimizer: Any, use_legacy_format: bool = False) -> Any:
    """The config of an optimizer together with its class.

    Args:
      optimizer: a `keras_legacy_opt.Optimizer`; one of a Keras' own is
        serialized by that Keras.
      use_legacy_format: whether to write what TensorFlow wrote up to 2.11:
        class name and config, but not the module.

    Returns:
      A JSON-compatible dictionary that `deserialize` and `get`, and the
      deserializers of Keras 3 and tf_keras, turn back into an optimizer.
      Objects that `get_config` returns are serialized, too.  `None` for `None`.

    >>> import keras_legacy_opt
    >>> config = keras_legacy_opt.serialize(keras_legacy_opt.SGD(0.1))
    >>> config["class_name"], config["config"]["learning_rate"]
    ('SGD', 0.1)
    """
    is_optimizer = isinstance(optimizer, hosts.OptimizerHost)
    if not (
        optimizer is None or is_optimizer or hosts.keras_of(type(optimizer))
    ):
        warnings.warn(
            "serialize() is for optimizers. Received:"
            f" {optimizer!r} of type {type(optimizer).__name__}.",
            stacklevel=2,
        )
    return _serialized(optimizer, use_legacy_format)


def deserialize(
    config: Mapping[str, Any],
    custom_objects: Mapping[str, Any] | None = None,
    use_legacy_format: bool = False,
    use_legacy_optimizer: bool = True,
) -> Any:
    """The optimizer that a dictionary describes.

    Args:
      config: `{"class_name": ..., "config": {...}}`, as written by `serialize`
        or by any release of Keras 2.  The class name of a built-in optimizer
        may be in any letter case.
      custom_objects: maps names to classes or functions that the config names.
      use_legacy_format: accepted as in TensorFlow 2.12 to 2.15; the dictionary
        itself says which format it has.
      use_legacy_optimizer: accepted as in TensorFlow 2.11 to 2.15; the result
        is always a legacy optimizer.

    Raises:
      ValueError: if no such optimizer is known, or the dictionary is malformed.

    >>> import keras_legacy_opt
    >>> old = {"class_name": "Adam", "config": {"lr": 0.01, "decay": 1e-4}}
    >>> keras_legacy_opt.deserialize(old).get_config()["learning_rate"]
    0.01
    """
    del use_legacy_format, use_legacy_optimizer
    return _deserialize_object(
        config, hosts.OptimizerHost, "optimizer", custom_objects
    )


def get(
    identifier: Any,
    custom_objects: Mapping[str, Any] | None = None,
    use_legacy_format: bool = False,
    use_legacy_optimizer: bool = True,
) -> Any:
    """The optimizer that a name, a dictionary or an optimizer means.

    Args:
      identifier: the name of a built-in optimizer in any letter case, a
        dictionary as taken by `deserialize`, or an optimizer, which is returned
        unchanged.
      custom_objects: maps names to classes or functions that are meant by them.
      use_legacy_format: see `deserialize`.
      use_legacy_optimizer: see `deserialize`.

    Raises:
      ValueError: if it is none of these.

    >>> import keras_legacy_opt
    >>> keras_legacy_opt.get("adam").get_config()["beta_2"]
    0.999
    """
    if isinstance(identifier, hosts.OptimizerHost):
        return identifier
    if isinstance(identifier, str):
        identifier = {"class_name": identifier, "config": {}}
    if isinstance(identifier, Mapping):
        return deserialize(
            identifier, custom_objects, use_legacy_format, use_legacy_optimizer
        )
    raise ValueError(
        f"Could not interpret optimizer identifier: {identifier!r} of type"
        f" {type(identifier).__name__}. Pass one of"
        f" {hosts.public_names(hosts.OptimizerHost)}, a config dictionary, or a"
        " keras_legacy_opt optimizer."
    )


def serialize_schedule(
    learning_rate_schedule: Any, use_legacy_format: bool = False
) -> Any:
    """The config of a learning rate schedule together with its class.

    Args:
      learning_rate_schedule: a schedule of this package, or one of Keras 3 or
        tf_keras, which is serialized by that Keras.
      use_legacy_format: see `keras_legacy_opt.serialize`.

    Returns:
      A JSON-compatible dictionary, for `deserialize`.  `None` for `None`.
    """
    return _serialized(learning_rate_schedule, use_legacy_format)


def deserialize_schedule(
    config: Mapping[str, Any],
    custom_objects: Mapping[str, Any] | None = None,
    use_legacy_format: bool = False,
) -> Any:
    """The learning rate schedule that a dictionary describes.

    Args:
      config: `{"class_name": ..., "config": {...}}`, as written by `serialize`
        or by any release of Keras.  Of a schedule that Keras has, the result is
        this package's.
      custom_objects: maps names to classes that the config names.
      use_legacy_format: accepted as in TensorFlow 2.12 to 2.15; the dictionary
        itself says which format it has.

    Raises:
      ValueError: if no such schedule is known, or the dictionary is malformed.
    """
    del use_legacy_format
    return _deserialize_object(
        config, hosts.ScheduleHost, "schedule", custom_objects
    )


def _serialized(value: Any, legacy_format: bool) -> Any:
    """What JSON can take of `value`: an object, or what a config holds."""
    if isinstance(value, (hosts.OptimizerHost, hosts.ScheduleHost)):
        return _serialize_object(value, legacy_format)
    if legacy_format:
        if hasattr(value, "get_config"):
            return _serialize_object(value, legacy_format)
        return getattr(value, "__name__", value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {k: _serialized(v, legacy_format) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_serialized(v, legacy_format) for v in value])
    return hosts.serialize(value)


def _serialize_object(instance: Any, legacy_format: bool) -> dict[str, Any]:
    cls = instance.__class__  # Not the type: see `optimizer.learning_rate`.
    name = cls.__name__
    ours = hosts.public_class(name, cls) is cls
    registered = (
        f"{hosts.PACKAGE}>{name}" if ours else hosts.registered_name(cls)
    )
    config = instance.get_config()
    if legacy_format:
        return {
            "class_name": name if ours else registered,
            "config": {k: _passively_serialized(v) for k, v in config.items()},
        }
    return {
        "module": cls.__module__,
        "class_name": name,
        "config": _serialized(config, legacy_format),
        "registered_name": registered,
    }


def _passively_serialized(value: Any) -> Any:
    serialized = _serialized(value, legacy_format=True)
    if isinstance(serialized, dict) and not isinstance(value, dict):
        serialized[_PASSIVE] = True
    return serialized


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
    with hosts.custom_object_scope(custom_objects or {}):
        if "module" not in config:
            kwargs = {
                name: _actively_deserialized(name, value, custom_objects or {})
                for name, value in kwargs.items()
            }
        if not hasattr(cls, "from_config"):  # A function that makes one.
            return cls(**kwargs)
        if "custom_objects" in inspect.signature(cls.from_config).parameters:
            return cls.from_config(kwargs, custom_objects=custom_objects)
        return cls.from_config(kwargs)


def _actively_deserialized(
    name: str, value: Any, custom_objects: Mapping[str, Any]
) -> Any:
    """An argument in a config: what Keras 2 did not leave to `from_config`.

    That is objects which it serialized unasked, and functions, by name.
    """
    if isinstance(value, Mapping) and _PASSIVE in value:
        if hosts.public_class(value["class_name"], hosts.ScheduleHost):
            return deserialize_schedule(value, custom_objects)
        return deserialize(value, custom_objects)
    if isinstance(value, str) and name != "name":
        found = custom_objects.get(value) or hosts.registered_object(value)
        if isinstance(found, types.FunctionType):
            return found
    return value


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
    name: str = config["class_name"]
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
    is_followed = str(module).partition(".")[0] in _FOLLOWED
    if module in _BUILT_IN_MODULES or is_followed:
        own_name: str = name.rpartition(">")[2]
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
