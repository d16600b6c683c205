"""A formula's own function, computed by plain operations of TensorFlow.

It takes any gradient of any variable, and XLA compiles it.  Where legacy
composed its updates, these are the same operations, and what writes rows are
the methods that subclasses override.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt.backends.base import Backend
from keras_legacy_opt.rules.formula import (
    VARIABLE,
    Added,
    Changes,
    Coefficients,
    Descended,
    Formula,
    Idle,
)
from keras_legacy_opt.step import gradients
from keras_legacy_opt.step.update import Step, Update


class Composed(Backend):
    """Plain operations, whatever the gradient, the dtype and the device."""

    name = "composed of plain ops"

    def refuses(self, step: Step, update: Update) -> str | None:
        """See `Backend`."""
        if step.formula is None:
            return f"{type(step.optimizer).__name__} declares no formula"
        return step.once(Step.overridden, update.is_sparse)

    def run(self, step: Step, updates: Sequence[Update]) -> Any:
        """See `Backend`."""
        (update,) = updates
        return self.apply(step, gradients.with_unique_rows(step, update))

    def apply(self, step: Step, update: Update) -> tf.Operation:
        """Updates a variable; the rows of a sparse gradient are unique.

        They may repeat where the formula does not sum duplicates.
        """
        formula, grad = step.declared, update.gradient
        c = step.coefficients(update.variable)
        variables = {VARIABLE: update.variable}
        for slot in formula.slots:
            variables[slot] = step.optimizer.get_slot(update.variable, slot)
        if update.is_sparse and formula.densifies:
            grad = _dense(grad, update.variable)
        elif update.is_sparse:
            rows = _Rows(step.optimizer, formula, variables, grad.indices)
            return rows.written(formula.update(rows, grad.values, c), c)
        values = {name: each.read_value() for name, each in variables.items()}
        return tf.group(
            *(
                variables[name].assign(value, read_value=False)
                for name, value in formula.step(values, grad, c).items()
            )
        )


class _Rows:
    """The `State` that a sparse gradient changes: rows, or everything.

    An average that decays in all rows is written when it is computed: first it
    decays, then its rows are added to.
    """

    def __init__(
        self,
        optimizer: Any,
        formula: Formula,
        variables: Mapping[str, Any],
        indices: tf.Tensor,
    ):
        self._idle, self._scalars = formula.idle, formula.scalars
        self._variables = variables
        self._indices = indices
        self._averages: dict[str, tf.Tensor] = {}
        # Each is read once: in TF1 graphs, nothing else keeps what is read
        # before what is written.
        self._read: dict[str, tf.Tensor] = {}
        self._add = optimizer._resource_scatter_add
        self._set = optimizer._resource_scatter_update
        if not formula.sums_duplicates:  # Nor does legacy call its method.
            self._add = _scatter_add

    def __contains__(self, name: object) -> bool:
        return name in self._variables

    def __getitem__(self, name: str) -> tf.Tensor:
        if name not in self._read:
            self._read[name] = self._value(name)
        return self._read[name]

    def _value(self, name: str) -> tf.Tensor:
        if self._idle is Idle.EVERYTHING or name in self._scalars:
            return self._variables[name].read_value()
        return tf.gather(self._variables[name], self._indices)

    def average(
        self, slot: str, x: tf.Tensor, decay: tf.Tensor, weight: tf.Tensor
    ) -> tf.Tensor:
        """See `State`."""
        if self._idle is Idle.NOTHING:
            return self[slot] * decay + x * weight
        variable = self._variables[slot]
        # In this order, as legacy: Grappler goes by the names of operations.
        rows = x * weight
        decayed = variable.assign(variable * decay, read_value=False)
        with tf.control_dependencies([] if decayed is None else [decayed]):
            value = self._add(variable, self._indices, rows)
        self._averages[slot] = value
        if self._idle is Idle.EVERYTHING:
            return value
        return tf.gather(value, self._indices)

    def average_of_squares(
        self, slot: str, x: tf.Tensor, decay: tf.Tensor, weight: tf.Tensor
    ) -> tf.Tensor:
        """See `State`."""
        return self.average(slot, x * x, decay, weight)

    def written(self, changes: Changes, c: Coefficients) -> tf.Operation:
        """The operation that makes all changes."""
        ops = []
        for name, change in changes.items():
            if name in self._averages:
                continue
            whole = self._idle is Idle.EVERYTHING or name in self._scalars
            write = self._write_all if whole else self._write_rows
            ops.append(write(self._variables[name], change, c))
        ops += self._averages.values()
        return tf.group(*(op for op in ops if op is not None))

    def _write_all(self, variable: Any, change: Any, c: Coefficients) -> Any:
        if isinstance(change, Added):
            return variable.assign_add(change.step, read_value=False)
        if isinstance(change, Descended):
            return variable.assign_sub(change.step(c), read_value=False)
        return variable.assign(change, read_value=False)

    def _write_rows(self, variable: Any, change: Any, c: Coefficients) -> Any:
        if isinstance(change, Added):
            return self._add(variable, self._indices, change.step)
        if isinstance(change, Descended):
            return self._add(variable, self._indices, change.step(c, "neg_"))
        return self._set(variable, self._indices, change)


def _dense(gradient: tf.IndexedSlices, variable: Any) -> tf.Tensor:
    """The gradient of all rows; those out of range are none."""
    return tf.scatter_nd(
        tf.expand_dims(gradient.indices, 1),
        gradient.values,
        tf.cast(tf.shape(variable), gradient.indices.dtype),
    )


def _scatter_add(variable: Any, indices: tf.Tensor, rows: tf.Tensor) -> Any:
    return tf.raw_ops.ResourceScatterAdd(
        resource=variable.handle, indices=indices, updates=rows
    )
