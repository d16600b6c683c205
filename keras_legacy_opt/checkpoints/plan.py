"""From values in a file to variables: all of it, or nothing.

`Plan.carry_out` compares what was found to belong together, reads everything,
and only then assigns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.checkpoints import report as reports
from keras_legacy_opt.checkpoints.report import Report
from keras_legacy_opt.checkpoints.targets import Targets
from keras_legacy_opt.checkpoints.values import Value, constant
from keras_legacy_opt.state import saving


class Plan:
    """Which values go to which variables, and what has no place."""

    def __init__(self, report: Report, targets: Targets):
        self.report = report
        self.targets = targets
        self._assignments: dict[int, tuple[Value, Any]] = {}
        self._not_expected: set[int] = set()
        self._arrived: list[Any] = []

    def assign(self, value: Value, variable: Any) -> None:
        """Plans to give `variable` the value."""
        variable = hosts.unwrap(variable)
        self._assignments[id(variable)] = value, variable

    def value_of(self, variable: Any) -> Value | None:
        """The value that is planned for `variable`."""
        return self._assignments.get(id(variable), (None, None))[0]

    def result_of(self, variable: Any) -> np.ndarray:
        """What `variable` will be: the planned value, or what it is now."""
        value = self.value_of(variable)
        return (
            saving.fetch_all([variable])[0] if value is None else value.read()
        )

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

    def arrived(self, variable: Any) -> None:
        """Notes that `variable` has got its value already."""
        self._arrived.append(variable)
        self.not_expected(variable)

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
        beginning = self._note_missing(fitting)
        if strict and self.report.problems:
            raise reports.MismatchError(self.report)
        pairs = [*fitting, *beginning]
        values = [value.checked(self.report.path) for value, _ in pairs]
        saving.assign_all([variable for _, variable in pairs], values)
        for variable in self._arrived:
            name, shape = self.targets.name(variable), tuple(variable.shape)
            self.report.add(reports.RESTORED, "", name, shape)
        for value, variable in fitting:
            self.report.add(
                reports.RESTORED,
                value.name,
                self.targets.name(variable),
                value.shape,
                value.note,
            )

    def _note_missing(
        self, fitting: Sequence[tuple[Value, Any]]
    ) -> list[tuple[Value, Any]]:
        """Notes what has no value; returns what begins as its variable.

        It was made when that had another value.
        """
        restored = {id(variable): value for value, variable in fitting}
        for variable, array in zip(
            self._arrived, saving.fetch_all(self._arrived), strict=True
        ):
            restored[id(variable)] = constant("", array)
        copies = self.targets.copies()
        planned = self._assignments.keys() | self._not_expected
        beginning = []
        for variable in self.targets.all():
            if id(variable) in planned:
                continue
            reason = "not in the file"
            value = restored.get(id(copies.get(id(variable))))
            if value is not None:
                reason += ": begins as its variable"
                beginning.append((value, variable))
            name, shape = self.targets.name(variable), tuple(variable.shape)
            self.report.add(reports.MISSING, "", name, shape, reason)
        return beginning

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
