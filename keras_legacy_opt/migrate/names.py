"""What names of old code mean in this package."""

from __future__ import annotations

from keras_legacy_opt import legacy_names

PACKAGE = "keras_legacy_opt"
ADDONS = "tensorflow_addons"
_SAME = "tensorflow.compat.v2"  # as `tensorflow`
_KERASES = ("keras", "tensorflow", "tf_keras")


def attributes(module: str) -> dict[str, str]:
    """{name in an old module: the dotted name in this package}."""
    if module.startswith(f"{_SAME}."):
        module = f"tensorflow{module.removeprefix(_SAME)}"
    return legacy_names.attributes(module) or {
        name: f"addons.{name}" for name in legacy_names.ADDONS.get(module, ())
    }


def meaning(name: str) -> str | None:
    """What a full name of legacy's is in this package."""
    module, _, attribute = name.rpartition(".")
    return attributes(module).get(attribute)


def is_module(name: str) -> bool:
    """Whether a full name is that of a module with legacy's optimizers."""
    return bool(attributes(name))


def has_modules(name: str) -> bool:
    """Whether a full name is that of a package with such modules in it."""
    return any(
        f"{package}.".startswith(f"{name}.")
        for package in (*legacy_names.KERASES, ADDONS)
    )


def successor(module: str) -> str:
    """What is in this package what such a module was: "" for itself."""
    return next(iter(attributes(module).values())).rpartition(".")[0]


def askable(module: str) -> set[str]:
    """The attributes of such a module that its successor has, too."""
    below = successor(module)
    same = {
        name
        for name, meant in attributes(module).items()
        if meant == f"{below}.{name}".removeprefix(".")
    }
    has_schedules = module.endswith(".optimizers") and not below
    return same | {"schedules"} if has_schedules else same


def is_other_name(name: str) -> bool:
    """Whether a full name is of such a module, but not legacy's."""
    module, _, attribute = name.rpartition(".")
    return (
        is_module(module)
        and module.endswith((".optimizers", ".schedules"))
        and not is_module(name)
        and attribute not in ("experimental", "legacy", "schedules")
    )


def is_of(name: str, *packages: str) -> bool:
    """Whether a full name is in one of these packages."""
    return name.partition(".")[0] in packages


def is_of_keras(name: str) -> bool:
    """Whether a full name is TensorFlow's or of a Keras."""
    return is_of(name, *_KERASES)


def is_of_known(name: str) -> bool:
    """Whether a full name is one of whose value enough is known."""
    return is_of(name, *_KERASES, ADDONS, PACKAGE)


def is_gone(module: str) -> bool:
    """Whether a module is not there any more, which stops its import."""
    return is_of(module, ADDONS) or (
        is_of(module, "keras") and legacy_names.defines_classes(module)
    )
