"""What a file holds, whatever its format: what codecs read and write."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

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
    "it holds the state of several optimizers. Restore each in Python, with"
    " keras_legacy_opt.checkpoints.restore, and write it with"
    " keras_legacy_opt.checkpoints.save."
)


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
    """

    kind: str
    path: tuple[str, ...]
    value: Value
    slot: str = ""
    name: str = ""
    layer: str = ""
    reason: str = ""

    @property
    def number_of_bytes(self) -> int:
        """Its size."""
        return math.prod(self.value.shape) * np.dtype(self.value.dtype).itemsize


class Around(NamedTuple):
    """A wrapper around an optimizer.

    Attributes:
      child: what object checkpoints call the optimizer inside.
      slots: the names of its own slots.
      scalars: the names of its own variables beside them.
    """

    child: str
    slots: Collection[str]
    scalars: Collection[str]


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
      around: wrappers around the optimizer, from outside to inside; no two of
        them have slots or scalars of the same name.
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
    around: Sequence[Around] = ()
    obstacle: str = ""
    codec: Any = None
    source: Any = None

    def of(self, *kinds: str) -> list[Item]:
        """The items of these kinds."""
        return [item for item in self.items if item.kind in kinds]

    def owner(self, item: Item) -> tuple[str, ...]:
        """The way from the outermost optimizer to that of an item."""
        if item.kind in (ITERATIONS, LOSS_SCALE):
            return ()
        path: tuple[str, ...] = ()
        for each in self.around:
            name, names = item.path[-1], each.scalars
            if item.kind == SLOT:
                name, names = item.slot, each.slots
            if name in names:
                break
            path = (*path, each.child)
        return path

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
