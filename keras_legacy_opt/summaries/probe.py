"""Reads what is measured, of all variables and slots, by one function.

A function for each list of variables: it is traced once, and its results come
to the host in four arrays.  What large slots hold is sampled; norms and dead
rows are those of all elements, and each costs a pass over memory.
"""

from __future__ import annotations

import functools
import math
import operator
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_legacy_opt.addons.wrapper import Holder
from keras_legacy_opt.rules.formula import formula_of, rule_of
from keras_legacy_opt.state.variables import var_key
from keras_legacy_opt.step.watch import (
    exact_norm,
    half_of_squares,
    is_exact,
)

# How many elements of a slot its histogram is of.
SAMPLE = 1024
# Slots that tell best which rows were ever updated, if an optimizer has
# several: what they hold grows, or decays slowly.
_ACCUMULATORS = (
    "vhat",
    "v",
    "accumulator",
    "accum_grad",
    "rms",
    "grad_norm_sum",
)


class Slot(NamedTuple):
    """A slot of a variable.

    Attributes:
      name: its name.
      variable: the slot variable.
      initial: what its elements start from; None if they do not tell which
        rows were updated.
    """

    name: str
    variable: Any
    initial: float | None

    @property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.variable.shape)


class Target(NamedTuple):
    """A variable that is measured.

    Attributes:
      key: the variable's key.
      variable: the `tf.Variable`.
      slots: its slots, of all optimizers.
      accumulator: the number of the one that tells which rows are dead; None if
        that is not asked, or no slot tells.
    """

    key: str
    variable: Any
    slots: tuple[Slot, ...]
    accumulator: int | None

    @classmethod
    def of(
        cls, optimizers: Sequence[Any], variable: Any, has_rows: bool
    ) -> Target:
        """The variable, as some optimizers have slots for it."""
        slots = _slots_of(optimizers, variable)
        accumulator = None
        if has_rows and variable.shape.rank > 1:
            accumulator = _accumulator(slots, variable)
        return cls(var_key(variable), variable, slots, accumulator)

    @property
    def rows(self) -> int:
        """The number of its rows."""
        return int(self.variable.shape[0])

    def identity(self) -> tuple[Any, ...]:
        """What a function for it depends on."""
        slots = tuple(var_key(slot.variable) for slot in self.slots)
        return self.key, slots, self.accumulator


class Reading(NamedTuple):
    """What is read of a variable.

    Attributes:
      norm: its norm.
      slot_norms: those of its slots.
      samples: elements of its slots.
      norm_before: the norm before the step, if the value is given.
      change: the norm of the difference to that.
      dead_rows: rows of its accumulator that are as they were at first.
    """

    norm: float
    slot_norms: Sequence[float]
    samples: Sequence[np.ndarray]
    norm_before: float | None
    change: float | None
    dead_rows: int | None


class Probe:
    """A function that reads some variables and their slots."""

    def __init__(self, targets: Sequence[Target]):
        self._targets = targets
        # Not of this object, which would keep it alive with its variables.
        self._function = tf.function(
            functools.partial(_readings, tuple(targets)), autograph=False
        )
        self._lengths = [
            len(range(0, slot.size, _stride(slot.variable.shape)))
            for target in targets
            for slot in target.slots
        ]

    def read(self, before: Sequence[Any] | None) -> list[Reading]:
        """Reads all of them; `before` has the values before the last step."""
        if before is not None:
            before = [
                tf.convert_to_tensor(value, target.variable.dtype)
                for value, target in zip(before, self._targets, strict=True)
            ]
        results = self._function(before or [])
        halves, changes, dead, samples = (each.numpy() for each in results)
        halves, changes, dead = map(iter, (halves, changes, dead))
        parts = iter(np.split(samples, np.cumsum(self._lengths)[:-1]))
        readings = []
        for number, target in enumerate(self._targets):
            norm_before = change = None
            if before is not None:
                norm_before = _norm(next(changes), before[number])
                change = _norm(next(changes), target.variable, before[number])
            readings.append(
                Reading(
                    _norm(next(halves), target.variable),
                    [_norm(next(halves), s.variable) for s in target.slots],
                    [next(parts) for _ in target.slots],
                    norm_before,
                    change,
                    None if target.accumulator is None else int(next(dead)),
                )
            )
        return readings


# By optimizer: the probe for its variables, and what that depends on.
_probes: weakref.WeakKeyDictionary[Any, tuple[Any, Probe]] = (
    weakref.WeakKeyDictionary()
)


