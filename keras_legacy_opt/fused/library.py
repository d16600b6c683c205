"""Where native libraries lie, and which of them fits this process.

Nothing here imports TensorFlow: `setup.py` uses it, too.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform

LIBRARY = "libkeras_legacy_opt.so"
MANIFEST = "manifest.json"
PACKAGED = pathlib.Path(__file__).parent / "lib"

_PACKAGE = pathlib.Path(__file__).parent.parent


def sources() -> pathlib.Path:
    """The folder of the C++ sources: in the package, or beside it.

    Raises:
      FileNotFoundError: if they are at neither place.
    """
    for parent in (_PACKAGE, _PACKAGE.parent):
        if (parent / "tf_custom_ops" / "ops").is_dir():
            return parent / "tf_custom_ops"
    raise FileNotFoundError(
        f"The C++ sources (tf_custom_ops) are neither in {_PACKAGE} nor beside"
        " it."
    )


@functools.cache
def source_hash() -> str:
    """What tells these C++ sources from all others."""
    digest = hashlib.sha256()
    root = sources()
    for path in sorted(root.glob("*/*")):
        if path.suffix in (".h", ".cc") and path.parent.name != "tests":
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def user_cache() -> pathlib.Path:
    """The folder that `python -m keras_legacy_opt build` writes to."""
    if "KERAS_LEGACY_OPT_CACHE" in os.environ:
        return pathlib.Path(os.environ["KERAS_LEGACY_OPT_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "keras_legacy_opt"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a library was built from and for."""

    tensorflow: str  # its version
    cxx11_abi: int  # of TensorFlow
    machine: str
    compiler: str
    sources: str  # their hash

    @property
    def folder(self) -> str:
        """The name of the library's folder."""
        compiler = "-".join(self.compiler.split())
        return f"tf{self.tensorflow}-{compiler}-{self.machine}-{self.sources}"

    def misfit(self, tensorflow: str, cxx11_abi: int) -> str | None:
        """Why the library cannot be used with a TensorFlow, or None."""
        if _minor(self.tensorflow) != _minor(tensorflow):
            return (
                f"it was built for TensorFlow {self.tensorflow}, and this is"
                f" {tensorflow}"
            )
        if self.cxx11_abi != cxx11_abi:
            return (
                f"it was built with _GLIBCXX_USE_CXX11_ABI={self.cxx11_abi},"
                f" and this TensorFlow with {cxx11_abi}"
            )
        if self.machine != platform.machine():
            return (
                f"it was built for {self.machine}, and this is"
                f" {platform.machine()}"
            )
        if self.sources != source_hash():
            return "it was built from other C++ sources than this version's"
        return None


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A library on disk."""

    path: pathlib.Path
    manifest: Manifest


def candidates() -> list[Candidate]:
    """All libraries: the packaged ones first, then the newest of the cache."""
    found = []
    for folder in (PACKAGED, user_cache()):
        manifests = list(folder.glob(f"*/{MANIFEST}"))
        manifests.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in manifests:
            try:
                manifest = Manifest(**json.loads(path.read_text()))
            except (OSError, TypeError, ValueError):
                continue  # Not one of this version's.
            if (path.parent / LIBRARY).is_file():
                found.append(Candidate(path.parent / LIBRARY, manifest))
    return found
