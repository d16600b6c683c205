"""Attributes of modules, and modules, that can be put back as they were."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

_MISSING = object()
_SHADOWS = "__keras_legacy_opt_shadows__"


class _Shadowed(types.ModuleType):
    """A module that shows others what its own functions do not see."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        shadows = super().__getattribute__("__dict__").get(_SHADOWS, {})
        former, value = shadows.get(name, (_MISSING, None))
        return value if found is former else found


class Patches:
    """What was changed, and what was there before."""

    def __init__(self):
        # {(number of a module, attribute): (module, former, present value)}
        self._attributes: dict[
            tuple[int, str], tuple[types.ModuleType, Any, Any]
        ] = {}
        self._stand_ins: list[types.ModuleType] = []
        self._shadowed: list[types.ModuleType] = []

    def set(self, module: types.ModuleType, name: str, value: Any) -> None:
        """Sets an attribute, which may be one that was set before."""
        former = self._former(module, name)
        self._attributes[id(module), name] = module, former, value
        setattr(module, name, value)

    def shadow(self, module: types.ModuleType, name: str, value: Any) -> None:
        """Sets an attribute for others: the module's code goes on with its own.

        A class that calls `super(Name, self)` needs itself under its name.
        """
        if name not in vars(module) or (id(module), name) in self._attributes:
            self.set(module, name, value)
            return
        shadows = vars(module).setdefault(_SHADOWS, {})
        shadows[name] = vars(module)[name], value
        if not isinstance(module, _Shadowed):
            module.__class__ = _Shadowed
            self._shadowed.append(module)

    def own(self, module: types.ModuleType) -> dict[str, Any]:
        """The attributes of a module without the changes."""
        # Listed at once: another thread may be importing.
        names = list(vars(module).copy())
        values = {name: self._former(module, name) for name in names}
        return {k: v for k, v in values.items() if v is not _MISSING}

    def add(self, module: types.ModuleType) -> None:
        """Takes note of a module that is to vanish."""
        self._stand_ins.append(module)

    def undo(self) -> None:
        """Puts everything back that nobody else has changed since."""
        for (_, name), (module, former, value) in self._attributes.items():
            # Who holds a stand-in may go on using it.
            if module in self._stand_ins or vars(module).get(name) is not value:
                continue
            if former is _MISSING:
                delattr(module, name)
            else:
                setattr(module, name, former)
        for module in self._shadowed:
            module.__class__ = types.ModuleType
            del vars(module)[_SHADOWS]
        for module in self._stand_ins:
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]
            name, _, child = module.__name__.rpartition(".")
            parent = sys.modules.get(name)
            if parent is not None and vars(parent).get(child) is module:
                delattr(parent, child)
        self.__init__()

    def _former(self, module: types.ModuleType, name: str) -> Any:
        _, former, _ = self._attributes.get(
            (id(module), name), (module, vars(module).get(name, _MISSING), None)
        )
        return former


def stand_in(name: str, loader: Any) -> types.ModuleType:
    """An empty module, which takes submodules, with all that imports set."""
    spec = importlib.machinery.ModuleSpec(name, loader, is_package=True)
    return importlib.util.module_from_spec(spec)
