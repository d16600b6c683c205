"""How much a file may unpack to: a small one can announce any amount.

Keras never compresses what it writes, but people do; values that nobody has set
yet take no space in HDF5, and a checkpoint may name the same bytes many times.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from typing import Any

from keras_legacy_opt.checkpoints.report import CheckpointError

# What the values of a file may take: this, and so many times its size.
_FREE = 64 << 20
_TIMES = 16
# What a text may take, such as an architecture; parsed, it takes more.
_TEXT = 16 << 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a file may unpack to, in bytes.

    Attributes:
      path: the file.
      values: for all values together.
      text: for a single text.
    """

    path: str
    values: int
    text: int

    @classmethod
    def of(
        cls, path: str, max_size: int | None, parts: Iterable[str] = ()
    ) -> Limits:
        """The limits of a file.

        Args:
          path: the file.
          max_size: the limit of all values and of each text, in bytes; if
            `None`, it depends on the file's size.
          parts: the files that it consists of, if not of `path`.
        """
        if max_size is not None:
            return cls(path, max_size, max_size)
        size = sum(map(os.path.getsize, parts or [path]))
        return cls(path, _FREE + _TIMES * size, _TEXT)

    def check_values(self, size: int) -> None:
        """Refuses values of so many bytes.

        Raises:
          CheckpointError: if these are too many.
        """
        self._check(size, self.values, "its values")

    def check_text(self, size: int, what: str) -> None:
        """Refuses a text of so many bytes.

        Raises:
          CheckpointError: if these are too many.
        """
        self._check(size, self.text, what)

    def json(self, text: str | bytes, what: str) -> Any:
        """What a JSON text says, unless the text is too long."""
        self.check_text(len(text), what)
        return json.loads(text)

    def _check(self, size: int, limit: int, what: str) -> None:
        if size > limit:
            raise CheckpointError(
                f"{self.path}: {what} would take {_readable(size)}, more than"
                f" the {_readable(limit)} that such a file may unpack to. If"
                " you trust it, allow more: pass `max_size`, or on the command"
                " line --max-size."
            )


def _readable(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 10**15 else f"{size:.1e} bytes"
