"""Where native libraries lie, and which of them fits this process.

Nothing here imports TensorFlow: `setup.py` uses it, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import re

from keras_legacy_opt.fused import trust

LIBRARY = "libkeras_legacy_opt.so"
MANIFEST = "manifest.json"
PACKAGED = pathlib.Path(__file__).parent / "lib"

_PACKAGE = pathlib.Path(__file__).parent.parent
_LONGEST_MANIFEST = 2**16

# Variables of the environment that tell where the cache is, and the cache's
# path below their value.
_PLACES = {
    "KERAS_LEGACY_OPT_CACHE": "",
    "XDG_CACHE_HOME": "keras_legacy_opt",
    "HOME": ".cache/keras_legacy_opt",
}


class Unusable(Exception):
    """A library cannot be used; the message says why."""


class ForAnotherTensorFlow(Unusable):
    """A library was built for another TensorFlow, `version`."""

    def __init__(self, version: str, tensorflow: str):
        super().__init__(
            f"it was built for TensorFlow {version}, and this is {tensorflow}"
        )
        self.version = version


def sources() -> pathlib.Path:
    """The folder of the C++ sources: in the package, or beside it.

    Raises:
      FileNotFoundError: if they are at neither place.
    """
    for parent in (_PACKAGE, _PACKAGE.parent):
        if (parent / "tf_custom_ops" / "ops").is_dir():
            return parent / "tf_custom_ops"
    raise FileNotFoundError(
        f"the C++ sources (tf_custom_ops) are neither in {_PACKAGE} nor beside"
        " it"
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


def user_cache() -> pathlib.Path | None:
    """The folder that `python -m keras_legacy_opt build` writes to.

    It never depends on the current directory, where others may have put a
    library: variables that hold no absolute path are ignored.  None for a user
    without a home.
    """
    for variable, below in _PLACES.items():
        place = os.environ.get(variable, "")
        if os.path.isabs(place):
            return pathlib.Path(place, below)
    home = _home()
    return None if home is None else pathlib.Path(home, _PLACES["HOME"])


def ignored_variables() -> dict[str, str]:
    """The variables that `user_cache` ignores, with their values."""
    values = {name: os.environ.get(name) for name in _PLACES}
    return {n: v for n, v in values.items() if v and not os.path.isabs(v)}


def _home() -> str | None:
    """The home that the system knows for the user of this process."""
    try:
        import pwd

        home = pwd.getpwuid(os.geteuid()).pw_dir
    except (ImportError, KeyError, OSError):
        return None
    return home if os.path.isabs(home) else None


@dataclasses.dataclass(frozen=True)
class Build:
    """What a library was built from and for."""

    tensorflow: str  # its version
    cxx11_abi: int  # of TensorFlow
    machine: str
    compiler: str
    sources: str  # their hash
    sanitized: bool  # by AddressSanitizer
    gpu: bool  # with what runs kernels of GPUs

    @property
    def folder(self) -> str:
        """The name of the library's folder."""
        compiler = "-".join(self.compiler.split())
        name = f"tf{self.tensorflow}-{compiler}-{self.machine}-{self.sources}"
        name += "-sanitized" * self.sanitized
        return name + "-without_gpu" * (not self.gpu)

    def check_fits(self, tensorflow: str, cxx11_abi: int) -> None:
        """Checks that this process can use it, with this TensorFlow.

        Raises:
          Unusable: if it cannot.
        """
        if _binary_interface(self.tensorflow) != _binary_interface(tensorflow):
            raise ForAnotherTensorFlow(self.tensorflow, tensorflow)
        if self.cxx11_abi != cxx11_abi:
            raise Unusable(
                f"it was built with _GLIBCXX_USE_CXX11_ABI={self.cxx11_abi},"
                f" and this TensorFlow with {cxx11_abi}"
            )
        if self.machine != platform.machine():
            raise Unusable(
                f"it was built for {self.machine}, and this is"
                f" {platform.machine()}"
            )
        if self.sources != source_hash():
            raise Unusable(
                "it was built from other C++ sources than this version's"
            )
        if self.sanitized and not _process_is_sanitized():
            raise Unusable("this process has not preloaded AddressSanitizer")
        if not self.sanitized and _process_is_sanitized():
            raise Unusable("it was built without AddressSanitizer")