def probe_of(optimizer: Any, targets: Sequence[Target]) -> Probe:
    """The probe that is there for these variables, or a new one."""
    identity = [target.identity() for target in targets]
    present = _probes.get(optimizer)
    if present is None or present[0] != identity:
        present = _probes[optimizer] = identity, Probe(targets)
    return present[1]


def _slots_of(optimizers: Sequence[Any], variable: Any) -> tuple[Slot, ...]:
    found: dict[str, Slot] = {}
    for optimizer in optimizers:
        for name in optimizer.get_slot_names():
            try:
                slot = optimizer.get_slot(variable, name)
            except KeyError:
                continue  # It is another one's variable.
            found.setdefault(name, Slot(name, slot, _initial(optimizer, name)))
    return tuple(found.values())


def _initial(optimizer: Any, name: str) -> float | None:
    if isinstance(optimizer, Holder):
        return None
    rule, formula = rule_of(optimizer), formula_of(optimizer)
    if formula is not None and name in formula.unused:
        return None
    if rule is None or name not in rule.initializers:
        return 0.0
    return float(rule.initializers[name](optimizer)([], tf.float64))


def _accumulator(slots: Sequence[Slot], variable: Any) -> int | None:
    numbers = {
        slot.name: i
        for i, slot in enumerate(slots)
        if slot.initial is not None and slot.variable.shape == variable.shape
    }
    for name in (*_ACCUMULATORS, *numbers):
        if name in numbers:
            return numbers[name]
    return None


def _readings(
    targets: Sequence[Target], before: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, ...]:
    """Sums of squares, those before and of changes, dead rows, samples.

    Halves of the sums, see `half_of_squares`.
    """
    squares, changes, dead, samples = [], [], [], []
    for number, target in enumerate(targets):
        value = tf.convert_to_tensor(target.variable)
        squares.append(half_of_squares(value))
        if before:
            old = before[number]
            changes.append(half_of_squares(old))
            changes.append(half_of_squares(_difference(value, old)))
        for i, slot in enumerate(target.slots):
            content = tf.convert_to_tensor(slot.variable)
            squares.append(half_of_squares(content))
            samples.append(_sample(content))
            if i == target.accumulator and slot.initial is not None:
                dead.append(_unchanged_rows(content, slot.initial))
    return (
        _stacked(squares),
        _stacked(changes),
        tf.stack(dead) if dead else tf.zeros([0], tf.int64),
        tf.concat(samples, 0) if samples else tf.zeros([0]),
    )


def _stacked(halves: Sequence[tf.Tensor]) -> tf.Tensor:
    """Numbers in float64, in few operations."""
    dtypes = {each.dtype for each in halves}
    if len(dtypes) > 1:
        halves = [tf.cast(each, tf.float64) for each in halves]
    stacked = tf.stack(halves) if halves else tf.zeros([0])
    return tf.cast(stacked, tf.float64)


def _norm(half: float, x: Any, minus: Any = None) -> float:
    """The norm of `x`, or of a difference, whose sum of squares is known.

    It is computed once more where elements are too small, or too large, to be
    squared.
    """
    if is_exact(half, math.prod(x.shape), x.dtype):
        return math.sqrt(2.0 * half)
    x = tf.convert_to_tensor(x)
    if minus is not None:
        x = _difference(x, minus)
    return float(exact_norm(x))


def _difference(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """In 16 bits, it would be rounded."""
    if x.dtype.size < 4:
        x, y = tf.cast(x, tf.float32), tf.cast(y, tf.float32)
    return x - y


def _unchanged_rows(x: tf.Tensor, initial: float) -> tf.Tensor:
    same = tf.equal(x, tf.cast(initial, x.dtype))
    rows = tf.reduce_all(same, axis=list(range(1, x.shape.rank)))
    return tf.math.count_nonzero(rows)


def _sample(x: tf.Tensor) -> tf.Tensor:
    stride = _stride(x.shape)
    x = tf.reshape(x, [-1])
    if stride > 1:
        x = x[::stride]
    if x.dtype.is_complex:
        x = tf.abs(x)
    return x if x.dtype == tf.float32 else tf.cast(x, tf.float32)


def _stride(shape: Any) -> int:
    """Every how many elements one is taken: not all of one column."""
    size = functools.reduce(operator.mul, shape, 1)
    stride = -(-size // SAMPLE) or 1
    columns = shape[-1] if len(shape) else 1
    while math.gcd(stride, columns) > 1 and stride > 1:
        stride += 1
    return stride
