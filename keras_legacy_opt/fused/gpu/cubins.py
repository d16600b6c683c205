"""The user's cache of compiled kernels: files that only the user may write.

Whatever is wrong with it, kernels are compiled: a cache costs no step.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import tempfile

from keras_legacy_opt.fused import library, trust

_FOLDER = "kernels"
_MODE = 0o644
_FORMAT = b"keras_legacy_opt 1\n"
_LONGEST = 2**26  # bytes; a hundred times what the largest unit has


def path_of(unit: str, target: str, compiler: str, source: str) -> pathlib.Path:
    """Where the code of a unit is, or would be.

    Args:
      unit: its name.
      target: what it is compiled for.
      compiler: which one, with its version and options.
      source: its text, which takes the place of our version.

    Raises:
      FileNotFoundError: if this user has no cache.
    """
    cache = library.user_cache()
    if cache is None:
        raise FileNotFoundError("there is no home folder for them")
    key = hashlib.sha256()
    for part in (compiler, target, source):
        key.update(hashlib.sha256(part.encode()).digest())
    return cache / _FOLDER / f"{unit}-{target}-{key.hexdigest()[:32]}"


def read(path: pathlib.Path) -> bytes | None:
    """The code in a file; None if there is none, or it is damaged.

    Raises:
      trust.Untrusted: if somebody else could have written it.
      OSError: if it cannot be read.
    """
    try:
        trust.check(path, folders=2)  # its own, and the cache
        content = library.content_of(path, _LONGEST)
    except FileNotFoundError:
        return None
    code = content[len(_sealed(b"")) :]
    return code if code and content == _sealed(code) else None


def keep(path: pathlib.Path, code: bytes) -> None:
    """Writes a file that is complete, whoever reads or writes it meanwhile.

    Raises:
      trust.Untrusted: if it would not be read from there.
      OSError: if it cannot be written.
    """
    trust.make_folders(path.parent)
    trust.check(path.parent, folders=1)
    descriptor, name = tempfile.mkstemp(prefix="new-", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, _MODE)
            file.write(_sealed(code))
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _sealed(code: bytes) -> bytes:
    """The content of a file: it tells whether it is complete."""
    return _FORMAT + hashlib.sha256(code).digest() + code
