"""What of a file a Keras is to load: the model's weights, or all of its state.

Legacy's `model.load_weights` of a `.weights.h5` or `.keras` file leaves the
optimizer alone, on which fine-tuning depends.  Keras 3's would restore its
state, too, and its BackupAndRestore relies on that.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

_ALL, _MODEL, _WEIGHTS = "all", "model", "weights"
_wanted: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "keras_legacy_opt_wanted", default=None
)


def weights_only() -> bool:
    """Whether the state of the optimizer is to be left in the file."""
    return _wanted.get() == _WEIGHTS


def whole_model() -> bool:
    """Whether the model is made as the file says, with all its names."""
    return _wanted.get() == _MODEL


@contextlib.contextmanager
def of_weights() -> Iterator[None]:
    """Leaves the optimizer alone, unless another surrounds it."""
    with _wanting(_wanted.get() or _WEIGHTS):
        yield


@contextlib.contextmanager
def of_everything() -> Iterator[None]:
    """Restores the state of the optimizer, too."""
    with _wanting(_ALL):
        yield


@contextlib.contextmanager
def of_model() -> Iterator[None]:
    """Makes a model, and restores its weights and its optimizer."""
    with _wanting(_MODEL):
        yield


@contextlib.contextmanager
def _wanting(what: str) -> Iterator[None]:
    token = _wanted.set(what)
    try:
        yield
    finally:
        _wanted.reset(token)
