"""The variables that an optimizer has seen, as their owners know them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from keras_legacy_opt import hosts, private_api


def var_key(variable: Any) -> str:
    """The key of a variable's slots: that of its primary variable."""
    return private_api.variable_id(private_api.primary_variable(variable))


class KnownVariables:
    """Leads from a `tf.Variable` back to the `keras.Variable` around it.

    An optimizer works on `tf.Variable`s, but it is the `keras.Variable` that
    knows the constraint and the path.  No variable is kept alive by this.
    """

    def __init__(self) -> None:
        # {key: weak reference to the variable as the caller has it}
        self._given: dict[str, weakref.ref[Any]] = {}
        # The keys of the variables that have slots, in order of their creation.
        self.keys_with_slots: dict[str, None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> KnownVariables:
        copied = KnownVariables()
        copied._given = dict(self._given)
        copied.keys_with_slots = dict(self.keys_with_slots)
        return copied

    def unwrap(self, variable: Any) -> Any:
        """The `tf.Variable` of a variable, whose giver is remembered."""
        unwrapped = hosts.unwrap(variable)
        # A checkpoint asks for the slots of anything that it holds.
        if hasattr(unwrapped, "_unique_id"):
            key = var_key(unwrapped)
            if variable is not unwrapped or self._alive(key) is None:
                self._given[key] = weakref.ref(variable)
        return unwrapped

    def add_with_slots(self, variables: Iterable[Any]) -> None:
        """Notes that these `tf.Variable`s have slots now."""
        for variable in variables:
            self.keys_with_slots.setdefault(var_key(variable))

    def with_slots(self) -> list[Any]:
        """The variables that have slots and still exist, as they were given."""
        alive = [self._alive(key) for key in self.keys_with_slots]
        return [variable for variable in alive if variable is not None]

    def names_with_slots(self) -> list[str]:
        """The names of the variables that have slots, in order."""
        alive = [self._alive(key) for key in self.keys_with_slots]
        return ["" if v is None else self.name(hosts.unwrap(v)) for v in alive]

    def constraint(self, variable: Any) -> Callable[[Any], Any] | None:
        """The constraint of a `tf.Variable` or of its `keras.Variable`."""
        given = self._alive(var_key(variable))
        constraint = getattr(given, "constraint", None)
        return constraint or getattr(variable, "constraint", None)

    def name(self, variable: Any) -> str:
        """The name of a `tf.Variable`, or the path of its `keras.Variable`."""
        given = self._alive(var_key(variable))
        if hosts.is_keras_variable(given):
            return given.path
        return private_api.shared_name(variable)

    def _alive(self, key: str) -> Any | None:
        reference = self._given.get(key)
        return None if reference is None else reference()
