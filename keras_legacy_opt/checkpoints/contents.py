"""What a file holds, whatever its format: what codecs read and write."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_legacy_opt.checkpoints.values import Value

MODEL = "model"
ITERATIONS = "iterations"
HYPERPARAMETER = "hyperparameter"
SLOT = "slot"
LOSS_SCALE = "loss scale"
OTHER = "other"
# Of no variable of the model or a legacy optimizer: a table, a metric.
FOREIGN = "foreign"

# An obstacle to conversions.
SEVERAL = (
    "it holds the state of several optimizers. Restore each in Python, into the"
    " model that it trained, with keras_legacy_opt.checkpoints.restore and"
    " strict=False, and write it with keras_legacy_opt.checkpoints.save."
)

# The names that lead from the outermost optimizer to one inside it, as object
# checkpoints have them.
Way = tuple[str, ...]
# What a MultiOptimizer calls those that it holds.
_MEMBER = re.compile("optimizer_[0-9]{1,9}")


def is_member(name: str) -> bool:
    """Whether an optimizer that has one called so has several."""
    return _MEMBER.fullmatch(name) is not None


def prefix(way: Way) -> str:
    """How names of an optimizer's variables begin, in reports.

    A wrapper has the names of what is inside.
    """
    return "".join(f"{name}/" for name in way if is_member(name))


def counting(way: Way) -> Way:
    """The way to the optimizer whose iterations one shares."""
    while way and not is_member(way[-1]):
        way = way[:-1]
    return way


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """A value and what it is.

    Attributes:
      kind: one of the kinds above.
      path: where it is, or, of a slot, where its variable is; the last part of
        a scalar's path is its name.
      value: the `Value`.
      slot: name of the slot.
      name: the name that the variable had when it was written.
      layer: the name of the model's layer it belongs to, if that is known.
      reason: why nobody misses it.
      owner: the way to the optimizer whose it is.
    """

    kind: str
    path: tuple[str, ...]
    value: Value
    slot: str = ""
    name: str = ""
    layer: str = ""
    reason: str = ""
    owner: Way = ()

    @property
    def prefix(self) -> str:
        """How names begin of the optimizer whose it is, see `prefix`."""
        return prefix(self.owner)

    @property
    def scalar_name(self) -> str:
        """The name of a scalar of an optimizer, among those of several."""
        return f"{self.prefix}{self.path[-1]}"

    @property
    def number_of_bytes(self) -> int:
        """Its size."""
        return math.prod(self.value.shape) * np.dtype(self.value.dtype).itemsize


@dataclasses.dataclass
class Contents:
    """What a file holds.

    Attributes:
      path: of the file.
      format: what kind of file it is.
      items: list of `Item`.
      class_names: the optimizer's class, or all that it may be.
      is_of_another_optimizer: whether that is none of legacy's.
      config: the optimizer's configuration, if the file has it.
      has_hyperparameters: whether files of this kind have all that are
        variables.
      in_order: the optimizer's items in the order of `get_weights`, of formats
        that have one.
      mismatches: (name in the file, name here, reason) of what does not fit the
        optimizer.
      ways: to the optimizers in it: to each before those inside it.
      obstacle: why it cannot be converted.
      codec: the module that read it, see `formats`.
      source: for the codec.
    """

    path: str
    format: str
    items: list[Item]
    class_names: Sequence[str] = ()
    is_of_another_optimizer: bool = False
    config: dict[str, Any] | None = None
    has_hyperparameters: bool = True
    in_order: Sequence[Item] = ()
    mismatches: Sequence[tuple[str, str, str]] = ()
    ways: Sequence[Way] = ((),)
    obstacle: str = ""
    codec: Any = None
    source: Any = None

    def of(self, *kinds: str) -> list[Item]:
        """The items of these kinds."""
        return [item for item in self.items if item.kind in kinds]

    def inside(self, way: Way) -> list[Way]:
        """The ways to the optimizers that one holds itself."""
        return [each for each in self.ways if each and each[:-1] == way]

    @property
    def has_several(self) -> bool:
        """Whether some of the optimizers are side by side."""
        return any(is_member(name) for way in self.ways for name in way)

    def of_model(self, located: Mapping[tuple[str, ...], Any]) -> Contents:
        """The same, and what was found in a model is nothing else.

        A model may have what looks like an optimizer's.

        Args:
          located: variables by their paths.
        """

        def seen(item: Item) -> Item:
            path = tuple(item.value.name.split("/"))
            # With a reason, iterations are what another item tells.
            if path not in located or (item.kind == ITERATIONS and item.reason):
                return item
            return Item(MODEL, path, item.value, name=item.name)

        return dataclasses.replace(self, items=list(map(seen, self.items)))
