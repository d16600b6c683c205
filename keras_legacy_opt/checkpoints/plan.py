"""From values in a file to variables: all of it, or nothing.

A room of this package that knows a format makes a `Plan`: which stored value
goes where.  `Plan.carry_out` compares it with what the model and the optimizer
have, reads everything, and only then assigns.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import hosts, private_api, saving
from keras_legacy_opt.checkpoints import report as reports
from keras_legacy_opt.checkpoints.report import CheckpointError, Report
from keras_legacy_opt.variables import KnownVariables, var_key


@dataclasses.dataclass(frozen=True)
class Value:
    """A value in a file, not read yet.

    Attributes:
      name: its name in the file.
      shape: tuple of integers.
      dtype: NumPy dtype.
      read: function that returns the array.
      note: how it was converted, if it was.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], np.ndarray]
    note: str = ""

    def map(
        self, function: Callable[[np.ndarray], np.ndarray], note: str
    ) -> Value:
        """The value of `function` of this one, of the same shape."""
        return dataclasses.replace(
            self, read=lambda: function(self.read()), note=note
        )

    def checked(self, path: str) -> np.ndarray:
        """The array, read from the file at `path`.

        Raises:
          CheckpointError: if that cannot be, or it is not what was announced.
        """
        with readable(path):
            array = self.read()
        if tuple(np.shape(array)) != tuple(self.shape):
            raise CheckpointError(
                f"{path} contradicts itself: {self.name!r} has shape"
                f" {np.shape(array)} where {self.shape} was announced. Nothing"
                " was changed."
            )
        return array


def constant(name: str, value: Any, note: str = "") -> Value:
    """A value that is known already."""
    array = np.asarray(value)
    return Value(name, array.shape, array.dtype, lambda: array, note)


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Turns whatever a damaged file makes a reader raise into one error."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be read: it is damaged, incomplete, or no file of"
            " the formats that keras_legacy_opt.checkpoints knows. Nothing was"
            f" changed. The reader said: {reason}"
        ) from error


class Targets:
    """The variables of a model and of an optimizer that may get a value.

    Args:
      model: a model of Keras 3 or of tf_keras, a variable, or a dictionary or
        list of these.
      optimizer: an optimizer of this package, or `None`.
    """

    def __init__(self, model: Any, optimizer: Any | None):
        self.model = model
        self.optimizer = optimizer
        self.given = list(weights_of(model))
        self.weights = [hosts.unwrap(v) for v in self.given]
        self._names: dict[int, str] = {}
        for variable in self.given:
            self.name(variable)
        if optimizer is not None:
            optimizer.build(list(trainable_of(model)))
            self._name_optimizer()

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
        if self.optimizer is None:
            return {}
        return {
            name: child
            for name, child in self.optimizer._trackable_children().items()
            if isinstance(child, tf.Variable)
        }

    @property
    def loss_scale(self) -> dict[str, Any]:
        """The variables of a LossScaleOptimizer around the optimizer."""
        if self.optimizer is None:
            return {}
        scale = self.optimizer._trackable_children().get("loss_scale")
        return dict(scale._trackable_children()) if scale else {}

    def slots(self, variable: Any) -> dict[str, Any]:
        """{slot name: slot} of a variable of the model."""
        if self.optimizer is None:
            return {}
        key = var_key(hosts.unwrap(variable))
        return self.optimizer._slots.get(key, {})

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


def weights_of(model: Any) -> Iterator[Any]:
    """The weights of a model, or the variables of a structure.

    Raises:
      CheckpointError: if a model is not built.
    """
    # Of a model that is not built, tf_keras refuses even to look.
    if hasattr(type(model), "weights") and not isinstance(model, tf.Variable):
        yield from _weights_of_built(model)
    elif isinstance(model, Mapping):
        for part in model.values():
            yield from weights_of(part)
    elif isinstance(model, (list, tuple)):
        for part in model:
            yield from weights_of(part)
    elif model is not None:
        yield model


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


