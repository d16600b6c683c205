"""The variables that an optimizer has seen, as their owners know them."""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from keras_legacy_opt import hosts, private_api


def var_key(variable: Any) -> str:
    """The key of a variable's slots: that of its primary variable."""
    return private_api.variable_id(private_api.primary_variable(variable))


def numbered(name: str, used: Container[str]) -> str:
    """The name, or with a number if it is used; as TensorFlow does it."""
    if name not in used:
        return name
    names = (f"{name}_{i}" for i in itertools.count(1))
    return next(each for each in names if each not in used)


def make_own(variable: Any, path: str) -> None:
    """Makes a new variable an optimizer's own, for all Kerases.

    Args:
      variable: the variable.
      path: what Keras 3's state trees call it, wherever it was created.
    """
    hosts.track(variable)
    variable.path = path


class KnownVariables:
    """Leads from a `tf.Variable` back to the `keras.Variable` around it.

    An optimizer works on `tf.Variable`s, but it is the `keras.Variable` that
    knows the constraint and the path.  The path becomes the `tf.Variable`'s own
    name: legacy code selects variables by their names, which Keras 3 leaves to
    chance.  No variable is kept alive by this.
    """

    def __init__(self) -> None:
        # {key: weak reference to the variable as the caller has it}
        self._given: dict[str, weakref.ref[Any]] = {}
        # Another object after each change of these.
        self.given_now = object()
        # {name of a `tf.Variable`: weak reference to its `keras.Variable`}
        self._names: dict[str, weakref.ref[Any]] = {}
        # {name: keys of the variables that have it}, of those with slots
        self._of_name: dict[str, dict[str, None]] = {}
        # The keys of the variables that have slots, in order of their creation.
        self.keys_with_slots: dict[str, None] = {}
        # Whether it is the slots of a wrapper that they are created with.
        self.of_wrapper = False

    def __deepcopy__(self, memo: dict[int, Any]) -> KnownVariables:
        copied = KnownVariables()
        copied._given = dict(self._given)
        copied._names = dict(self._names)
        copied._of_name = {n: dict(keys) for n, keys in self._of_name.items()}
        copied.of_wrapper = self.of_wrapper
        copied.keys_with_slots = dict(self.keys_with_slots)
        return copied

    def unwrap(self, variable: Any) -> Any:
        """The `tf.Variable` of a variable, whose giver is remembered."""
        unwrapped = hosts.unwrap(variable)
        # A checkpoint asks for the slots of anything that it holds.
        if hasattr(unwrapped, "_unique_id"):
            key = var_key(unwrapped)
            known = self._alive(key)
            is_news = variable is not unwrapped and variable is not known
            if is_news or known is None:
                self._given[key] = weakref.ref(variable)
                self.given_now = object()
            if is_news:
                self._rename(unwrapped, variable)
        return unwrapped

    def _rename(self, variable: Any, given: Any) -> None:
        """Names a `tf.Variable` by the path of `given`, and like no other."""
        before, path = private_api.shared_name(variable), given.path
        # It may have got its name from another optimizer.
        is_fit = re.fullmatch(re.escape(path) + "(_[0-9]+)?", before)
        for name in itertools.chain(
            [before] if is_fit else [],
            [path],
            (f"{path}_{i}" for i in itertools.count(1)),
        ):
            if self._names.setdefault(name, weakref.ref(given))() is given:
                break
        if name != before:
            private_api.rename(variable, name)

    def add_with_slots(self, variables: Iterable[Any]) -> None:
        """Notes that these `tf.Variable`s have slots now."""
        for variable in variables:
            self.keys_with_slots.setdefault(var_key(variable))

    def with_slots(self) -> list[Any]:
        """The variables that have slots and still exist, as they were given."""
        alive = [self._alive(key) for key in self.keys_with_slots]
        return [variable for variable in alive if variable is not None]

    def numbered(self, numbers: Container[int]) -> list[Any]:
        """Those `tf.Variable`s that have some numbers and still exist."""
        alive = {
            i: self._alive(key)
            for i, key in enumerate(self.keys_with_slots)
            if i in numbers
        }
        return [hosts.unwrap(v) for v in alive.values() if v is not None]

    def all(self) -> list[Any]:
        """All variables that still exist, as they were given."""
        alive = [self._alive(key) for key in self._given]
        return [variable for variable in alive if variable is not None]

    def names_with_slots(self) -> list[str]:
        """The names of the variables that have slots, in order."""
        alive = [self._alive(key) for key in self.keys_with_slots]
        return ["" if v is None else self.name(hosts.unwrap(v)) for v in alive]

    def numbers(self, keys: Sequence[str | None]) -> list[int | None]:
        """The numbers of variables among those that have slots, if they do."""
        numbers = {key: i for i, key in enumerate(self.keys_with_slots)}
        return [None if key is None else numbers.get(key) for key in keys]

    def given(self, variable: Any) -> Any:
        """The variable as the caller has it, of a `tf.Variable`."""
        given = self._alive(var_key(variable))
        return variable if given is None else given

    def constraint(self, variable: Any) -> Callable[[Any], Any] | None:
        """The constraint of a `tf.Variable` or of its `keras.Variable`."""
        given = self._alive(var_key(variable))
        constraint = getattr(given, "constraint", None)
        return constraint or getattr(variable, "constraint", None)

    def is_overwritten(self, variable: Any) -> bool:
        """Whether a variable takes its gradient as its new value.

        Keras 3 marks the scales of float8 layers so.
        """
        if not hosts.is_keras_variable(variable):
            variable = self._alive(var_key(variable))
        return hosts.is_keras_variable(variable) and bool(
            getattr(variable, "overwrite_with_gradient", False)
        )

    def is_frozen(self, variable: Any) -> bool:
        """Whether a `tf.Variable` is inside a Keras 3 one not to be trained.

        A `tf.Variable` alone is for ever what it was created as.
        """
        given = self.given(variable)
        return hosts.is_keras_variable(given) and not given.trainable

    def name(self, variable: Any) -> str:
        """The name of a `tf.Variable`, or the path of its `keras.Variable`."""
        return hosts.path_of(self.given(variable))

    def unique_name(self, variable: Any) -> str:
        """The name of a `tf.Variable`, with a number if another one has it.

        Keras 3's HDF5 files have no two weights of one name.
        """
        name = self.name(variable)
        keys = self._of_name.setdefault(name, {})
        keys.setdefault(var_key(variable))
        number = list(keys).index(var_key(variable))
        return f"{name}_{number}" if number else name

    def _alive(self, key: str) -> Any | None:
        reference = self._given.get(key)
        return None if reference is None else reference()
