"""The variables that may get a value from a file."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, private_api
from keras_legacy_opt.checkpoints import contents, optimizers
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.state import saving
from keras_legacy_opt.state.variables import KnownVariables, var_key


class Targets:
    """The variables of a model and of an optimizer that may get a value.

    Args:
      model: a model of Keras 3 or of tf_keras, a `tf.Module`, a variable, or a
        dictionary or list of these.
      optimizer: an optimizer of this package, or `None`.
    """

    def __init__(self, model: Any, optimizer: Optimizer | None):
        self.model = model
        self._optimizer = optimizer
        self.given = list(weights_of(model))
        self.weights = [hosts.unwrap(v) for v in self.given]
        self._names: dict[int, str] = {}
        self._owners: dict[int, str] = {}
        for variable in self.given:
            self.name(variable)
        if optimizer is not None:
            optimizer.build(list(trainable_of(model)))
            self._name_optimizer()

    @property
    def has_optimizer(self) -> bool:
        """Whether an optimizer was given."""
        return self._optimizer is not None

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; ask `has_optimizer` first."""
        if self._optimizer is None:
            raise ValueError("No optimizer was given.")
        return self._optimizer

    def build_for(self, variables: Iterable[Any]) -> None:
        """Builds the optimizer for variables that are not trained now, too.

        Some may have been frozen after they were trained.
        """
        given = {id(hosts.unwrap(v)): v for v in self.given}
        new = {id(v): v for v in variables if not self.slots(v)}
        for key in new:
            # Those that are frozen may be under none of several optimizers.
            with contextlib.suppress(ValueError):
                self.optimizer.build([given[key]])
        if new:
            self._name_optimizer()

    def _name_optimizer(self) -> None:
        for name, variable in self.optimizer_children.items():
            self._names[id(variable)] = f"optimizer/{name}"
        for name, variable in self.loss_scale.items():
            self._names[id(variable)] = f"optimizer/loss_scale/{name}"
        for variable in self.weights:
            for slot_name, slot in self.slots(variable).items():
                self._names[id(slot)] = f"{self.name(variable)}/{slot_name}"
        self._owners = {
            id(slot): prefix
            for prefix, optimizer in self.optimizers
            for slots in optimizer._slots.values()
            for slot in slots.values()
        }

    @property
    def optimizer_children(self) -> dict[str, Any]:
        """The optimizer's iterations, hyperparameters and other scalars.

        Names of those inside one of several begin with what that is called.
        """
        return {
            f"{prefix}{name}": child
            for prefix, optimizer in reversed(self.optimizers)
            for name, child in optimizer._trackable_children().items()
            if isinstance(child, tf.Variable)
        }

    @property
    def loss_scale(self) -> dict[str, Any]:
        """The variables of a LossScaleOptimizer around the optimizer."""
        if not self.has_optimizer:
            return {}
        scale = self.optimizer._trackable_children().get("loss_scale")
        return dict(scale._trackable_children()) if scale else {}

    def slots(self, variable: Any) -> dict[str, Any]:
        """{slot name: slot} of a variable of the model."""
        if not self.has_optimizer:
            return {}
        key = var_key(hosts.unwrap(variable))
        found: dict[str, Any] = {}
        for optimizer in (self.optimizer, *saving.held(self.optimizer)):
            for name, slot in optimizer._slots.get(key, {}).items():
                found.setdefault(name, slot)
        return found

    def copies(self) -> dict[int, Any]:
        """{id of a slot that begins as its variable: the variable}."""
        if not self.has_optimizer:
            return {}
        return {
            id(slot): variable
            for each in (self.optimizer, *saving.held(self.optimizer))
            for variable in self.weights
            for name, slot in each._slots.get(var_key(variable), {}).items()
            if name in getattr(each, "_COPIES", ())
        }

    def share_of(self, variable: Any) -> str | None:
        """How names begin of the one of several that updates a variable.

        `None` if none of them does, or there are no several.
        """
        if variable is None or not self.has_several:
            return None
        prefixes = {id(each): prefix for prefix, each in self.optimizers}
        optimizer = self.optimizer
        try:
            while shares := optimizer._shares([variable]):
                (optimizer,) = (each for each, share in shares if share)
        except ValueError:  # It is under none.
            return None
        return prefixes.get(id(optimizer))

    def owner_of(self, slot: Any) -> str:
        """How names of the optimizer begin whose slot it is."""
        return self._owners.get(id(slot), "")

    @property
    def optimizers(self) -> list[tuple[str, Any]]:
        """(how its names begin, optimizer), also inside if names are clear."""
        if not self.has_optimizer:
            return []
        prefixes = _prefixes(self.optimizer)
        everyone: list[Any] = [self.optimizer, *saving.held(self.optimizer)]
        found = [(prefixes.get(id(each), ""), each) for each in everyone]
        hypers = [(p, name) for p, each in found for name in each._hyper]
        slots = [
            (p, name) for p, each in found for name in each.get_slot_names()
        ]
        are_clear = all(len({*each}) == len(each) for each in (hypers, slots))
        return found if are_clear else found[:1]

    @property
    def are_clear(self) -> bool:
        """Whether names tell apart the optimizer and all inside it."""
        return len(self.optimizers) == 1 + len(saving.held(self.optimizer))

    @property
    def innermost(self) -> Any:
        """The optimizer inside all wrappers; one of several is none."""
        several = self.has_several
        return self.optimizer if several else self.optimizers[-1][1]

    @property
    def hyperparameters(self) -> set[str]:
        """The names of all hyperparameters, variables or not."""
        return {
            f"{p}{name}" for p, each in self.optimizers for name in each._hyper
        }

    @property
    def named(self) -> optimizers.Named:
        """The class of the optimizer, and those inside it."""
        return _named(self.optimizer)

    @property
    def has_several(self) -> bool:
        """Whether some of the optimizers are side by side."""
        return any(prefix for prefix, _ in self.optimizers)

    def name(self, variable: Any) -> str:
        """How reports call a variable."""
        unwrapped = hosts.unwrap(variable)
        if id(unwrapped) not in self._names:
            name = getattr(variable, "path", None)
            name = name or private_api.shared_name(unwrapped)
            self._names[id(unwrapped)] = name
        return self._names[id(unwrapped)]

    def all(self) -> list[Any]:
        """Every `tf.Variable` that a complete file has a value for."""
        result = [*self.weights, *self.optimizer_children.values()]
        for variable in self.weights:
            result.extend(self.slots(variable).values())
        return result


