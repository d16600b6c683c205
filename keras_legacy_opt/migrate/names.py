"""What names of old code mean in this package."""

from __future__ import annotations

from keras_legacy_opt import legacy_names

PACKAGE = "keras_legacy_opt"


def meaning(name: str) -> str | None:
    """What a full name of legacy's is in this package."""
    module, _, attribute = name.rpartition(".")
    return legacy_names.attributes(module).get(attribute)


def is_module(name: str) -> bool:
    """Whether a full name is that of a module with legacy's optimizers."""
    return bool(legacy_names.attributes(name))


def is_other_name(name: str) -> bool:
    """Whether a full name is of such a module, but not legacy's."""
    module, _, attribute = name.rpartition(".")
    return (
        is_module(module)
        and module.endswith((".optimizers", ".schedules"))
        and not is_module(name)
        and attribute not in ("experimental", "legacy", "schedules")
    )
