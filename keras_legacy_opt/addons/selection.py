"""Some of an optimizer's variables, as a user says which.

A selection is patterns, that is regular expressions of which one is found in
the variable's name (of a `keras.Variable`, in its path), or variables and
layers, which are known by identity, or a predicate of the variable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from keras_legacy_opt import hosts
from keras_legacy_opt.state.variables import KnownVariables, var_key

Selection = Sequence[Any] | Callable[[Any], bool] | None


def check(selection: Selection, argument: str) -> Selection:
    """The selection, whose items are listed once.

    Args:
      selection: what a user gave.
      argument: what for.

    Raises:
      TypeError: if it is none.
      ValueError: for a pattern that is no regular expression, or patterns and
        variables at a time.
    """
    if selection is None or _is_predicate(selection):
        return selection
    items = _items(selection, argument)
    kinds = {_kind(item, argument) for item in items}
    if len(kinds) > 1:
        raise ValueError(
            f"`{argument}` must be patterns or variables and layers, not both:"
            f" use a function of the variable. Received: {selection!r}."
        )
    for pattern in items if kinds == {"pattern"} else ():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"`{argument}` has a pattern that is no regular expression:"
                f" {pattern!r} ({error}). `re.escape` makes one of a name."
            ) from None
    return items


def selects(selection: Selection, known: KnownVariables, variable: Any) -> bool:
    """Whether a `tf.Variable` is one of a selection.

    Args:
      selection: as `check` returned it.
      known: the variables of the optimizer.
      variable: one of them, or what it is on one of the replicas.
    """
    if not selection:
        return False
    if not isinstance(selection, Sequence):
        return bool(selection(known.given(variable)))
    if isinstance(selection[0], str):
        name = known.name(variable)
        # As tensorflow_addons sees it, a name has the number of an output.
        names = (name, f"{name}:0")
        return any(re.search(p, text) for p in selection for text in names)
    keys = {var_key(hosts.unwrap(v)) for v in _variables(selection)}
    return var_key(variable) in keys


def in_config(selection: Selection) -> Any:
    """The selection for a configuration: of variables, patterns of their names.

    A predicate remains what it is; a Keras serializes it if it can.
    """
    if not selection or not isinstance(selection, Sequence):
        return selection
    if isinstance(selection[0], str):
        return selection
    names = [hosts.path_of(variable) for variable in _variables(selection)]
    return [f"^{re.escape(name)}$" for name in names]


def _is_layer(item: Any) -> bool:
    return hasattr(item, "weights") and callable(item)


def _is_predicate(selection: Any) -> bool:
    return callable(selection) and not _is_layer(selection)


def _items(selection: Any, argument: str) -> list[Any]:
    if isinstance(selection, str) or _is_layer(selection):
        return [selection]
    if isinstance(selection, (list, tuple, set, frozenset)):
        return list(selection)
    raise TypeError(
        f"`{argument}` must be a list of patterns, a list of variables or"
        f" layers, or a function of a variable. Received: {selection!r} of type"
        f" {type(selection).__name__}."
    )


def _kind(item: Any, argument: str) -> str:
    if isinstance(item, str):
        return "pattern"
    if _is_layer(item) or hasattr(hosts.unwrap(item), "handle"):
        return "variable"
    raise TypeError(
        f"`{argument}` must have patterns, or variables and layers. Received:"
        f" {item!r} of type {type(item).__name__}."
    )


def _variables(items: Sequence[Any]) -> list[Any]:
    """The variables among `items`, and those that its layers have by now."""
    found = []
    for item in items:
        found += item.weights if _is_layer(item) else [item]
    return found
