"""Keeping the memory of those who read a large file value by value."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

_LARGE = 1 << 20
# In bytes. Layers may compute with what they create or load, but none of Keras'
# does so with larger values than this.
SMALL = 1 << 20


def give_back(number_of_bytes: int) -> None:
    """Gives memory that was freed back to the system.

    The C library keeps what it will not need again, and the more of it the
    longer the file.

    Args:
      number_of_bytes: about how much was freed; a little does not matter.
    """
    trim = _malloc_trim()
    if number_of_bytes >= _LARGE and trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Any | None:
    """That function of glibc; other C libraries have none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
