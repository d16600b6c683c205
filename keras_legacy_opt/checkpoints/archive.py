"""The members of `.keras` archives, unpacked within limits."""

from __future__ import annotations

import zipfile
from typing import IO, Any

from keras_legacy_opt.checkpoints.limits import Limits

is_archive = zipfile.is_zipfile

_CHUNK = 1 << 20


def read_json(path: str, member: str, limits: Limits) -> Any:
    """What a JSON text in the archive at `path` says."""
    with zipfile.ZipFile(path) as archive, archive.open(member) as packed:
        limits.check_text(archive.getinfo(member).file_size, member)
        # The announced size may be a lie.
        return limits.json(packed.read(limits.text + 1), member)


def unpack(path: str, member: str, to: IO[bytes], limits: Limits) -> None:
    """Copies a member of the archive at `path` into an open file."""
    with zipfile.ZipFile(path) as archive, archive.open(member) as packed:
        limits.check_values(archive.getinfo(member).file_size)
        size = 0
        while chunk := packed.read(_CHUNK):
            size += len(chunk)
            limits.check_values(size)
            to.write(chunk)
    to.flush()
