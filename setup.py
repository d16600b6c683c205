"""Builds the native library on install, if TensorFlow and a compiler are there.

Everything else is in pyproject.toml. Without TensorFlow, without a compiler, or
with KERAS_LEGACY_OPT_NATIVE=0, the install is pure Python, and
`python -m keras_legacy_opt build` can be run at any time later.

With KERAS_LEGACY_OPT_LIBRARIES=FOLDER, none is built: those of the folder are
taken, for as many versions of TensorFlow. scripts/wheels.sh makes such wheels.
"""

import importlib
import os
import pathlib
import shutil
import sys
import types

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent
SOURCES = "tf_custom_ops"
LIBRARIES = pathlib.Path("keras_legacy_opt", "fused", "lib")


def _build_module():
    """`keras_legacy_opt.fused.build`, without importing the package."""
    for name in ("keras_legacy_opt", "keras_legacy_opt.fused"):
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT / name.replace(".", "/"))]
        sys.modules[name] = package
    return importlib.import_module("keras_legacy_opt.fused.build")


class BuildWithLibrary(build_py):
    """Adds the C++ sources, and the libraries that were built from them."""

    def run(self):
        super().run()
        target = ROOT if self.editable_mode else pathlib.Path(self.build_lib)
        if not self.editable_mode:
            self.copy_tree(
                str(ROOT / SOURCES), str(target / "keras_legacy_opt" / SOURCES)
            )
        given = os.environ.get("KERAS_LEGACY_OPT_LIBRARIES")
        if not given and os.environ.get("KERAS_LEGACY_OPT_NATIVE") != "0":
            self._build(target / LIBRARIES)
        elif not self.editable_mode:
            # What an earlier build may have left.
            shutil.rmtree(target / LIBRARIES, ignore_errors=True)
        if given:
            self.copy_tree(given, str(target / LIBRARIES))

    def _build(self, folder):
        build = _build_module()
        try:
            build.build(folder, self.announce_progress)
        except build.BuildError as error:
            self.announce_progress(
                f"keras_legacy_opt is installed without its native library:"
                f" {error}"
            )

    def announce_progress(self, message):
        print(message, file=sys.stderr, flush=True)


class WheelForAnyPython(bdist_wheel):
    """A wheel is for one platform if it has a library, and for every Python."""

    def get_tag(self):
        # When files have been built: whether a library could be is known then.
        built = pathlib.Path(self.get_finalized_command("build_py").build_lib)
        self.root_is_pure = not any((built / LIBRARIES).rglob("*.so"))
        *_, platform = super().get_tag()
        return "py3", "none", platform


setup(cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": WheelForAnyPython})
