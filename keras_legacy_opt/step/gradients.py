"""What happens to gradients before an update: check, sum, deduplicate."""

from __future__ import annotations

import collections
import enum
import graphlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from keras_legacy_opt import errors, hosts, private_api

Gradient = tf.Tensor | tf.IndexedSlices | None
GradsAndVars = Sequence[tuple[Any, Any]]


def listed(grads_and_vars: Iterable[Any]) -> list[Any]:
    """`grads_and_vars` as a list, whose items are not checked.

    Raises:
      TypeError: if it is not an iterable of pairs.
    """
    if isinstance(grads_and_vars, (tf.Tensor, tf.Variable, dict, str)):
        raise TypeError(_malformed(grads_and_vars))
    try:
        return list(grads_and_vars)
    except TypeError:
        raise TypeError(_malformed(grads_and_vars)) from None


def pairs(items: Sequence[Any]) -> list[tuple[Gradient, Any]]:
    """`items` as checked (gradient, variable) pairs.

    Variables come back as they were given (perhaps a `keras.Variable`).

    Raises:
      TypeError: if one is no pair, or holds anything but a gradient and a
        variable.
      NotImplementedError: if the second of a pair is a tensor.
    """
    for item in items:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise TypeError(_malformed(item))
        _check_variable(item[1])
    return [(gradient, variable) for gradient, variable in items]


def _malformed(received: Any) -> str:
    return (
        "`grads_and_vars` must be an iterable of (gradient, variable) pairs,"
        " such as zip(gradients, variables). Received:"
        f" {_shortened(received)} of type {type(received).__name__}."
    )


def _shortened(value: Any) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 80 else text[:77] + "..."


def _check_variable(variable: Any) -> None:
    if isinstance(variable, tf.Variable) or hosts.is_keras_variable(variable):
        return
    if isinstance(variable, tf.Tensor):
        raise NotImplementedError(
            "Updating a `Tensor` is not implemented, only variables can be"
            " updated: pass the tf.Variable itself, not its value, and keep the"
            f" order (gradient, variable). Received: {_shortened(variable)}."
        )
    # Strategies have variables that are no subclasses of tf.Variable.
    if not (hasattr(variable, "assign") and hasattr(variable, "dtype")):
        raise TypeError(
            "The second of each (gradient, variable) pair must be a variable."
            f" Received: {_shortened(variable)} of type"
            f" {type(variable).__name__}."
        )


def fitted(gradient: Any, variable: tf.Variable, name: str) -> Any:
    """`gradient` as a tensor that fits `variable`.

    Raises:
      GradientDtypeError: (an InvalidArgumentError and TypeError) if the dtypes
        differ.
      GradientShapeError: (an InvalidArgumentError and ValueError) if the shapes
        are known not to fit.
    """
    dtype = _dtype_of(variable)
    if isinstance(gradient, tf.IndexedSlices):
        if not all(
            isinstance(part, tf.Tensor)
            for part in (gradient.values, gradient.indices)
        ):
            gradient = tf.IndexedSlices(
                tf.convert_to_tensor(gradient.values, dtype),
                tf.convert_to_tensor(gradient.indices),
                gradient.dense_shape,
            )
        values, shape = gradient.values, variable.shape[1:]
        given = values.shape[1:]
        if variable.shape.rank == 0 or values.shape.rank == 0:
            raise errors.GradientShapeError(
                f"The gradient of variable {name!r} is sparse (IndexedSlices),"
                f" but the variable has shape {variable.shape}: sparse"
                " gradients update rows, and need at least one dimension."
            )
        _check_indices(gradient, variable, name)
    else:
        if not isinstance(gradient, tf.Tensor):
            gradient = tf.convert_to_tensor(gradient, dtype)
        values, shape, given = gradient, _shape_of(variable), gradient.shape
    if values.dtype.base_dtype != dtype:
        raise errors.GradientDtypeError(
            f"The gradient of variable {name!r} has dtype"
            f" {values.dtype.name}, but the variable has dtype {dtype.name}:"
            " cast the gradient."
        )
    if not shape.is_compatible_with(given):
        raise errors.GradientShapeError(
            f"The gradient of variable {name!r} has shape {values.shape}"
            f"{' (rows)' if values is not gradient else ''}, which does not fit"
            f" the variable's shape {variable.shape}."
        )
    return gradient


