"""What a Keras is saving or loading: of which model, and how much of a file.

Legacy's `model.load_weights` of a `.weights.h5` or `.keras` file leaves the
optimizer alone, on which fine-tuning depends.  Keras 3's would restore its
state, too, and its BackupAndRestore relies on that.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

_ALL, _WEIGHTS = "all", "weights"
# What becomes of a variable that a file has no value of.
ANEW, LEFT = "as in a new optimizer", "left as it is"
_wanted: contextvars.ContextVar[str | None] = contextvars.ContextVar(
    "keras_legacy_opt_wanted", default=None
)
_model: contextvars.ContextVar[Any] = contextvars.ContextVar(
    "keras_legacy_opt_model", default=None
)
# What is to be called when a model has its weights.
_waiting: contextvars.ContextVar[list[Callable[[], None]] | None] = (
    contextvars.ContextVar("keras_legacy_opt_waiting", default=None)
)

# {id of an optimizer's variable: what else was done than restoring it}
_told: contextvars.ContextVar[dict[int, str] | None] = contextvars.ContextVar(
    "keras_legacy_opt_told", default=None
)

# Of a model that is being made of an HDF5 file: [(optimizer, its weights)]
_in_order: contextvars.ContextVar[list[tuple[Any, list[Any]]] | None] = (
    contextvars.ContextVar("keras_legacy_opt_in_order", default=None)
)


def weights_only() -> bool:
    """Whether the state of the optimizer is to be left in the file."""
    return _wanted.get() == _WEIGHTS


def is_making_model() -> bool:
    """Whether the model that is being loaded is not known yet."""
    return is_under_way() and _model.get() is None


def is_under_way() -> bool:
    """Whether a model is being loaded, and may not have all weights yet."""
    return _waiting.get() is not None


def once_loaded(function: Callable[[], None]) -> None:
    """Calls a function when the model being loaded has its weights."""
    waiting = _waiting.get()
    assert waiting is not None
    waiting.append(function)


def tell(variables: Iterable[Any], what: str) -> None:
    """Says what became of variables that a file has no value of."""
    told = _told.get()
    if told is not None:
        told.update((id(variable), what) for variable in variables)


def wait_for_names(optimizer: Any, weights: Sequence[Any]) -> bool:
    """Keeps weights whose names in an HDF5 file are yet to be looked at.

    Returns:
      Whether such a file is being loaded.
    """
    waiting = _in_order.get()
    if waiting is None:
        return False
    # Those of a file can be read only as long as it is open.
    waiting.append((optimizer, [np.array(weight) for weight in weights]))
    return True


def model() -> Any | None:
    """The model whose weights are being saved or loaded, if it is known."""
    return _model.get()


@contextlib.contextmanager
def of_weights(into: Any) -> Iterator[None]:
    """Leaves the optimizer of a model alone, unless another surrounds it."""
    with (
        _having(_wanted, _wanted.get() or _WEIGHTS),
        _having(_model, into),
        _having(_waiting, []),
    ):
        yield
        complete(into)


@contextlib.contextmanager
def of_everything(*_: Any) -> Iterator[dict[int, str]]:
    """Restores the state of the optimizer, too.

    Yields:
      What `tell` was told of variables, by their ids.
    """
    told: dict[int, str] = {}
    with _having(_wanted, _ALL), _having(_told, told):
        yield told


@contextlib.contextmanager
def of_model(*_: Any) -> Iterator[None]:
    """Makes a model, then restores its weights and its optimizer.

    `complete` must be called before this ends.
    """
    with (
        _having(_wanted, _ALL),
        _having(_model, None),
        _having(_waiting, []),
    ):
        yield


def complete(model: Any) -> None:
    """Calls what waits for the model, which has its weights now."""
    waiting = _waiting.get() or []
    _waiting.set(None)  # Until the scope ends, nothing has to wait.
    with _having(_model, model):
        for function in waiting:
            function()


@contextlib.contextmanager
def of_hdf5(*_: Any) -> Iterator[None]:
    """Makes a model of an HDF5 file.

    `complete_hdf5` must be called before this ends.
    """
    with _having(_in_order, []):
        yield


def complete_hdf5(place: Callable[[Any, list[Any]], None]) -> None:
    """Calls a function of each optimizer whose weights wait, and of these."""
    waiting = _in_order.get() or []
    with _having(_in_order, None):
        for optimizer, weights in waiting:
            place(optimizer, weights)


@contextlib.contextmanager
def saving(model: Any) -> Iterator[None]:
    """Saves a model."""
    with _having(_model, model):
        yield


@contextlib.contextmanager
def _having(
    variable: contextvars.ContextVar[Any], value: Any
) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
