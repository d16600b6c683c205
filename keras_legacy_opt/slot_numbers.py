"""Which variables the slots in a file of Keras 3 belong to.

Such files number the variables that have slots.  An optimizer numbers them as
it meets them, which may be in another order than in the one that saved, and may
be more or fewer: some layers were frozen at first, say, or are now.  The files
therefore have the variables' names, too.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_legacy_opt import loading

Slots = dict[str, Any]


def renumbered(
    values: Mapping[str, Any], stored: Sequence[str], names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Slots], set[str]]:
    """Stored values by the names that they have here.

    Args:
      values: by "<slot>.<number>", or by names without a dot.
      stored: names of the variables that had slots when it was saved, in order.
      names: names of the variables that have slots here, in order.

    Returns:
      The values of what is here; {variable: {slot: value}} for variables that
      are not, or not yet; the numbers of variables that had no slots.

    Raises:
      ValueError: if it cannot be told which variables are meant.
    """
    numbers = numbers_here(stored, names)
    if numbers is None:
        return dict(values), {}, set()
    here: dict[str, Any] = {}
    elsewhere: dict[str, Slots] = {}
    for name, value in values.items():
        slot, dot, number = name.rpartition(".")
        is_known = dot and number.isdecimal() and int(number) < len(stored)
        if is_known and numbers[int(number)] is None:
            elsewhere.setdefault(stored[int(number)], {})[slot] = value
        elif is_known:
            here[f"{slot}.{numbers[int(number)]}"] = value
        else:
            here[name] = value
    pairs = [
        (stored[i], names[n]) for i, n in enumerate(numbers) if n is not None
    ]
    early = {_as_here(name, pairs): slots for name, slots in elsewhere.items()}
    return here, early, set(map(str, {*range(len(names))} - {*numbers}))


def numbers_here(
    stored: Sequence[str], names: Sequence[str]
) -> list[int | None] | None:
    """The numbers that stored variables have here, by their names.

    Where the names are those of other variables, as of a model that was made
    once more, numbers have to do; but not where some are the same.

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
    theirs, ours = map(_without_common_scope, (stored, names))
    if sorted(theirs) == sorted(ours) and len(set(ours)) == len(ours):
        return [ours.index(name) for name in theirs]
    if loading.whole_model():  # Then its names are those in the file.
        return _matches(stored, names, are_of_one)
    if _uncounted(theirs) == _uncounted(ours):
        return None
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
    while all(len(p) > 1 and p[0] == paths[0][0] for p in paths):
        paths = [path[1:] for path in paths]
    return ["/".join(path) for path in paths]


def _uncounted(paths: Sequence[str]) -> list[str]:
    """Paths without the numbers that Keras appends to names it makes up."""
    return sorted(re.sub("_[0-9]+(?=/|$)", "", path) for path in paths)


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