def weights_of(structure: Any) -> Iterator[Any]:
    """The weights of a model, or the variables of a structure.

    Raises:
      CheckpointError: if a model is not built.
      TypeError: if something is neither a model nor a variable.
    """
    for part in _parts(structure):
        # Of a model that is not built, tf_keras refuses even to look.
        if _is_variable(part):
            yield part
        elif hasattr(type(part), "weights"):
            yield from _weights_of_built(part)
        elif isinstance(part, tf.Module):
            yield from part.variables
        else:
            raise TypeError(
                "`model` must be a built model of Keras 3 or tf_keras, a"
                " tf.Module, a variable, or a dictionary or list of these."
                f" Received: {part!r} of type {type(part).__name__}."
            )


def trainable_of(structure: Any) -> Iterator[Any]:
    """The variables of a model or structure that an optimizer trains."""
    for part in _parts(structure):
        if hasattr(part, "trainable_variables"):
            yield from part.trainable_variables
        elif getattr(part, "trainable", True):
            yield part


def _is_variable(part: Any) -> bool:
    return hosts.is_keras_variable(part) or isinstance(
        part, (tf.Variable, private_api.ShardedVariable)
    )


def _parts(structure: Any) -> Iterator[Any]:
    """The models and variables in a structure."""
    if isinstance(structure, Mapping):
        structure = list(structure.values())
    if isinstance(structure, (list, tuple)):
        for part in structure:
            yield from _parts(part)
    elif structure is not None:
        yield structure


def _weights_of_built(model: Any) -> list[Any]:
    try:
        weights = list(model.weights)
    except ValueError:  # So says tf_keras.
        weights = []
    if not weights and not getattr(model, "built", True):
        raise CheckpointError(
            f"{type(model).__name__} {getattr(model, 'name', '')!r} has no"
            " weights yet: build the model first, by calling it on a batch of"
            " inputs or by `model.build(input_shape)`. Nothing was changed."
        )
    return weights


def _named(optimizer: Optimizer) -> optimizers.Named:
    inside = [
        _named(child)
        for child in optimizer._trackable_children().values()
        if isinstance(child, Optimizer)
    ]
    return optimizers.Named(type(optimizer).__name__, inside)


def _prefixes(optimizer: Optimizer, way: contents.Way = ()) -> dict[int, str]:
    """{id: how its names begin} of an optimizer and those inside it."""
    found = {id(optimizer): contents.prefix(way)}
    for name, child in optimizer._trackable_children().items():
        if isinstance(child, Optimizer) and id(child) not in found:
            found = _prefixes(child, (*way, name)) | found
    return found


class Unchanged:
    """Keeps what an optimizer was, to make it that again.

    Used around a restoration: building the optimizer creates its variables,
    which a failure must undo.
    """

    def __init__(self, optimizer: Optimizer | None):
        everyone: list[Any] = []
        if optimizer is not None:
            everyone = [optimizer, *saving.held(optimizer)]
        self._states = [
            (each, {n: _copy_containers(v) for n, v in each.__dict__.items()})
            for each in everyone
        ]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        for each, state in self._states if error is not None else ():
            each.__dict__.clear()
            each.__dict__.update(state)


def _copy_containers(value: Any) -> Any:
    if type(value) is dict:
        return {name: _copy_containers(part) for name, part in value.items()}
    if isinstance(value, KnownVariables):
        return copy.deepcopy(value)  # Copies its lists, not the variables.
    return copy.copy(value) if type(value) in (list, set) else value
