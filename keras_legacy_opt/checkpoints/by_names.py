"""What the Kerases load from an HDF5 file by order, placed by names.

The order of an optimizer's weights is that in which it met its variables.  In a
new one that is the order of the model, but where layers were unfrozen in
between, those came last.  The file has the weights' names.
"""

from __future__ import annotations

import contextlib
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_legacy_opt import hosts
from keras_legacy_opt.checkpoints import contents, match
from keras_legacy_opt.checkpoints.contents import Item
from keras_legacy_opt.checkpoints.formats import h5
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.checkpoints.targets import Targets
from keras_legacy_opt.hosts import model_parts
from keras_legacy_opt.state import saving
from keras_legacy_opt.state.variables import var_key


def note(file: Any, model: Any, optimizer: Any, weights: list[Any]) -> None:
    """Writes down which variables an optimizer's weights in a file are of.

    The names of variables may repeat.

    Args:
      file: the open file.
      model: which was written into it.
      optimizer: its optimizer.
      weights: of that, as they are in the file.
    """
    variables = {
        id(slot): key
        for each in (optimizer, *saving.held(optimizer))
        for key, slots in each._slots.items()
        for slot in slots.values()
    }
    numbers: dict[str, int] = {}
    for layer in model.layers:
        for weight in model_parts.weights_in_order(layer):
            numbers.setdefault(var_key(hosts.unwrap(weight)), len(numbers))
    h5.note_variables(
        file, [numbers.get(variables.get(id(w), ""), -1) for w in weights]
    )


def place(file: Any, model: Any, optimizer: Any, weights: list[Any]) -> None:
    """Gives an optimizer the weights that a Keras has read for it.

    Warns of what was not restored, and why.

    Args:
      file: path of the file, or the open file.
      model: the model that was made of it, with its weights.
      optimizer: its optimizer, or one that this holds; it is built.
      weights: values, in the order of the file.
    """
    with _opened(file) as source:
        try:
            items, read = h5.state_of(source), h5.read(source)
            found = _found(items, read, model, optimizer)
        except (CheckpointError, KeyError):
            items, read, found = [], None, None  # No names to compare.
    if found is not None and _shapes(found) == list(map(np.shape, weights)):
        saving.assign_all(found, weights)
        problem = _not_in_file(found, optimizer)
    elif read is not None and read.has_several:
        problem = (
            "their names do not say which optimizer's and which variable's each"
            " of them is."
        )
    elif _is_other_order(items, optimizer):
        problem = (
            "they are in another order than here, and their names do not say"
            " which is which."
        )
    else:
        problem = _set_in_order(optimizer, weights)
    if problem:
        warnings.warn(
            f"The weights of optimizer {optimizer._name!r} in {source.path}"
            " were not, or not completely, restored into the loaded model:"
            f" {problem}",
            stacklevel=5,
        )


def _found(
    items: Sequence[Item],
    file: contents.Contents,
    model: Any,
    optimizer: Any,
) -> list[Any] | None:
    """The weight of the optimizer that each item is, if all names tell.

    Of one optimizer, those that are no slots keep their order.
    """
    targets = Targets(model, optimizer)
    _, located = h5.locate(file, targets)
    match.build_for_slots(items, located, targets)
    found = [match.target(item, located, targets) for item in items]
    if not targets.has_several:
        found = _others_in_order(items, found, targets)
    is_clear = len({id(each) for each in found}) == len(found)
    return found if is_clear and not any(w is None for w in found) else None


def _others_in_order(
    items: Sequence[Item], found: Sequence[Any], targets: Targets
) -> list[Any]:
    """What was found, but what is no slot in the order that it has here."""
    slots = {
        id(slot)
        for variable in targets.weights
        for slot in targets.slots(variable).values()
    }
    others = [w for w in targets.optimizer.weights if id(w) not in slots]
    if len(others) != sum(item.kind != contents.SLOT for item in items):
        return [None]
    rest = iter(others)
    return [
        slot if item.kind == contents.SLOT else next(rest)
        for item, slot in zip(items, found, strict=True)
    ]


def _shapes(variables: Sequence[Any]) -> list[tuple[int, ...]]:
    return [tuple(variable.shape) for variable in variables]


def _not_in_file(found: Sequence[Any], optimizer: Any) -> str | None:
    """Says which slots have no value, unless there was no step yet."""
    known = {id(variable) for variable in found}
    new = [w.name for w in optimizer.weights if id(w) not in known]
    if not new or saving.fetch_all([optimizer.iterations])[0] == 0:
        return None
    return (
        f"it has none of {new}, whose variables were not trained before it was"
        " saved. They are left as they are."
    )


def _is_other_order(items: Sequence[Item], optimizer: Any) -> bool:
    """Whether the same slots are there, but sorted otherwise."""
    stored = [item.slot or _last(item.name) for item in items]
    here = [_last(weight.name) for weight in optimizer.weights]
    return stored != here and sorted(stored) == sorted(here)


def _last(name: str) -> str:
    return name.removesuffix(":0").rpartition("/")[2]


def _set_in_order(optimizer: Any, weights: list[Any]) -> str | None:
    """Sets them by order, which is all that there is; says if it cannot."""
    try:
        optimizer.set_weights(weights)
    except ValueError as error:
        return str(error)
    return None


@contextlib.contextmanager
def _opened(file: Any) -> Iterator[Any]:
    """What `h5` reads, of whatever `h5py.File` opens, or is one."""
    import h5py

    if isinstance(file, h5py.File):
        yield types.SimpleNamespace(path=file.filename, hdf5=file)
    else:
        path = getattr(file, "name", file)
        with h5py.File(file, "r") as opened:
            yield types.SimpleNamespace(path=path, hdf5=opened)