def _shape_of(variable: tf.Variable) -> tf.TensorShape:
    """The shape; of a variable that may change its own, the present one."""
    shape = variable.shape
    if shape.is_fully_defined() or not tf.executing_eagerly():
        return shape
    return variable.read_value().shape


def _check_indices(
    gradient: tf.IndexedSlices, variable: tf.Variable, name: str
) -> None:
    """Checks what TensorFlow's ops would find after other updates were done.

    Raises:
      GradientDtypeError: if they are no integers.
      GradientShapeError: if there is not one index for each row of values.
      InvalidArgumentError: if a CPU has them, and one is out of range.
    """
    indices, rows = gradient.indices, gradient.values.shape[:1]
    if indices.dtype not in (tf.int32, tf.int64):
        raise errors.GradientDtypeError(
            f"The sparse gradient of variable {name!r} has indices of dtype"
            f" {indices.dtype.name}: cast them to int32 or int64."
        )
    if not indices.shape.is_compatible_with(rows):
        raise errors.GradientShapeError(
            f"The sparse gradient of variable {name!r} of shape"
            f" {variable.shape} has values of shape {gradient.values.shape} and"
            f" indices of shape {indices.shape}: it needs one index for each"
            " row of values."
        )
    if tf.is_symbolic_tensor(indices) or not indices.device.endswith("CPU:0"):
        return
    numbers, rows = indices.numpy(), _shape_of(variable)[0]
    if rows is None or not numbers.size:
        return
    if numbers.min() < 0 or numbers.max() >= rows:
        bad = np.flatnonzero((numbers < 0) | (numbers >= rows))[0]
        raise tf.errors.InvalidArgumentError(
            None,
            None,
            f"The sparse gradient of variable {name!r} has index"
            f" {numbers[bad]} at position {bad}, which is not in [0, {rows})."
            " Nothing was changed.",
        )


def filter_empty(
    grads_and_vars: GradsAndVars, name_of: Callable[[Any], str]
) -> tuple[tuple[Any, Any], ...]:
    """The pairs that have a gradient; warns of the others, by name.

    Raises:
      ValueError: if there are pairs, and none has a gradient.
    """
    kept = tuple(pair for pair in grads_and_vars if pair[0] is not None)
    if len(kept) == len(grads_and_vars):
        return kept
    missing = [name_of(v) for g, v in grads_and_vars if g is None]
    if not kept:
        raise ValueError(
            f"No gradients provided for any variable: {missing}. Does the loss"
            " depend on them, and was it computed inside the"
            " tf.GradientTape?"
        )
    logging.warning(
        "Gradients do not exist for variables %s when minimizing the loss. If"
        " you're using `model.compile()`, did you forget to provide a `loss`"
        " argument?",
        missing,
    )
    return kept


def completed(
    grads_and_vars: GradsAndVars, key_of: Callable[[Any], Any]
) -> GradsAndVars:
    """The pairs of this replica, as those of all replicas are to be summed.

    The replicas of a process agree on the variables that any of them has a
    gradient of, in one order; where only some have one, the others add zeros.
    Where one has a dense gradient, the sparse ones of others become dense, too.
    They agree where Python calls this: for a `tf.function`, in its trace.

    Args:
      grads_and_vars: checked pairs of this replica.
      key_of: function from a variable to what tells it from all others.
    """
    strategy = tf.distribute.get_strategy()
    if (
        not tf.distribute.has_strategy()
        or private_api.strategy_supports_no_merge_call()
        or len(strategy.extended.worker_devices) < 2
    ):
        return grads_and_vars
    counts = collections.Counter()
    own = {}
    for gradient, variable in grads_and_vars:
        key = key_of(variable)
        own[key, counts[key]] = (gradient, variable)
        counts[key] += 1
    context = tf.distribute.get_replica_context()
    union = context.merge_call(_union, args=(_Pairs(own),))
    if union is None:
        return grads_and_vars
    pairs = []
    for key, (example, variable) in union.by_key.items():
        gradient, variable = own.get(key, (None, variable))
        if _kind(gradient) != _kind(example):
            gradient = _like(example, gradient, hosts.unwrap(variable))
        pairs.append((gradient, variable))
    return pairs


