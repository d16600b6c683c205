"""Where a file of Keras 3 has the optimizer, and those inside it.

Keras calls groups by attributes, and what is in lists by classes and numbers.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

from keras_legacy_opt.checkpoints import contents, optimizers
from keras_legacy_opt.state import saving

_VARS = "vars"
# The attributes of a MultiOptimizer that a Keras finds the others in: a list of
# dictionaries, or of optimizers.
_DICTIONARIES, _LIST = "optimizer_specs", "optimizers"
# As many as may be around an optimizer; groups can be in themselves.
_DEEPEST_SCALE, _DEEPEST, _MOST = 3, 12, 1000

UNKNOWN_ORDER = (
    "it does not say in which order it has the optimizers side by side. Convert"
    " the .keras file of the whole model, or load it in Python, and write that"
    " with keras_legacy_opt.checkpoints.save."
)


@dataclasses.dataclass
class Levels:
    """The groups with the variables of optimizers, from outside to inside.

    Attributes:
      ways: {path of the group: way to the optimizer}.
      obstacle: why these are not known, if they are not.
    """

    ways: dict[tuple[str, ...], contents.Way] = dataclasses.field(
        default_factory=dict
    )
    obstacle: str = ""


def of_file(file: Any, config: dict[str, Any] | None) -> Levels:
    """The levels of an open file.

    Args:
      file: HDF5 file.
      config: the class and configuration of the optimizer, if it is known.
    """
    path: tuple[str, ...] = ("optimizer",)
    for _ in range(_DEEPEST_SCALE):  # The inner one's, of a loss scale.
        if "/".join((*path, "inner_optimizer")) in file:
            path = (*path, "inner_optimizer")
    levels = Levels({(*path, _VARS): ()})
    queue: list[Any] = [(path, (), config)]
    for group, way, told in queue:  # It grows.
        inside = list(_inside(file, group, told, levels))
        if len(way) >= _DEEPEST or len(queue) + len(inside) > _MOST:
            break
        for name, below, config_below in inside:
            levels.ways[(*below, _VARS)] = (*way, name)
            queue.append((below, (*way, name), config_below))
    return levels


def _inside(
    file: Any,
    group: tuple[str, ...],
    config: dict[str, Any] | None,
    levels: Levels,
) -> Iterator[tuple[str, tuple[str, ...], dict[str, Any] | None]]:
    """(name, group, configuration) of each that an optimizer holds itself."""
    told = {} if config is None else optimizers.inside(config)
    wrapped = (*group, "_optimizer")
    if _has_variables(file, wrapped):
        names = list(told)
        if not names:
            slots = _slots(file.get("/".join((*group, _VARS)), {}))
            names = list(optimizers.wrappers_with(slots).values())
        if not names:
            levels.obstacle = contents.SEVERAL
        name = (names or ["optimizer"])[0]
        yield name, wrapped, told.get(name)
        return
    classes = [optimizers.class_name(each) for each in told.values()]
    about = file.get("/".join((*group, _VARS, saving.CLASSES)))
    if not classes and about is not None:
        classes = bytes(about[()]).decode().split("\n")
    for i, below in enumerate(_side_by_side(file, group, classes, levels)):
        name = f"optimizer_{i}"
        yield name, below, told.get(name)


def _side_by_side(
    file: Any,
    group: tuple[str, ...],
    classes: Sequence[str],
    levels: Levels,
) -> list[tuple[str, ...]]:
    """The groups of those that a MultiOptimizer holds, in their order."""
    containers = (*group, _DICTIONARIES)
    found = [
        (*containers, container, name)
        for container in sorted(_groups(file, containers), key=_number)
        for name in _groups(file, (*containers, container))
    ]
    if found:
        return found
    names = _groups(file, (*group, _LIST))
    counts: collections.Counter[str] = collections.Counter()
    wanted = []
    for name in map(_snake_case, classes):
        wanted.append(f"{name}_{counts[name]}" if counts[name] else name)
        counts[name] += 1
    if {*wanted} == {*names}:
        return [(*group, _LIST, name) for name in wanted]
    if len({name.removesuffix(f"_{_number(name)}") for name in names}) > 1:
        levels.obstacle = UNKNOWN_ORDER
    return [(*group, _LIST, name) for name in sorted(names, key=_number)]


def _groups(file: Any, path: Sequence[str]) -> list[str]:
    group = file.get("/".join(path))
    return [] if group is None or hasattr(group, "shape") else list(group)


def _has_variables(file: Any, path: Sequence[str]) -> bool:
    return "/".join((*path, _VARS)) in file


def _slots(group: Any) -> set[str]:
    return {name.rpartition(".")[0] for name in group} - {""}


def _number(name: str) -> int:
    """The number that Keras has appended to a name, or 0."""
    number = re.search(r"_([0-9]{1,9})\Z", name)
    return int(number[1]) if number else 0


def _snake_case(name: str) -> str:
    """How Keras calls an object of a class in a list."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
