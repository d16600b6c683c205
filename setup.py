"""Builds the native library on install, if TensorFlow and a compiler are there.

Everything else is in pyproject.toml. Without TensorFlow, without a compiler, or
with KERAS_LEGACY_OPT_NATIVE=0, the install is pure Python, and
`python -m keras_legacy_opt build` can be run at any time later.
"""

import importlib
import os
import pathlib
import sys
import types

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent


def _build_module():
    """`keras_legacy_opt.fused.build`, without importing the package."""
    for name in ("keras_legacy_opt", "keras_legacy_opt.fused"):
        package = types.ModuleType(name)
        package.__path__ = [str(ROOT / name.replace(".", "/"))]
        sys.modules[name] = package
    return importlib.import_module("keras_legacy_opt.fused.build")


class BuildWithLibrary(build_py):
    """Adds the C++ sources, and the library that was built from them."""

    def run(self):
        super().run()
        package = ROOT / "keras_legacy_opt"
        if not self.editable_mode:
            package = pathlib.Path(self.build_lib) / "keras_legacy_opt"
            self.copy_tree(
                str(ROOT / "tf_custom_ops"), str(package / "tf_custom_ops")
            )
        if os.environ.get("KERAS_LEGACY_OPT_NATIVE") == "0":
            return
        build = _build_module()
        try:
            build.build(package / "fused" / "lib", self.announce_progress)
        except build.BuildError as error:
            self.announce_progress(
                f"keras_legacy_opt is installed without its native library:"
                f" {error}"
            )

    def announce_progress(self, message):
        print(message, file=sys.stderr, flush=True)


class MaybeBinary(Distribution):
    """A wheel with a library is for one platform."""

    def has_ext_modules(self):
        return os.environ.get("KERAS_LEGACY_OPT_NATIVE") != "0"


setup(cmdclass={"build_py": BuildWithLibrary}, distclass=MaybeBinary)