class _Kind(enum.IntEnum):
    """Of a gradient; the greatest of a variable's is what its sum is."""

    MISSING = 0
    SPARSE = 1
    DENSE = 2


def _kind(gradient: Any) -> _Kind:
    if gradient is None:
        return _Kind.MISSING
    sparse = isinstance(gradient, tf.IndexedSlices)
    return _Kind.SPARSE if sparse else _Kind.DENSE


class _Pairs:
    """Pairs that `merge_call` hands over as one object.

    Attributes:
      by_key: {(key of a variable, how often it came before): pair}
    """

    def __init__(self, by_key: dict[Any, tuple[Any, Any]]):
        self.by_key = by_key


@tf.autograph.experimental.do_not_convert
def _union(strategy: tf.distribute.Strategy, pairs: Any) -> _Pairs | None:
    """For each variable a pair of the replica whose gradient the sum is like.

    Returns:
      None if all replicas have the same kinds of gradients of the same
      variables.
    """
    replicas = [
        each.by_key for each in strategy.experimental_local_results(pairs)
    ]
    kinds = [[(k, _kind(g)) for k, (g, _) in r.items()] for r in replicas]
    if all(each == kinds[0] for each in kinds):
        return None
    return _Pairs(
        {
            key: max(
                (replica[key] for replica in replicas if key in replica),
                key=lambda pair: _kind(pair[0]),
            )
            for key in _in_one_order(replicas)
        }
    )


def _in_one_order(lists: Sequence[Iterable[Any]]) -> list[Any]:
    """All keys of `lists`, which may lack some, in the order that these have.

    Where that leaves a choice, or they contradict each other, it is the order
    in which the variables were created: never does it matter which list lacks
    a key.
    """

    def rank(key: tuple[str, int]) -> tuple[Any, ...]:
        return (private_api.creation_number(key[0]), *key)

    sorter = graphlib.TopologicalSorter({k: () for keys in lists for k in keys})
    for keys in lists:
        for before, key in itertools.pairwise(keys):
            sorter.add(key, before)
    try:
        sorter.prepare()
    except graphlib.CycleError:
        return sorted({key for keys in lists for key in keys}, key=rank)
    order, ready = [], []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=rank)
        order.append(ready.pop(0))
        sorter.done(order[-1])
    return order


def _like(example: Any, gradient: Any, variable: tf.Variable) -> Any:
    """`gradient`, or zeros for None: dense or sparse, as `example` is.

    Nothing of `example` but its kind is used: it is another replica's.
    """
    shape, dtype = _shape_to_fill(variable), _dtype_of(variable)
    if _kind(example) is _Kind.SPARSE:
        return tf.IndexedSlices(
            tf.zeros(tf.concat([[0], shape[1:]], 0), dtype),
            tf.zeros([0], tf.convert_to_tensor(example.indices).dtype),
            None
            if example.dense_shape is None
            else tf.convert_to_tensor(shape),
        )
    if gradient is None:
        return tf.zeros(shape, dtype)
    if variable.shape.rank == 0:
        return gradient  # To be refused.
    return tf.math.unsorted_segment_sum(
        tf.convert_to_tensor(gradient.values),
        tf.convert_to_tensor(gradient.indices),
        shape[0],
    )


def _shape_to_fill(variable: tf.Variable) -> Any:
    """The static shape, or a tensor where that is not known."""
    shape = variable.shape
    return shape if shape.is_fully_defined() else tf.shape(variable)


def _dtype_of(variable: tf.Variable) -> tf.DType:
    """Of the value; tf_keras' AutoCastVariable reports what it casts to."""
    return getattr(variable, "true_dtype", variable.dtype).base_dtype


