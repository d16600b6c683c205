"""Cases for the differential fuzzer: drawn by Hypothesis, printed as Python."""

import dataclasses
import os
from typing import Any

import configurations
import numpy as np
import registry
import stepping
import tensorflow as tf
from hypothesis import strategies as st

# How many times the usual number of cases is drawn.
BUDGET = "KERAS_LEGACY_OPT_FUZZ"
TIMES = int(os.environ.get(BUDGET, "1"))

ROWS = {row.name: row for row in registry.BUILT_IN}
LARGEST = 40  # elements of a tensor: whole vectors of a loop, and a tail


def _filled(numbers: tuple[float, ...], shape: tuple[int, ...], dtype: str):
    """An array of some numbers, again and again."""
    with np.errstate(over="ignore"):
        return np.resize(np.array(numbers), shape).astype(
            tf.as_dtype(dtype).as_numpy_dtype
        )


@dataclasses.dataclass(frozen=True)
class Variable:
    shape: tuple[int, ...]
    dtype: str
    numbers: tuple[float, ...]

    def initial(self) -> np.ndarray:
        return _filled(self.numbers, self.shape, self.dtype)


@dataclasses.dataclass(frozen=True)
class Dense:
    """The gradient of one variable in one step."""

    numbers: tuple[float, ...]

    def of(self, variable: Variable) -> np.ndarray:
        return _filled(self.numbers, variable.shape, variable.dtype)


@dataclasses.dataclass(frozen=True)
class Sparse:
    """Likewise, for some rows."""

    numbers: tuple[float, ...]
    rows: tuple[int, ...]
    rows_dtype: str

    def of(self, variable: Variable) -> tuple[np.ndarray, np.ndarray]:
        shape = len(self.rows), *variable.shape[1:]
        values = _filled(self.numbers, shape, variable.dtype)
        return values, np.array(self.rows, self.rows_dtype)


@dataclasses.dataclass(frozen=True)
class Case:
    """An optimizer, and what it is to train.

    Attributes:
      optimizer: Name of a row of the registry.
      option: Of that row.
      arguments: Of the constructor, in place of those of the option.
      variables: What is trained.
      steps: For each step, the gradients of all variables.
    """

    optimizer: str
    option: str
    arguments: dict[str, Any]
    variables: tuple[Variable, ...]
    steps: tuple[tuple[Dense | Sparse, ...], ...]

    @property
    def registered(self) -> registry.Case:
        return registry.Case(ROWS[self.optimizer], self.option)

    @property
    def all_arguments(self) -> dict[str, Any]:
        return {**self.registered.option.arguments, **self.arguments}

    def build(self, library: registry.Library) -> Any:
        return self.registered.build(library, **self.arguments)

    def problem(
        self,
    ) -> tuple[dict[str, np.ndarray], list[stepping.Gradients]]:
        """What the functions of `stepping` take."""
        named = {f"variable_{i}": v for i, v in enumerate(self.variables)}
        return {name: v.initial() for name, v in named.items()}, [
            {
                name: gradient.of(variable)
                for (name, variable), gradient in zip(
                    named.items(), gradients, strict=True
                )
            }
            for gradients in self.steps
        ]


ordinary = st.floats(-3, 3, width=32)
special = st.sampled_from(
    [
        0.0,
        -0.0,
        float("nan"),
        float("inf"),
        -float("inf"),
        2e19,  # Its square is infinite in float32,
        -3e38,
        2e-23,  # and that of this one denormal.
        -1e-42,
        1e-320,
        1e300,
        6e4,  # The same in float16.
        3e-5,
        -6e-8,
    ]
)
rows_dtypes = st.sampled_from(["int32", "int64"])
rare_rates = st.sampled_from([0.0, 1e-39, 1e20])