def trainable_of(model: Any) -> Iterator[Any]:
    """The variables of a model that an optimizer trains."""
    if hasattr(model, "trainable_variables"):
        yield from model.trainable_variables
    elif isinstance(model, Mapping):
        for part in model.values():
            yield from trainable_of(part)
    elif isinstance(model, (list, tuple)):
        for part in model:
            yield from trainable_of(part)
    elif model is not None and getattr(model, "trainable", True):
        yield model


class Plan:
    """Which values go to which variables, and what has no place."""

    def __init__(self, report: Report, targets: Targets):
        self.report = report
        self.targets = targets
        self._assignments: dict[int, tuple[Value, Any]] = {}
        self._not_expected: set[int] = set()
        self._afterwards: list[Callable[[], None]] = []

    def assign(self, value: Value, variable: Any) -> None:
        """Plans to give `variable` the value."""
        variable = hosts.unwrap(variable)
        self._assignments[id(variable)] = value, variable

    def value_of(self, variable: Any) -> Value | None:
        """The value that is planned for `variable`."""
        return self._assignments.get(id(variable), (None, None))[0]

    def unused(self, value: Value, reason: str) -> None:
        """Notes a value without a place."""
        self.report.add(reports.UNUSED, value.name, "", value.shape, reason)

    def ignored(self, value: Value, reason: str) -> None:
        """Notes a value that nobody misses."""
        self.report.add(reports.IGNORED, value.name, "", value.shape, reason)

    def mismatch(self, source: str, target: str, reason: str) -> None:
        """Notes something, not a variable, that does not fit."""
        self.report.add(reports.MISMATCH, source, target, (), reason)

    def not_expected(self, variable: Any) -> None:
        """Notes that this kind of file never has a value for `variable`."""
        self._not_expected.add(id(hosts.unwrap(variable)))

    def afterwards(self, function: Callable[[], None]) -> None:
        """Plans a call, after everything was assigned."""
        self._afterwards.append(function)

    def carry_out(self, strict: bool) -> None:
        """Checks, reads and assigns, in this order.

        Raises:
          MismatchError: if `strict` and not everything fits.
          CheckpointError: if a value cannot be read.
        """
        fitting = [
            (value, variable)
            for value, variable in self._assignments.values()
            if self._fits(value, variable)
        ]
        for variable in self.targets.all():
            if id(variable) not in (
                self._assignments.keys() | self._not_expected
            ):
                self.report.add(
                    reports.MISSING,
                    "",
                    self.targets.name(variable),
                    tuple(variable.shape),
                    "not in the file",
                )
        if strict and self.report.problems:
            raise reports.MismatchError(self.report)
        values = [value.checked(self.report.path) for value, _ in fitting]
        saving.assign_all([variable for _, variable in fitting], values)
        for value, variable in fitting:
            self.report.add(
                reports.RESTORED,
                value.name,
                self.targets.name(variable),
                value.shape,
                value.note,
            )
        for function in self._afterwards:
            function()

    def _fits(self, value: Value, variable: Any) -> bool:
        reason = None
        if tuple(variable.shape) != tuple(value.shape):
            reason = f"the variable has shape {tuple(variable.shape)}"
        elif not _castable(value.dtype, variable.dtype):
            reason = (
                f"{np.dtype(value.dtype).name} in the file, but the variable is"
                f" {variable.dtype.name}"
            )
        if reason is not None:
            self.report.add(
                reports.MISMATCH,
                value.name,
                self.targets.name(variable),
                value.shape,
                reason,
            )
        return reason is None


def _castable(stored: Any, dtype: tf.DType) -> bool:
    try:
        stored = tf.as_dtype(stored)
    except TypeError:
        return False
    if stored == dtype:
        return True
    kinds = [
        d.is_floating or d.is_complex or d.is_integer for d in (stored, dtype)
    ]
    return all(kinds) and (dtype.is_integer is stored.is_integer)


class Unchanged:
    """Keeps what an optimizer was, to make it that again.

    Used around a restoration: building the optimizer creates its variables,
    which a failure must undo.
    """

    def __init__(self, optimizer: Any | None):
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
