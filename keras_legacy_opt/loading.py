"""What of a file a Keras is to load: the model's weights, or all of its state.

Legacy's `model.load_weights` of a `.weights.h5` or `.keras` file leaves the
optimizer alone, on which fine-tuning depends.  Keras 3's would restore its
state, too, and its BackupAndRestore relies on that.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_ALL, _WEIGHTS = "all", "weights"
_wanted: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "keras_legacy_opt_wanted", default=None
)


def weights_only() -> bool:
    """Whether the state of the optimizer is to be left in the file."""
    return _wanted.get() == _WEIGHTS


@contextlib.contextmanager
def of_weights() -> Iterator[None]:
    """Leaves the optimizer alone, unless `of_everything` surrounds it."""
    token = _wanted.set(_wanted.get() or _WEIGHTS)
    try:
        yield
    finally:
        _wanted.reset(token)


@contextlib.contextmanager
def of_everything() -> Iterator[None]:
    """Restores the state of the optimizer, too."""
    token = _wanted.set(_ALL)
    try:
        yield
    finally:
        _wanted.reset(token)