def _binary_interface(version: str) -> str:
    """What TensorFlows must have in common to share a library.

    Releases of one minor are compatible, development versions with nothing.
    """
    release = re.fullmatch(r"(\d+\.\d+)\.\d+", version)
    return release[1] if release else version


def _process_is_sanitized() -> bool:
    return hasattr(ctypes.CDLL(None), "__asan_init")


@dataclasses.dataclass(frozen=True)
class Manifest(Build):
    """What stands beside a library."""

    size: int  # of the library's file
    sha256: str

    @classmethod
    def of(cls, build: Build, folder: pathlib.Path) -> Manifest:
        """The manifest of the library that a build has put into `folder`."""
        names = [field.name for field in dataclasses.fields(Build)]
        content = content_of(folder / LIBRARY)
        return cls(
            **{name: getattr(build, name) for name in names},
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )

    @classmethod
    def read(cls, folder: pathlib.Path) -> Manifest:
        """The manifest in `folder`.

        Raises:
          Unusable: if there is none, or it is not one of this version.
        """
        try:
            values = json.loads(
                content_of(folder / MANIFEST, _LONGEST_MANIFEST)
            )
        except OSError as error:
            raise Unusable(f"its manifest cannot be read: {error}") from None
        except (ValueError, RecursionError):
            raise Unusable("its manifest is damaged") from None
        types = {field.name: field.type for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or types != {
            name: type(value).__name__ for name, value in values.items()
        }:
            raise Unusable(
                "its manifest is not one of this version of keras_legacy_opt"
            )
        return cls(**values)

    def write(self, folder: pathlib.Path) -> None:
        """Writes the manifest into `folder`."""
        text = json.dumps(dataclasses.asdict(self), indent=2)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def content_of(path: pathlib.Path, limit: int = -1) -> bytes:
    """What is in a file, or the first `limit` bytes of it.

    Raises:
      OSError: if it is no file, or cannot be read.
    """
    if not path.is_file():  # Opening a pipe would wait for a writer.
        raise FileNotFoundError(f"{path} is no file")
    with open(path, "rb") as file:
        return file.read(limit)


def folders() -> list[pathlib.Path]:
    """The folders of all libraries: packaged ones, then the newest cached."""
    found = []
    for parent in filter(None, (PACKAGED, user_cache())):
        written = {}
        try:
            for folder in parent.iterdir():
                with contextlib.suppress(OSError):  # none, or just deleted
                    written[folder] = (folder / MANIFEST).lstat().st_mtime
        except OSError:
            pass  # There is no such folder, or it is not for us.
        found += sorted(written, key=written.__getitem__, reverse=True)
    return found


def check(folder: pathlib.Path, tensorflow: str, cxx11_abi: int) -> None:
    """Checks that the library in a folder is safe to load and will work.

    Raises:
      Unusable: if it is not.
    """
    try:
        check_trust(folder)
        manifest = Manifest.read(folder)
        manifest.check_fits(tensorflow, cxx11_abi)
        if manifest != Manifest.of(manifest, folder):
            raise Unusable("its size or SHA-256 is not that of its manifest")
    except (OSError, trust.Untrusted) as error:
        raise Unusable(str(error)) from None


def check_trust(folder: pathlib.Path) -> None:
    """Checks that nobody else could have written the library in a folder.

    Raises:
      trust.Untrusted: if somebody else could.
      OSError: if it is not there, or cannot be looked at.
    """
    for name in (MANIFEST, LIBRARY):
        if PACKAGED in folder.parents:
            trust.check_as_code(folder / name, PACKAGED.parent)
        else:
            trust.check(folder / name, folders=2)  # its own, and the cache
