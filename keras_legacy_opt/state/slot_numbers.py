"""Which variables the slots in a file of Keras 3 belong to.

Such files number the variables that have slots.  An optimizer numbers them as
it meets them, which may be in another order than in the one that saved, and may
be more or fewer: some layers were frozen at first, say, or are now.  The files
therefore have the variables' names, too.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_NUMBER = re.compile(r"_([0-9]{1,9})\Z")


@dataclasses.dataclass
class Early:
    """Slots that were stored, and whose variable is yet to come.

    Attributes:
      name: of the variable.
      key: of the variable, if that is known already.
      values: by the names of the slots.
    """

    name: str
    key: str | None
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


def renumbered(
    values: Mapping[str, Any],
    stored: Sequence[str],
    names: Sequence[str],
    keys: Sequence[str | None],
    numbers: Sequence[int | None],
) -> tuple[dict[str, Any], list[Early], set[str]]:
    """Stored values by the numbers that their variables have here.

    Args:
      values: by "<slot>.<number>", or by names without a dot.
      stored: names of the variables that had slots when it was saved, in order.
      names: names of the variables that have slots here, in order.
      keys: of the stored variables, as far as they are known.
      numbers: of the stored variables, indices into `names`.

    Returns:
      The values of what is here; those of variables that are not, or not yet;
      the numbers of variables that had no slots.
    """
    here: dict[str, Any] = {}
    early: dict[int, Early] = {}
    pairs = [
        (stored[i], names[n]) for i, n in enumerate(numbers) if n is not None
    ]
    for name, value in values.items():
        slot, dot, text = name.rpartition(".")
        number = int(text) if dot and re.fullmatch("[0-9]{1,9}", text) else -1
        if not 0 <= number < len(stored):
            here[name] = value
        elif numbers[number] is not None:
            here[f"{slot}.{numbers[number]}"] = value
        else:
            path = stored[number]
            if keys[number] is None:
                path = _as_here(path, pairs)
            early.setdefault(number, Early(path, keys[number]))
            early[number].values[slot] = value
    slotless = set(map(str, {*range(len(names))} - {*numbers}))
    return here, list(early.values()), slotless


def at_paths(stored: Any, weights: Mapping[str, Any], count: int) -> Any:
    """The weights of a model that `count` variables are, by their paths.

    Args:
      stored: what `encoded` made of their paths.
      weights: all weights of the model, by path.
      count: how many variables there should be.

    Returns:
      `None` if they are paths in another model.
    """
    try:
        paths = json.loads(bytes(stored))
        found = [weights[path] for path in paths]
    except (KeyError, TypeError, ValueError):
        return None
    return found if len(found) == count else None


def encoded(value: str) -> np.ndarray:
    """Text, as an array for a file."""
    return np.frombuffer(value.encode(), np.uint8)


def numbers_here(
    stored: Sequence[str], names: Sequence[str]
) -> list[int | None] | None:
    """The numbers that stored variables have here, by their names.

    They may be those of a model that was made once more, whose layers Keras
    counts on.

    Args:
      stored: names of the variables that had slots, in order.
      names: names of the variables here, in order.

    Returns:
      For each stored name, an index into `names`, or `None` if it is not
      there; `None` if the numbers are the stored ones.

    Raises:
      ValueError: if some names are the same and others are not, and none says
        why.
    """
    if list(stored) == list(names):
        return list(range(len(stored)))
    theirs, ours = map(_without_common_scope, (stored, names))
    for pair in ((theirs, ours), (_ranked(theirs), _ranked(ours))):
        if (found := _bijection(*pair)) is not None:
            return found
    attempts = [_matches(stored, names, are_of_one)]
    if len(theirs) < len(ours):  # The scope of many is that of the model.
        attempts.append(_matches(stored, ours, _ends_with))
    else:
        attempts.append(_matches(theirs, names, lambda t, n: _ends_with(n, t)))
    counts = [len(found) - found.count(None) for found in attempts]
    for found, count in zip(attempts, counts, strict=True):
        if count and count in (len(stored), len(names)):
            return found
    if any(counts) and len(stored) == len(names):
        raise ValueError(
            "The saved state has slots of other variables than those trained"
            " here, and it cannot be told which are the same. Saved:"
            f" {list(stored)}. Here: {list(names)}. Freeze the same layers as"
            " when it was saved, or load the whole model."
        )
    return None


def _bijection(
    stored: Sequence[str], names: Sequence[str]
) -> list[int | None] | None:
    """Where each name is, if all are there, and just once."""
    if sorted(stored) != sorted(names) or len(set(names)) < len(names):
        return None
    return [names.index(name) for name in stored]


def are_of_one(path: str, other: str) -> bool:
    """Whether two paths differ at most in the model's name before them.

    Whether that is part of a path depends on when the model was built.
    """
    return _ends_with(path, other) or _ends_with(other, path)


def _ends_with(path: str, end: str) -> bool:
    return f"/{path}".endswith(f"/{end}")


def _matches(
    stored: Sequence[str],
    names: Sequence[str],
    are_same: Callable[[str, str], bool],
) -> list[int | None]:
    """For each stored name the index of the one name that is the same.

    There is none where two are.
    """
    found = [
        [i for i, name in enumerate(names) if are_same(each, name)]
        for each in stored
    ]
    counts = collections.Counter(i for numbers in found for i in numbers)
    return [
        numbers[0] if len(numbers) == 1 and counts[numbers[0]] == 1 else None
        for numbers in found
    ]


def _without_common_scope(names: Sequence[str]) -> list[str]:
    """Names without the scopes that all share, such as that of the model."""
    paths = [name.split("/") for name in names]
    while paths and all(len(p) > 1 and p[0] == paths[0][0] for p in paths):
        paths = [path[1:] for path in paths]
    return ["/".join(path) for path in paths]


def _ranked(paths: Sequence[str]) -> list[str]:
    """Paths with the ranks of the numbers that Keras appends to names.

    It counts the layers of a process: `dense_4` and `dense_5` of one may be
    `dense` and `dense_1` of another.
    """
    numbers: dict[str, set[int]] = {}
    split = [[_counted(part) for part in path.split("/")] for path in paths]
    for parts in split:
        for name, number in parts:
            numbers.setdefault(name, set()).add(number)
    ranks = {name: sorted(found) for name, found in numbers.items()}
    return [
        "/".join(f"{name}_{ranks[name].index(n)}" for name, n in parts)
        for parts in split
    ]


def _counted(name: str) -> tuple[str, int]:
    """A name without the number that Keras has appended; and that, or 0."""
    number = _NUMBER.search(name)
    if number is None:
        return name, 0
    return name[: number.start()], int(number[1])


def _as_here(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A stored name in the scope of here, given pairs of names of both."""
    for stored, here in pairs:
        end = 0
        ours, theirs = here.split("/"), stored.split("/")
        while end < min(len(ours), len(theirs)) and (
            ours[-1 - end] == theirs[-1 - end]
        ):
            end += 1
        scope = "/".join(theirs[: len(theirs) - end])
        if scope and name.startswith(f"{scope}/"):
            name = name.removeprefix(f"{scope}/")
        elif scope:
            continue
        return "/".join([*ours[: len(ours) - end], name])
    return name
