"""Legacy's names in the modules of Keras, for code that is not edited."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import os
import sys
import threading
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import wrapt

from keras_legacy_opt import hosts, legacy_names
from keras_legacy_opt.drop_in import contents, patches

# Its names are replaced once it is adopted: our classes become optimizers of
# those that it had before.
_HOSTS = ("keras", "tf_keras")
# Whose own modules need not be told that they hold what was replaced.
_NOT_USERS = (*_HOSTS, "tensorflow", hosts.PACKAGE)


class _Installation:
    """What is installed in this process: nothing, names, or all names."""

    def __init__(self):
        self.lock = threading.RLock()
        self.level: bool | None = None  # Whether the top level is, too.
        self._patches = patches.Patches()
        self._finder = _Finder(self)
        self._watches_imports = False
        # {number of a module: the module, and the level it is at}
        self._patched: dict[int, tuple[types.ModuleType, bool]] = {}

    def install(self, top_level: bool) -> None:
        with self.lock:
            if self.level is not None and self.level >= top_level:
                return
            if self.level is None:
                sys.meta_path.insert(0, self._finder)
            self.level = bool(top_level)
            replaced = self.patch_imported()
            _warn_of_holders(replaced)
            watch = not self._watches_imports
            self._watches_imports = True
        if watch:
            for host in _HOSTS:
                wrapt.when_imported(host)(lambda module: self.patch_imported())

    def uninstall(self) -> None:
        with self.lock:
            if self.level is not None:
                self.level = None
                sys.meta_path.remove(self._finder)
                self._patches.undo()
                self._patched.clear()

    def patch_imported(self) -> dict[int, Any]:
        """Gives names to all modules that are there; returns what they had."""
        replaced = {}
        for name, module in sys.modules.copy().items():
            if isinstance(module, types.ModuleType):
                replaced |= self.patch(name, module)
        return replaced

    def patch(self, name: str, module: types.ModuleType) -> dict[int, Any]:
        """Gives a module its names; returns {id: value} of what they meant."""
        with self.lock:
            known = self._patched.get(id(module), (None, None))
            if known == (module, self.level) or not contents.knows(name):
                return {}
            if self.level is None or not _is_ready(module):
                return {}
            self._patched[id(module)] = module, self.level
            own = self._patches.own(module)
            values = contents.of_module(name, own, self.level)
            give = self._patches.set
            if legacy_names.defines_classes(name):
                give = self._patches.shadow
            for attribute, value in values.items():
                give(module, attribute, value)
            for child in contents.children(name):
                if child not in own:
                    self._add_child(name, module, child)
            return {
                id(own[attribute]): own[attribute]
                for attribute, value in values.items()
                if own.get(attribute, value) is not value
            }

    def _add_child(
        self, name: str, module: types.ModuleType, child: str
    ) -> None:
        added = patches.stand_in(f"{name}.{child}", self._finder)
        self.fill(added)
        sys.modules[added.__name__] = added
        self._patches.set(module, child, added)

    def fill(self, added: types.ModuleType) -> None:
        """Makes a module of ours what stands in for one that Keras lacks."""
        with self.lock:
            name = added.__name__
            parent = sys.modules.get(name.rpartition(".")[0])
            of_parent = {} if parent is None else self._patches.own(parent)
            vars(added).update(
                contents.of_stand_in(name, of_parent, bool(self.level))
            )
            self._patches.add(added)
            for child in contents.children(name):
                self._add_child(name, added, child)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Sees the imports of the modules that get names."""

    def __init__(self, installation: _Installation):
        self._installation = installation

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec that has the module patched, or that of a stand-in."""
        if not contents.knows(fullname):
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Patching(spec.loader, self._installation)
                return spec
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Leaves it to Python."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Fills a stand-in."""
        self._installation.fill(module)


class _Patching(importlib.abc.Loader):
    """Loads a module as another loader does, and has it patched."""

    def __init__(self, loader: Any, installation: _Installation):
        self._loader = loader
        self._installation = installation

    def create_module(
        self, spec: importlib.machinery.ModuleSpec
    ) -> types.ModuleType | None:
        """The module that the other loader makes."""
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        """Executes it, and leaves no trace of this loader."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._installation.patch(module.__name__, module)


def _is_ready(module: types.ModuleType) -> bool:
    """Whether the Keras that a module is of, by its file, is adopted."""
    file = getattr(module, "__file__", None) or ""
    for name in _HOSTS:
        paths = getattr(sys.modules.get(name), "__path__", ())
        if any(file.startswith(os.path.join(path, "")) for path in paths):
            return name in hosts.adopted()
    return True


def _warn_of_holders(replaced: dict[int, Any]) -> None:
    """Tells which modules hold what has been replaced: they go on using it."""
    holders = []
    for name, module in sys.modules.copy().items():
        if name.partition(".")[0] in _NOT_USERS:
            continue
        if not isinstance(module, types.ModuleType):
            continue
        for attribute, value in vars(module).copy().items():
            if id(value) in replaced and replaced[id(value)] is value:
                holders.append(f"{name}.{attribute}")
    if holders:
        warnings.warn(
            f"{', '.join(sorted(holders))}: imported from Keras before"
            f" {hosts.PACKAGE} was installed there, and not replaced. Call"
            f" {hosts.PACKAGE}.install() before these imports, or start the"
            f" program by `python -m {hosts.PACKAGE} run`.",
            stacklevel=4,
        )


_installation = _Installation()


def install(top_level: bool = False) -> None:
    """Makes the names of legacy optimizers in TensorFlow and Keras real again.

    Code written for TensorFlow 2.0 to 2.15 then finds this package's classes
    where it looks for them:

    - in `tf.keras.optimizers.legacy`, in that module of Keras 3 and of tf_keras
      and of all their copies, and in the files that defined them, such as
      `keras.optimizers.optimizer_v2.adam`;
    - in `tensorflow_addons.optimizers`, where that is not installed;
    - with `top_level`, in `tf.keras.optimizers`, its `schedules`, `get`,
      `serialize` and `deserialize`, and in `tf.keras.mixed_precision`, too, and
      `compile(optimizer="adam")` means them.  Keras' own are in
      `tf.keras.optimizers.experimental`.

    Modules that are imported later are reached, too, in any order.  What has
    been imported from Keras by `from ... import` before is not: there is a
    warning that names the modules.

    Args:
      top_level: whether code written for TensorFlow 2.0 to 2.10 finds them,
        too.  Once installed, the top level stays so until `uninstall`.

    >>> import tensorflow as tf, keras_legacy_opt
    >>> with keras_legacy_opt.installed():
    ...     tf.keras.optimizers.legacy.Adam(0.1).get_config()["decay"]
    0.0
    """
    _installation.install(top_level)


def uninstall() -> None:
    """Puts everything back that `install` has changed."""
    _installation.uninstall()


@contextlib.contextmanager
def installed(top_level: bool = False) -> Iterator[None]:
    """A context in which it is installed; see `install` for the argument."""
    before = _installation.level
    _installation.install(top_level)
    try:
        yield
    finally:
        if before is None:
            uninstall()
        elif before != _installation.level:
            uninstall()
            _installation.install(before)
