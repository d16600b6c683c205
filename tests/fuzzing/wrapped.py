"""Cases of wrappers for the fuzzer, and what they are to compute.

`Model` composes that of a legacy optimizer of tf_keras and of NumPy, one
wrapper around the other.
"""

import dataclasses
import functools
from typing import Any

import configurations
import numpy as np
import tensorflow as tf
import tf_keras
from cases import (
    ROWS,
    Dense,
    Sparse,
    Variable,
    _numbers,
    ordinary,
    rows_dtypes,
    shapes,
    special,
)
from hypothesis import strategies as st

import keras_legacy_opt
from keras_legacy_opt import addons

WAYS_TO_SAVE = ("checkpoint", "late checkpoint", "pickle", "weights")
Pairs = list[tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Case:
    """Wrappers around an optimizer, and what they are to train.

    Attributes:
      wrappers: (class, arguments), from outside to inside.
      optimizer: Name of a row of the registry.
      arguments: Of its constructor.
      weight_decay: Of an extension of it, if any.
      variables: What is trained.
      steps: For each step, the gradients of all variables; None: it has none.
      saves: For each step, how everything is saved and restored after it.
    """

    wrappers: tuple[tuple[str, dict[str, Any]], ...]
    optimizer: str
    arguments: dict[str, Any]
    weight_decay: float | None
    variables: tuple[Variable, ...]
    steps: tuple[tuple[Dense | Sparse | None, ...], ...]
    saves: tuple[str | None, ...]

    def build(self) -> Any:
        """The optimizer in its wrappers."""
        cls = getattr(keras_legacy_opt, self.optimizer)
        if self.weight_decay is None:
            optimizer = cls(**self.arguments)
        else:
            optimizer = _extended(cls)(self.weight_decay, **self.arguments)
        for name, arguments in reversed(self.wrappers):
            optimizer = getattr(addons, name)(optimizer, **arguments)
        return optimizer

    def make_variables(self) -> list[tf.Variable]:
        """New variables."""
        return [
            tf.Variable(variable.initial(), name=f"variable_{i}")
            for i, variable in enumerate(self.variables)
        ]

    def pairs(self, step: int, variables: list[tf.Variable]) -> Pairs:
        """Gradients of a step, and those of the variables that have any."""
        return [
            (_as_tensor(gradient, described), variable)
            for gradient, described, variable in zip(
                self.steps[step], self.variables, variables, strict=True
            )
            if gradient is not None
        ]


@functools.cache
def _extended(cls):
    return addons.extend_with_decoupled_weight_decay(cls)


def _as_tensor(gradient, variable):
    array = gradient.of(variable)
    if isinstance(array, tuple):
        values, rows = map(tf.constant, array)
        return tf.IndexedSlices(values, rows, tf.constant(variable.shape))
    return tf.constant(array)


# What wrappers compute.


class Model:
    """Trains variables as a `Case` says.

    Attributes:
      slots: {(number of a variable, slot): array}, of the wrappers.
      inner: The legacy optimizer.
    """

    def __init__(self, case: Case):
        self.variables = case.make_variables()
        self.slots: dict[tuple[int, str], np.ndarray] = {}
        cls = getattr(tf_keras.optimizers.legacy, case.optimizer)
        self.inner = cls(**case.arguments)
        self._wrappers = case.wrappers
        self._decay = case.weight_decay
        self._order: list[int] = []  # In which variables came.
        self._got: dict[int, np.ndarray] = {}
        self._are_sparse: dict[int, bool] = {}
        self.accumulated = 0

    @property
    def steps(self) -> int:
        """How many the optimizer inside has taken."""
        return int(self.inner.iterations)

    def step(self, pairs: Pairs) -> None:
        numbered = [(g, self._number(v)) for g, v in pairs]
        self._create([i for _, i in numbered])
        with np.errstate(all="ignore"):
            self._apply(0, numbered)

    def forget(self) -> None:
        """What no file has: which gradients were sparse."""
        self._are_sparse.clear()

    def _number(self, variable):
        return next(i for i, v in enumerate(self.variables) if v is variable)

    def _create(self, numbers):
        new = [i for i in numbers if i not in self._order]
        names = [name for name, _ in self._wrappers]
        has_averages = bool(self._order)
        for i in new:
            value = self.variables[i].numpy()
            if "Lookahead" in names:
                self.slots[i, "slow"] = value
            if "MovingAverage" in names:
                self.slots[i, "average"] = value
            if "SWA" in names:
                start = value if has_averages else np.zeros_like(value)
                self.slots[i, "average"] = start
            if "GradientAccumulation" in names:
                self._clear(i)
        self._order += new

    def _clear(self, i):
        value = self.variables[i].numpy()
        self.slots[i, "accumulated_gradient"] = -np.zeros_like(value)
        self._got[i] = np.zeros(value.shape[:1], bool)

    def _apply(self, level, numbered):
        if level == len(self._wrappers):
            self._inside(numbered)
            return
        name, arguments = self._wrappers[level]
        if name == "GradientAccumulation":
            numbered = self._accumulated(numbered, **arguments)
            if numbered is None:
                return
        self._wrapped(level, name, arguments, numbered)

    def _wrapped(self, level, name, arguments, numbered):
        clips = {k: v for k, v in arguments.items() if "clip" in k}
        options = {k: v for k, v in arguments.items() if k not in clips}
        before = self.steps
        self._apply(level + 1, _clipped(clips, numbered, self.variables))
        afterwards = getattr(self, f"_{name.lower()}", None)
        for _, i in numbered if afterwards else ():
            afterwards(i, before, **options)

    def _inside(self, numbered):
        pairs = [(g, self.variables[i]) for g, i in numbered]
        for gradient, variable in pairs if self._decay is not None else ():
            dtype = variable.dtype.as_numpy_dtype
            fraction = dtype(np.float32(self._decay))
            value = np.array(variable)
            rows = ...
            if isinstance(gradient, tf.IndexedSlices):
                rows = np.unique(gradient.indices.numpy())
            value[rows] = value[rows] - fraction * value[rows]
            variable.assign(value)
        self.inner.apply_gradients(pairs)

    def _lookahead(self, i, before, sync_period, slow_step_size):
        if (before + 1) % sync_period:
            return
        slow, variable = self.slots[i, "slow"], self.variables[i]
        size = slow.dtype.type(np.float32(slow_step_size))
        self.slots[i, "slow"] = slow + size * (variable.numpy() - slow)
        variable.assign(self.slots[i, "slow"])

    def _movingaverage(
        self, i, before, average_decay, start_step=0, dynamic_decay=False
    ):
        decay, count = np.float32(average_decay), np.float32(before)
        count -= np.float32(start_step)
        if dynamic_decay:
            one, ten = np.float32(1), np.float32(10)
            decay = min(decay, (one + count) / (ten + count))
        if before < start_step:
            decay = np.float32(0)
        old = self.slots[i, "average"]
        weight = 1 - old.dtype.type(decay)
        difference = old - self.variables[i].numpy()
        self.slots[i, "average"] = old - difference * weight

    def _swa(self, i, before, start_averaging, average_period):
        count, rest = divmod(before - start_averaging, average_period)
        if count < 0 or rest:
            return
        old = self.slots[i, "average"]
        total = old * old.dtype.type(count) + self.variables[i].numpy()
        self.slots[i, "average"] = total / old.dtype.type(count + 1)

    def _accumulated(self, numbered, steps, reduction="mean", **clips):
        """The gradients of all batches, or None as long as some are missing."""
        del clips
        for gradient, i in numbered:
            self._add(gradient, i)
        self.accumulated += 1
        if self.accumulated < steps:
            return None
        now = [i for _, i in numbered]
        others = [i for i in self._order if i not in now]
        merged = [
            (self._sum(i, steps if reduction == "mean" else None), i)
            for i in [*now, *(i for i in others if self._has_got(i))]
        ]
        for i in self._order:
            self._clear(i)
        self.accumulated = 0
        return merged

    def _has_got(self, i):
        return self._got[i].any() if self._got[i].ndim else bool(self._got[i])

    def _add(self, gradient, i):
        total = self.slots[i, "accumulated_gradient"].copy()
        if isinstance(gradient, tf.IndexedSlices):
            self._are_sparse[i] = True
            rows = gradient.indices.numpy()
            values = gradient.values.numpy()
            np.add.at(total, rows, values + np.zeros_like(values))
            self._got[i][rows] = True
        else:
            self._are_sparse.setdefault(i, False)
            total = total + gradient.numpy()
            self._got[i][...] = True
        self.slots[i, "accumulated_gradient"] = total

    def _sum(self, i, divisor):
        total = self.slots[i, "accumulated_gradient"]
        if not (total.ndim and self._are_sparse.get(i, True)):
            gradient = tf.constant(total)
            return gradient if divisor is None else gradient / divisor
        rows = np.flatnonzero(self._got[i])
        values = tf.constant(total[rows])
        if divisor is not None:
            values = values / divisor
        return tf.IndexedSlices(
            values, tf.constant(rows), tf.constant(total.shape)
        )


def _clipped(clips, numbered, variables):
    if not clips:
        return numbered
    optimizer = tf_keras.optimizers.legacy.SGD(**clips)
    pairs = [(g, variables[i]) for g, i in numbered]
    clipped = optimizer._transform_gradients(pairs)
    return [(g, i) for (g, _), (_, i) in zip(clipped, numbered, strict=True)]


# What is drawn.

# TensorFlow may take denormal numbers for 0, and NumPy does not.
normal = special.filter(lambda x: x == 0 or not abs(x) < 1e-20)

_clips = st.one_of(
    st.just({}),
    st.sampled_from([{"clipvalue": 0.5}, {"clipnorm": 0.7}]),
    st.just({"global_clipnorm": 0.9}),
)


def _with_clips(name: str, **arguments: Any) -> Any:
    fixed = st.fixed_dictionaries(arguments)
    return st.builds(lambda a, c: (name, {**a, **c}), fixed, _clips)


_LOOKAHEAD = _with_clips(
    "Lookahead",
    sync_period=st.integers(1, 3),
    slow_step_size=st.sampled_from([0.1, 0.5, 1.0]),
)
_AVERAGES = st.one_of(
    _with_clips(
        "MovingAverage",
        average_decay=st.sampled_from([0.0, 0.3, 0.99, 1.0]),
        start_step=st.integers(0, 2),
        dynamic_decay=st.booleans(),
    ),
    _with_clips(
        "SWA",
        start_averaging=st.integers(0, 2),
        average_period=st.integers(1, 3),
    ),
)
_ACCUMULATION = _with_clips(
    "GradientAccumulation",
    steps=st.integers(1, 3),
    reduction=st.sampled_from(["mean", "sum"]),
)


@st.composite
def _stacks(draw):
    """Wrappers that may be around each other."""
    inside = [_LOOKAHEAD] * draw(st.booleans())
    inside += [_AVERAGES] * draw(st.booleans())
    around = [_ACCUMULATION] * draw(st.booleans())
    if not inside and not around:
        inside = [draw(st.sampled_from([_LOOKAHEAD, _AVERAGES]))]
    inside = draw(st.permutations(inside))
    return tuple(draw(each) for each in (*around, *inside))


@st.composite
def _gradient(draw, variable, elements):
    """Of one variable in one step, or None."""
    kinds = ["dense", "dense", "none"]
    if variable.shape and variable.shape[0]:
        kinds += ["sparse", "sparse"]
    kind = draw(st.sampled_from(kinds))
    if kind == "none":
        return None
    numbers = draw(_numbers(elements))
    if kind == "dense":
        return Dense(numbers)
    row = st.integers(0, variable.shape[0] - 1)
    rows = draw(st.lists(row, max_size=5))
    return Sparse(numbers, tuple(rows), draw(rows_dtypes))


@st.composite
def cases(draw, elements=ordinary | normal):
    """Cases of all wrappers around the optimizers of legacy."""
    name = draw(st.sampled_from(tuple(ROWS)))
    arguments = draw(configurations.arguments(name))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    made = st.builds(Variable, shapes(), st.just(dtype), _numbers(elements))
    variables = tuple(draw(st.lists(made, min_size=1, max_size=3)))
    steps = []
    for _ in range(draw(st.integers(1, 6))):
        step = tuple(draw(_gradient(v, elements)) for v in variables)
        if all(gradient is None for gradient in step):
            step = (Dense((0.5,)), *step[1:])
        steps.append(step)
    decay = draw(st.sampled_from([None, None, 0.25, 0.01]))
    way = st.sampled_from([None, None, None, *WAYS_TO_SAVE])
    return Case(
        draw(_stacks()),
        name,
        arguments,
        decay,
        variables,
        tuple(steps),
        tuple(draw(way) for _ in steps),
    )


def script(case: Case, way: str) -> str:
    """The Python that compares a case."""
    return f"""\
PYTHONPATH=tests:tests/conformance:tests/fused:tests/fuzzing python - <<END
from cases import Dense, Sparse, Variable
from comparing_wrapped import {way}
from numpy import inf, nan
from wrapped import Case

{way}({case!r})
END"""
