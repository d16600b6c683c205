"""Writing HDF5 files to disks that may be full.

HDF5 ends the process when it closes a file whose last values could not be
written.  So it is never told: it writes through a Python file, which remembers.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def create(path: str) -> Iterator[Any]:
    """A new, open `h5py.File`.

    Raises:
      OSError: on leaving, if not all of it could be written.
      KeyboardInterrupt: on leaving, if that came while it was written.
    """
    import h5py

    with _Remembering(path, "w+") as raw:
        try:
            with h5py.File(raw, "w") as file:
                yield file
        finally:
            if raw.error is not None:
                raise raw.error


class _Remembering(io.FileIO):
    """A file that takes everything; the first error is kept."""

    error: BaseException | None = None

    def write(self, data: Any) -> int:
        """Writes all of it, or nothing from the first error on."""
        try:
            rest = memoryview(data).cast("B")
            while rest and self.error is None:
                rest = rest[super().write(rest) :]
        except BaseException as error:
            self.error = error
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        """Sets the length, if that can be."""
        try:
            return super().truncate(size)
        except BaseException as error:
            self.error = self.error or error
            return size or 0
