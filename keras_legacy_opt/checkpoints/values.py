"""Values in files, which are read when they are asked for."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_legacy_opt.checkpoints.report import CheckpointError


@dataclasses.dataclass(frozen=True)
class Value:
    """A value in a file, not read yet.

    Attributes:
      name: its name in the file.
      shape: tuple of integers.
      dtype: NumPy dtype.
      read: function that returns the array.
      note: how it was converted, if it was.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], np.ndarray]
    note: str = ""

    def map(
        self, function: Callable[[np.ndarray], np.ndarray], note: str
    ) -> Value:
        """The value of `function` of this one, of the same shape."""
        return dataclasses.replace(
            self, read=lambda: function(self.read()), note=note
        )

    def checked(self, path: str) -> np.ndarray:
        """The array, read from the file at `path`.

        Raises:
          CheckpointError: if that cannot be, or it is not what was announced.
        """
        with readable(path):
            array = self.read()
        if tuple(np.shape(array)) != tuple(self.shape):
            raise CheckpointError(
                f"{path} contradicts itself: {self.name!r} has shape"
                f" {np.shape(array)} where {self.shape} was announced. Nothing"
                " was changed."
            )
        return array


def constant(name: str, value: Any, note: str = "") -> Value:
    """A value that is known already."""
    array = np.asarray(value)
    return Value(name, array.shape, array.dtype, lambda: array, note)


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Turns whatever a damaged file makes a reader raise into one error."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be read: it is damaged, incomplete, or no file of"
            " the formats that keras_legacy_opt.checkpoints knows. Nothing was"
            f" changed. The reader said: {reason}"
        ) from error
