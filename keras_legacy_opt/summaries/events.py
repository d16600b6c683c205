"""Measures as TensorBoard reads them.

All of a step are written by one op: an op for each of some thousand numbers
costs more than measuring them.  TensorBoard itself need not be installed.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt.addons.selection import Selection
from keras_legacy_opt.summaries.measures import Measures, checked, measure

# A norm beyond this is reported: far from any that training recovers from.
THRESHOLD = 1e10
# What was warned of, by optimizer: (variable, slot) pairs.
_warned: weakref.WeakKeyDictionary[Any, set[tuple[str, str]]] = (
    weakref.WeakKeyDictionary()
)


def write(
    optimizer: Any,
    variables: Sequence[Any] | None = None,
    *,
    gradients: Sequence[Any] | None = None,
    before: Sequence[Any] | None = None,
    embeddings: Selection = None,
    threshold: float = THRESHOLD,
    step: Any = None,
) -> Measures:
    """Writes what `measure` measures, for TensorBoard.

    In a loop of your own, call it once in a while.  It writes to the default
    writer, as `tf.summary.scalar` does.

    >>> import glob, tempfile
    >>> var, opt = tf.Variable([1.0, 2.0], name="var"), keras_legacy_opt.Adam()
    >>> folder = tempfile.mkdtemp()
    >>> with tf.summary.create_file_writer(folder).as_default():
    ...     for step in range(200):
    ...         with tf.GradientTape() as tape:
    ...             loss = tf.reduce_sum(var ** 2)
    ...         gradients = tape.gradient(loss, [var])
    ...         before = [tf.identity(var)]
    ...         _ = opt.apply_gradients(zip(gradients, [var]))
    ...         if step % 100 == 99:
    ...             _ = keras_legacy_opt.summaries.write(
    ...                 opt, [var], gradients=gradients, before=before)
    >>> len(glob.glob(f"{folder}/events*"))
    1

    Args:
      optimizer: see `measure`.
      variables: see there.
      gradients: see there.
      before: see there.
      embeddings: see there.
      threshold: number; the first time that the norm of a variable or a slot is
        larger, or not finite, there is a `RuntimeWarning`.
      step: the step that TensorBoard shows; the optimizer's iterations if
        `None`.

    Returns:
      What was measured.

    Raises:
      ValueError: if `threshold` is no positive number.  For other errors see
        `measure`.
    """
    check_threshold(threshold)
    measures = measure(
        optimizer,
        variables,
        gradients=gradients,
        before=before,
        embeddings=embeddings,
    )
    put(measures, step)
    warn(checked(optimizer)[0], measures, threshold)
    return measures


def check_threshold(threshold: Any) -> None:
    """Raises ValueError unless it is a positive number."""
    if not isinstance(threshold, (int, float)) or not threshold > 0:
        raise ValueError(
            "`threshold` must be a positive number, the norm of a slot that is"
            f" too large. Received: threshold={threshold!r}."
        )


def put(measures: Measures, step: Any = None) -> None:
    """Writes measures to the default writer."""
    summary = summary_of(measures)
    tf.summary.experimental.write_raw_pb(
        summary.SerializeToString(), measures.step if step is None else step
    )


def warn(optimizer: Any, measures: Measures, threshold: float) -> None:
    """Warns of slots and variables that explode, once of each."""
    warned = _warned.setdefault(optimizer, set())
    for variable in measures.variables:
        norms = {name: slot.norm for name, slot in variable.slots.items()}
        for name, norm in {"": variable.norm, **norms}.items():
            # NaN compares to nothing.
            if norm <= threshold or (variable.name, name) in warned:
                continue
            warned.add((variable.name, name))
            what = f"slot {name!r} of variable" if name else "variable"
            warnings.warn(
                f"The {what} {variable.name!r} has the norm {norm:g} at step"
                f" {measures.step}, which is"
                f" {_excess(norm, threshold)}: training is probably lost. A"
                " smaller learning rate or `global_clipnorm` may help.",
                RuntimeWarning,
                stacklevel=3,
            )


def _excess(norm: float, threshold: float) -> str:
    if math.isfinite(norm):
        return f"more than the threshold of {threshold:g}"
    return "not finite"


def summary_of(measures: Measures) -> Any:
    """Measures as a protocol buffer of TensorFlow's."""
    summary = tf.compat.v1.Summary()
    for tag, number in _scalars(measures):
        _add(summary, tag, "scalars", tf.float32).float_val.append(number)
    for variable in measures.variables:
        for name, slot in variable.slots.items():
            tensor = _add(
                summary,
                f"slots/{variable.name}/{name}",
                "histograms",
                tf.float64,
            )
            for size in slot.histogram.shape:
                tensor.tensor_shape.dim.add(size=size)
            tensor.tensor_content = slot.histogram.astype("<f8").tobytes()
    return summary


def _scalars(measures: Measures) -> Iterator[tuple[str, float]]:
    for name, rate in measures.learning_rates.items():
        yield f"learning_rate/{name}", rate
    for variable in measures.variables:
        numbers = {
            "gradient_norm": variable.gradient_norm,
            "update_ratio": variable.update_ratio,
            "effective_learning_rate": variable.effective_learning_rate,
            "weight_norm": variable.norm,
        }
        if variable.rows and variable.dead_rows is not None:
            numbers["dead_rows"] = variable.dead_rows
            numbers["fraction_of_dead_rows"] = (
                variable.dead_rows / variable.rows
            )
        for what, number in numbers.items():
            if number is not None:
                yield f"{what}/{variable.name}", number
        for name, slot in variable.slots.items():
            yield f"slot_norm/{variable.name}/{name}", slot.norm


def _add(summary: Any, tag: str, plugin: str, dtype: tf.DType) -> Any:
    """Adds a value for a plugin of TensorBoard; returns its tensor, empty."""
    value = summary.value.add(tag=tag)
    value.metadata.plugin_data.plugin_name = plugin
    value.metadata.data_class = _CLASSES[plugin]
    value.tensor.dtype = dtype.as_datatype_enum
    return value.tensor


# Of `tensorboard.compat.proto.summary_pb2.DataClass`.
_CLASSES = {"scalars": 1, "histograms": 2}
