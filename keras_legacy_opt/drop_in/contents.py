"""What each module of a Keras holds after `install`, by the module's name.

Legacy optimizers had many addresses: the public ones, of which every Keras has
several copies, and those of the files that defined them, which old code imports
and old pickles name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from keras_legacy_opt import hosts, schedules, serialization
from keras_legacy_opt.optimizer import Optimizer

# Modules with the public names of a Keras.
_KERASES = (
    "keras",
    "keras.api",
    "keras._tf_keras.keras",
    "tensorflow.keras",
    "tf_keras",
    "tf_keras.api._v1.keras",
    "tf_keras.api._v2.keras",
)

# Packages with one file for each optimizer, of all releases up to 2.15.
_PACKAGES_OF_FILES = (
    "keras.optimizer_v2",
    "keras.optimizers.legacy",
    "keras.optimizers.optimizer_v2",
    "keras.src.optimizers.legacy",
    "tensorflow.python.keras.optimizer_v2",
)

_FILES = {
    "adadelta": "Adadelta",
    "adagrad": "Adagrad",
    "adam": "Adam",
    "adamax": "Adamax",
    "ftrl": "Ftrl",
    "gradient_descent": "SGD",
    "nadam": "Nadam",
    "rmsprop": "RMSprop",
    "sgd": "SGD",
}

_FILE_OF_SCHEDULES = "keras.optimizers.schedules.learning_rate_schedule"

# Where `compile` asks what a string means.
_INTERNAL = ("keras.src.optimizers", "tf_keras.src.optimizers")

# In the configs of Keras' new optimizers, and in no other.
_KEYS_OF_NEW_OPTIMIZERS = frozenset(["use_ema", "ema_momentum"])


def legacy_optimizers() -> dict[str, Any]:
    """What `tf.keras.optimizers.legacy` was in TensorFlow 2.11 to 2.15."""
    return {"Optimizer": Optimizer} | {
        name: hosts.public_class(name, hosts.OptimizerHost)
        for name in _FILES.values()
    }


def knows(name: str) -> bool:
    """Whether a module of this name gets names, if it is imported."""
    public = any(
        name == f"{keras}.{part}" for keras in _KERASES for part in _PUBLIC
    )
    package, _, file = name.rpartition(".")
    return (
        public
        or name in (*_PACKAGES_OF_FILES, *_INTERNAL, _FILE_OF_SCHEDULES)
        or (package in _PACKAGES_OF_FILES and _file(file) is not None)
    )


def of_module(
    name: str, own: Mapping[str, Any], top_level: bool
) -> dict[str, Any]:
    """The attributes that a module gets.

    Args:
      name: the module's full name, one that `knows` knows.
      own: its own attributes.
      top_level: whether `tf.keras.optimizers` itself becomes legacy's.
    """
    for keras in _KERASES:
        make = _PUBLIC.get(name.removeprefix(f"{keras}."))
        if make is not None:
            return make(own, top_level)
    package, _, file = name.rpartition(".")
    if name in _PACKAGES_OF_FILES:
        return legacy_optimizers()
    if package in _PACKAGES_OF_FILES:
        return _file(file) or {}
    if name in _INTERNAL:
        return _functions(own) if top_level else {}
    return _schedules()


def of_stand_in(
    name: str, of_parent: Mapping[str, Any], top_level: bool
) -> dict[str, Any]:
    """The attributes of a module that Keras does not have.

    Args:
      name: the module's full name, one that `knows` knows.
      of_parent: the own attributes of the package that it is in.
      top_level: see `of_module`.
    """
    if name.endswith(".experimental"):  # What the package had for new ones.
        return {k: v for k, v in of_parent.items() if inspect.isclass(v)}
    return of_module(name, {}, top_level)


def children(name: str) -> tuple[str, ...]:
    """Stand-ins that are attributes of a module without being imported."""
    if any(name == f"{keras}.optimizers" for keras in _KERASES):
        return ("legacy", "experimental")
    return ()


def _optimizers(own: Mapping[str, Any], top_level: bool) -> dict[str, Any]:
    if not top_level:
        return {}
    return {
        **legacy_optimizers(),
        **_functions(own),
        "serialize": serialization.serialize,
    }


def _legacy(own: Mapping[str, Any], top_level: bool) -> dict[str, Any]:
    del own, top_level
    return legacy_optimizers()


def _of_schedules(own: Mapping[str, Any], top_level: bool) -> dict[str, Any]:
    del own
    return _schedules() if top_level else {}


def _mixed_precision(own: Mapping[str, Any], top_level: bool) -> dict[str, Any]:
    del own
    name = "LossScaleOptimizer"
    cls = hosts.public_class(name, hosts.OptimizerHost)
    return {name: cls} if top_level else {}


def _nothing(own: Mapping[str, Any], top_level: bool) -> dict[str, Any]:
    del own, top_level
    return {}


_PUBLIC: Mapping[str, Callable[[Mapping[str, Any], bool], dict[str, Any]]] = {
    "mixed_precision": _mixed_precision,
    "optimizers": _optimizers,
    "optimizers.experimental": _nothing,
    "optimizers.legacy": _legacy,
    "optimizers.schedules": _of_schedules,
}


def _file(name: str) -> dict[str, Any] | None:
    if name in _FILES:
        cls = hosts.public_class(_FILES[name], hosts.OptimizerHost)
        return {_FILES[name]: cls}
    if name == "optimizer_v2":
        return {"OptimizerV2": Optimizer}
    if name == "learning_rate_schedule":
        return _schedules()
    return None


def _schedules() -> dict[str, Any]:
    return {name: getattr(schedules, name) for name in schedules.__all__}


def _functions(own: Mapping[str, Any]) -> dict[str, Any]:
    """`get` and `deserialize`, which hand to a Keras what only it knows."""
    if not {"get", "deserialize"} <= own.keys():
        return {}
    return {
        "get": _get(own["get"], own["deserialize"]),
        "deserialize": _deserialize(own["deserialize"]),
    }


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
    own_name = name.rpartition(">")[2]
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
    parameters = inspect.signature(function).parameters.values()
    takes = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return options if takes else {}
