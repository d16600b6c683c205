"""Opening a file of any kind, within limits, for the codecs to look into."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from keras_legacy_opt.checkpoints import archive, safe_hdf5
from keras_legacy_opt.checkpoints.bundle import Bundle, prefix_of
from keras_legacy_opt.checkpoints.limits import Limits

_WEIGHTS = "model.weights.h5"


class Source:
    """A TensorFlow checkpoint, an HDF5 file or an archive; see `opened`.

    Attributes:
      path: of the file or folder.
      is_hdf5: whether it is an HDF5 file.
      is_archive: whether it is an archive.
    """

    def __init__(
        self, path: str, max_size: int | None, stack: contextlib.ExitStack
    ):
        self.path = path
        self._max_size = max_size
        self._stack = stack
        is_file = os.path.isfile(path)
        self.is_hdf5 = is_file and safe_hdf5.is_hdf5(path)
        # Which may begin with anything, so that it comes second.
        self.is_archive = (
            is_file and not self.is_hdf5 and archive.is_archive(path)
        )

    @functools.cached_property
    def limits(self) -> Limits:
        """What the file may unpack to."""
        return Limits.of(self.path, self._max_size)

    @functools.cached_property
    def bundle(self) -> Bundle | None:
        """The tensors of a TensorFlow checkpoint."""
        prefix = prefix_of(self.path)
        return None if prefix is None else Bundle(prefix, self._max_size)

    @functools.cached_property
    def hdf5(self) -> Any:
        """The open HDF5 file, or that in an archive."""
        path = self.weights_file if self.is_archive else self.path
        return self._stack.enter_context(safe_hdf5.open_file(path, self.limits))

    def check(self) -> None:
        """Looks at all of an HDF5 file, or of that in an archive."""
        _ = self.hdf5

    @functools.cached_property
    def weights_file(self) -> str:
        """Path of the HDF5 file, with an end that Keras 3 wants."""
        if self.is_hdf5 and self.path.endswith(".weights.h5"):
            return self.path
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        path = os.path.join(folder, _WEIGHTS)
        if self.is_archive:
            with open(path, "wb") as file:
                archive.unpack(self.path, _WEIGHTS, file, self.limits)
        else:
            os.symlink(os.path.abspath(self.path), path)
        return path

    def json(self, member: str) -> Any:
        """What a JSON text in an archive says."""
        return archive.read_json(self.path, member, self.limits)


@contextlib.contextmanager
def opened(path: str, max_size: int | None = None) -> Iterator[Source]:
    """A file of any kind, open; what it cannot be raises when it is looked at.

    Args:
      path: of a file, or prefix or folder of a checkpoint.
      max_size: what it may unpack to, in bytes; see `Limits.of`.
    """
    with contextlib.ExitStack() as stack:
        yield Source(path, max_size, stack)