@st.composite
def shapes(draw):
    """Of rank 0 to 7, some of them with no elements."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 0, 17]), max_size=7))
    size = 1
    for i, length in enumerate(shape):
        if size * length > LARGEST:
            shape[i] = 1
        size *= shape[i]
    return tuple(shape)


def _numbers(elements):
    return st.lists(elements, min_size=1, max_size=5).map(tuple)


@st.composite
def _kinds(draw, variables, option):
    """Which of the gradients of a step are sparse."""
    return [
        bool(v.shape and v.shape[0] and v.dtype in option.sparse)
        and draw(st.booleans())
        for v in variables
    ]


@st.composite
def _gradients(draw, variables, kinds, count, elements):
    """The gradients of a step; `count` is the number of rows, if given."""
    gradients = []
    for variable, is_sparse in zip(variables, kinds, strict=True):
        numbers = draw(_numbers(elements))
        if not is_sparse:
            gradients.append(Dense(numbers))
            continue
        low, high = (0, 5) if count is None else (count, count)
        row = st.integers(0, variable.shape[0] - 1)
        rows = draw(st.lists(row, min_size=low, max_size=high))
        # In a graph, all steps have the same dtype.
        dtype = draw(rows_dtypes) if count is None else "int32"
        gradients.append(Sparse(numbers, tuple(rows), dtype))
    return tuple(gradients)


@st.composite
def cases(
    draw,
    names=tuple(ROWS),
    *,
    dtypes=registry.FLOATS,
    elements=ordinary | special,
    options=lambda name: True,
    any_arguments=True,
    kinds=None,
    alike=False,
):
    """Cases for some optimizers.

    Args:
      draw: Of Hypothesis.
      names: Of the optimizers.
      dtypes: Of the variables.
      elements: Strategy for the numbers in variables and gradients.
      options: Which options of the registry to take, by name.
      any_arguments: Whether arguments beside those of the options are drawn.
      kinds: Whether gradients are sparse; None is "any".
      alike: Whether the gradients have the same kinds and shapes in all steps,
        as a graph demands.
    """
    row = ROWS[draw(st.sampled_from(names))]
    option = draw(
        st.sampled_from([o for o in (*row.options, *row.common) if options(o)])
    )
    registered = registry.Case(row, option)
    arguments = {}
    if any_arguments:
        arguments = draw(configurations.arguments(row.name))
        if draw(st.integers(0, 7)) == 7:
            arguments["learning_rate"] = draw(rare_rates)
        if option in registry.COMMON:
            given = registry.COMMON[option]
            arguments = {k: v for k, v in arguments.items() if k not in given}
            if "clipnorm" in given:  # They exclude each other.
                arguments.pop("global_clipnorm", None)
            if "global_clipnorm" in given:
                arguments.pop("clipnorm", None)
    able = registered.option
    allowed = [
        d
        for d in dtypes
        if d in able.dense and (kinds is not True or d in able.sparse)
    ]
    one_dtype = {**able.arguments, **arguments}.get("global_clipnorm")
    dtype = st.sampled_from(allowed)
    if one_dtype is not None:
        dtype = st.just(draw(dtype))
    shape = shapes()
    if kinds:
        shape = shape.filter(lambda s: s and s[0])
    variables = tuple(
        draw(
            st.lists(
                st.builds(Variable, shape, dtype, _numbers(elements)),
                min_size=1,
                max_size=3,
            )
        )
    )
    if kinds is None:
        chosen = _kinds(variables, able)
    else:
        chosen = st.just([kinds] * len(variables))
    count = None
    if alike:
        chosen, count = st.just(draw(chosen)), draw(st.integers(0, 5))
    steps = [
        draw(_gradients(variables, draw(chosen), count, elements))
        for _ in range(draw(st.integers(1, 3)))
    ]
    return Case(row.name, option, arguments, variables, tuple(steps))


def script(case: Case, way: str) -> str:
    """The Python that compares a case."""
    return f"""\
PYTHONPATH=tests:tests/conformance:tests/fused:tests/fuzzing python - <<END
from cases import *
from comparing import {way}
from numpy import inf, nan

{way}({case!r})
END"""
