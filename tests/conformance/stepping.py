"""Trains a few variables with an optimizer, and records every step."""

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from registry import LEGACY, Case

STEPS = 10

# A record maps names to values: of the variables and of the optimizer's weights
# (slots and iterations), after a step.
Record = dict[str, np.ndarray]
Gradients = dict[str, Any]  # an array, or (values, indices)

SHAPES = {"matrix": (3, 2), "table": (6, 2), "vector": (5,), "column": (5,)}
SPARSE = ("table", "column")
KINDS = {
    "dense": ("matrix", "vector"),
    "sparse": SPARSE,
    "mixed": tuple(SHAPES),
    "few": ("matrix", "table"),  # one dense, one sparse
    "alternating": tuple(SHAPES),  # dense or sparse, in turns
}


def random_array(
    rng: np.random.Generator, shape: Sequence[int], dtype: str
) -> np.ndarray:
    """Normal random numbers of any dtype."""
    array = rng.standard_normal(shape)
    if "complex" in dtype:
        array = array + 1j * rng.standard_normal(shape)
    return array.astype(tf.as_dtype(dtype).as_numpy_dtype)


def random_rows(
    rng: np.random.Generator, shape: Sequence[int], dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Values and indices; some rows come repeatedly, and some never."""
    first, second, third, *_ = rng.permutation(shape[0])
    indices = np.array([first, second, first, third, first, second])
    values = random_array(rng, (len(indices), *shape[1:]), dtype)
    return values, indices.astype(np.int32 if len(shape) > 1 else np.int64)


@functools.cache
def problem(
    name: str, dtype: str, kind: str
) -> tuple[dict[str, np.ndarray], list[Gradients]]:
    """Returns initial values, and gradients for each step."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    initial = {
        var: random_array(rng, SHAPES[var], dtype) for var in KINDS[kind]
    }
    return initial, [
        {
            var: random_rows(rng, SHAPES[var], dtype)
            if (
                step % 2 == list(SHAPES).index(var) % 2
                if kind == "alternating"
                else var in SPARSE
            )
            else random_array(rng, SHAPES[var], dtype)
            for var in initial
        }
        for step in range(STEPS)
    ]


def as_tensor(gradient: Any) -> Any:
    if isinstance(gradient, tuple):
        return tf.IndexedSlices(*map(tf.convert_to_tensor, gradient))
    return tf.convert_to_tensor(gradient)


def weights_by_name(
    variables: dict[str, tf.Variable], optimizer: Any
) -> dict[str, tf.Variable]:
    weights = [*variables.values(), *optimizer.weights]
    named = {weight.name: weight for weight in weights}
    assert len(named) == len(weights)
    return named


def record(variables: dict[str, tf.Variable], optimizer: Any) -> Record:
    weights = weights_by_name(variables, optimizer)
    return {name: weight.numpy() for name, weight in weights.items()}


def make_variables(initial: dict[str, np.ndarray]) -> dict[str, tf.Variable]:
    return {
        name: tf.Variable(value, name=name) for name, value in initial.items()
    }


def makes_variables_in_trace(initial: dict[str, np.ndarray]) -> bool:
    """Whether the first trace is to create them, for which there is a second.

    One dtype is enough to see that it may.
    """
    return all(value.dtype == np.float32 for value in initial.values())


def create_weights(optimizer: Any, variables: dict[str, tf.Variable]) -> None:
    """Creates them where a step would, so that it is traced only once."""
    with tf.name_scope(optimizer._name):
        optimizer._create_all_weights(list(variables.values()))


def run_eagerly(
    make_optimizer: Callable[[], Any],
    initial: dict[str, np.ndarray],
    gradients: list[Gradients],
    wrap: Callable[..., Any] = lambda step: step,
) -> list[Record]:
    """Returns the record of every step; `wrap` may make a function of it."""
    optimizer = make_optimizer()
    variables = make_variables(initial)
    if wrap is tf.function and not makes_variables_in_trace(initial):
        create_weights(optimizer, variables)

    @wrap
    def step(grads):
        optimizer.apply_gradients([(grads[k], variables[k]) for k in variables])

    records = []
    for grads in gradients:
        step({name: as_tensor(grad) for name, grad in grads.items()})
        records.append(record(variables, optimizer))
    return records


def run_in_function(
    make_optimizer: Callable[[], Any],
    initial: dict[str, np.ndarray],
    gradients: list[Gradients],
) -> list[Record]:
    """As `run_eagerly`, with a `tf.function`."""
    return run_eagerly(make_optimizer, initial, gradients, tf.function)


def run_in_graph(
    make_optimizer: Callable[[], Any],
    initial: dict[str, np.ndarray],
    gradients: list[Gradients],
) -> list[Record]:
    """Returns the record of every step, made in a TF1 session."""

    def placeholder(gradient):
        if isinstance(gradient, tuple):
            return tf.IndexedSlices(*map(placeholder, gradient))
        return tf.compat.v1.placeholder(gradient.dtype, gradient.shape)

    def feed(placeholders, grads):
        for name, node in placeholders.items():
            if isinstance(node, tf.IndexedSlices):
                yield node.values, grads[name][0]
                yield node.indices, grads[name][1]
            else:
                yield node, grads[name]

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        optimizer = make_optimizer()
        variables = make_variables(initial)
        placeholders = {k: placeholder(g) for k, g in gradients[0].items()}
        train_op = optimizer.apply_gradients(
            [(placeholders[k], variables[k]) for k in variables]
        )
        weights = weights_by_name(variables, optimizer)
        # First the variables: slots may start from their values.
        session.run([v.initializer for v in variables.values()])
        session.run(tf.compat.v1.global_variables_initializer())
        records = []
        for grads in gradients:
            session.run(train_op, dict(feed(placeholders, grads)))
            records.append(session.run(weights))
        return records


def run_with_xla(
    make_optimizer: Callable[[], Any],
    initial: dict[str, np.ndarray],
    gradients: list[Gradients],
    states: list[Record],
) -> list[Record]:
    """Returns the record of every step, compiled by XLA.

    Step `i + 1` starts from `states[i]`; the first from the initial values.
    """
    optimizer = make_optimizer()
    variables = make_variables(initial)

    @tf.function(jit_compile=True)
    def step(grads):
        optimizer.apply_gradients([(grads[k], variables[k]) for k in variables])

    records = []
    for state, grads in zip([{}, *states[:-1]], gradients, strict=True):
        for name, value in state.items():
            weights_by_name(variables, optimizer)[name].assign(value)
        step({name: as_tensor(grad) for name, grad in grads.items()})
        records.append(record(variables, optimizer))
    return records


@functools.cache
def legacy_eager_records(case: Case, dtype: str, kind: str) -> list[Record]:
    """What legacy computes eagerly."""
    return run_eagerly(
        lambda: case.build(LEGACY), *problem(str(case), dtype, kind)
    )


def kind_for(case: Case, dtype: str) -> str | None:
    """The richest kind of gradients that legacy takes for a dtype."""
    dense = dtype in case.option.dense
    sparse = dtype in case.option.sparse
    if dense and sparse:
        return "mixed"
    return "dense" if dense else "sparse" if sparse else None