def all_reduce_sum(grads_and_vars: GradsAndVars) -> list[tuple[Any, Any]]:
    """Sums each gradient over the replicas; `None` stays `None`.

    This is the default `gradient_aggregator` of an optimizer.
    """
    grads_and_vars = list(grads_and_vars)
    present = [(g, v) for g, v in grads_and_vars if g is not None]
    if not present or not tf.distribute.has_strategy():
        return grads_and_vars
    context = tf.distribute.get_replica_context()
    if private_api.strategy_supports_no_merge_call():
        reduced = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [g for g, _ in present]
        )
    else:
        reduced = context.merge_call(_batch_reduce_sum, args=(present,))
    sums = iter(reduced)
    return [(None if g is None else next(sums), v) for g, v in grads_and_vars]


def _batch_reduce_sum(
    strategy: tf.distribute.Strategy, grads_and_vars: GradsAndVars
) -> Any:
    return strategy.extended.batch_reduce_to(
        tf.distribute.ReduceOp.SUM, grads_and_vars
    )


def values_of(gradient: Any) -> tf.Tensor:
    """The elements of a gradient that are not known to be zero."""
    if isinstance(gradient, tf.IndexedSlices):
        return gradient.values
    return gradient


def divide(gradient: Any, divisor: Any) -> Any:
    """`gradient / divisor`, for a tensor or `IndexedSlices`."""
    divisor = tf.cast(divisor, gradient.dtype)
    return _with_values(gradient, values_of(gradient) / divisor)


def multiply(gradient: Any, factor: Any) -> Any:
    """`gradient * factor`, for a tensor or `IndexedSlices`."""
    factor = tf.cast(factor, gradient.dtype)
    return _with_values(gradient, values_of(gradient) * factor)


def _with_values(gradient: Any, values: tf.Tensor) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return values


def deduplicate(
    values: tf.Tensor, indices: tf.Tensor, rows: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Sums the `values` of equal `indices`, in their order.

    Args:
      values: tensor of shape [n, ...].
      indices: integer tensor of shape [n].
      rows: the number of rows of the variable that the indices point into.

    Returns:
      (summed values, unique indices).  In a function compiled by XLA, where
      shapes are static, both keep length n; the surplus indices are `rows`,
      out of range, where XLA's scatter drops them.
    """
    if not private_api.compiled_by_xla():
        unique, positions = tf.unique(indices)
        count = tf.shape(unique)[0]
        return tf.math.unsorted_segment_sum(values, positions, count), unique
    count = tf.shape(indices)[0]
    order = tf.argsort(indices, stable=True)
    indices = tf.gather(indices, order)
    changes = tf.not_equal(indices[1:], indices[:-1])
    starts = tf.concat([[True], changes], 0)[:count]
    positions = tf.cumsum(tf.cast(starts, tf.int32)) - 1
    summed = tf.math.unsorted_segment_sum(
        tf.gather(values, order), positions, count
    )
    unique = tf.tensor_scatter_nd_update(
        tf.fill([count], tf.cast(rows, indices.dtype)),
        positions[:, tf.newaxis],
        indices,
    )
    return summed, unique


def unique(indices: tf.Tensor, rows: Any) -> tf.Tensor:
    """The indices without repetitions, as `deduplicate` returns them."""
    return deduplicate(tf.zeros_like(indices), indices, rows)[1]


def rows_where(condition: tf.Tensor, value: tf.Tensor) -> tf.IndexedSlices:
    """Some rows of a tensor; in XLA all, the others as in `deduplicate`."""
    shape = tf.shape(value)
    if private_api.compiled_by_xla():
        count = tf.cast(shape[0], tf.int64)
        rows = tf.where(condition, tf.range(count), count)
    else:
        rows = tf.where(condition)[:, 0]
        value = tf.gather(value, rows)
    return tf.IndexedSlices(value, rows, shape)


def with_unique_rows(step: Any, update: Any) -> Any:
    """An update of a step whose sparse gradient has no row twice.

    Unless its formula applies them one after the other.
    """
    if not update.is_sparse or not step.declared.sums_duplicates:
        return update
    gradient = update.gradient
    values, indices = deduplicate(
        gradient.values, gradient.indices, rows_of(update.variable)
    )
    return update._replace(gradient=tf.IndexedSlices(values, indices))


def rows_of(variable: Any) -> Any:
    """The number of rows of a variable."""
    return variable.shape[0] or tf.shape(variable)[0]
