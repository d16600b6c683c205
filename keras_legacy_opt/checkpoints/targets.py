"""The variables that may get a value from a file."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, private_api
from keras_legacy_opt.checkpoints import optimizers
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.state import saving
from keras_legacy_opt.state.variables import KnownVariables, var_key


class Targets:
    """The variables of a model and of an optimizer that may get a value.

    Args:
      model: a model of Keras 3 or of tf_keras, a variable, or a dictionary or
        list of these.
      optimizer: an optimizer of this package, or `None`.
    """

    def __init__(self, model: Any, optimizer: Optimizer | None):
        self.model = model
        self._optimizer = optimizer
        self.given = list(weights_of(model))
        self.weights = [hosts.unwrap(v) for v in self.given]
        self._names: dict[int, str] = {}
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

    def _name_optimizer(self) -> None:
        for name, variable in self.optimizer_children.items():
            self._names[id(variable)] = f"optimizer/{name}"
        for name, variable in self.loss_scale.items():
            self._names[id(variable)] = f"optimizer/loss_scale/{name}"
        for variable in self.weights:
            for slot_name, slot in self.slots(variable).items():
                self._names[id(slot)] = f"{self.name(variable)}/{slot_name}"

    @property
    def optimizer_children(self) -> dict[str, Any]:
        """The optimizer's iterations, hyperparameters and other scalars."""
        if not self.has_optimizer:
            return {}
        scalars = _scalars(self.optimizer)
        if any("/" in name for name in scalars):  # Those of several.
            return scalars
        return {
            name: child
            for optimizer in reversed(self.optimizers)
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

    @property
    def optimizers(self) -> list[Any]:
        """The optimizer, and what is inside it if their names are clear."""
        found = [self.optimizer, *saving.held(self.optimizer)]
        hypers = [name for each in found for name in each._hyper]
        slots = [name for each in found for name in each.get_slot_names()]
        are_clear = all(len({*each}) == len(each) for each in (hypers, slots))
        return found if are_clear else found[:1]

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
    """
    for part in _parts(structure):
        # Of a model that is not built, tf_keras refuses even to look.
        if hasattr(type(part), "weights") and not isinstance(part, tf.Variable):
            yield from _weights_of_built(part)
        else:
            yield part


def trainable_of(structure: Any) -> Iterator[Any]:
    """The variables of a model or structure that an optimizer trains."""
    for part in _parts(structure):
        if hasattr(part, "trainable_variables"):
            yield from part.trainable_variables
        elif getattr(part, "trainable", True):
            yield part


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


def _scalars(optimizer: Optimizer, prefix: str = "") -> dict[str, Any]:
    """{name: variable} of an optimizer and what is inside, slots left out.

    The names of those that a MultiOptimizer holds begin with what that calls
    them.
    """
    children = optimizer._trackable_children()
    found: dict[str, Any] = {}
    for name, child in children.items():
        if isinstance(child, Optimizer):
            found |= _scalars(child, optimizers.prefix_of(name, prefix))
    own = {n: v for n, v in children.items() if isinstance(v, tf.Variable)}
    return found | {f"{prefix}{name}": v for name, v in own.items()}


class Unchanged:
    """Keeps what an optimizer was, to make it that again.

    Used around a restoration: building the optimizer creates its variables,
    which a failure must undo.
    """

    def __init__(self, optimizer: Optimizer | None):
        self._optimizer = optimizer
        if optimizer is not None:
            self._state = {
                name: _copy_containers(value)
                for name, value in optimizer.__dict__.items()
            }

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is not None and self._optimizer is not None:
            self._optimizer.__dict__.clear()
            self._optimizer.__dict__.update(self._state)


def _copy_containers(value: Any) -> Any:
    if type(value) is dict:
        return {name: _copy_containers(part) for name, part in value.items()}
    if isinstance(value, KnownVariables):
        return copy.deepcopy(value)  # Copies its lists, not the variables.
    return copy.copy(value) if type(value) in (list, set) else value
