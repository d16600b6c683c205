"""What is measured of an optimizer: norms, ratios, histograms, dead rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.addons import selection, wrapper
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.state.variables import numbered, var_key
from keras_legacy_opt.step import watch
from keras_legacy_opt.summaries.probe import Target, probe_of


class SlotMeasures(NamedTuple):
    """What is measured of one slot.

    Attributes:
      norm: its L2 norm.
      histogram: float64 array of rows (left, right, count), of up to
        1024 of its elements, evenly spaced, and those of them that are finite.
        The counts are multiplied so that they are those of all elements.
    """

    norm: float
    histogram: np.ndarray


class VariableMeasures(NamedTuple):
    """What is measured of one variable; None where something is not known.

    Attributes:
      name: its path or name; where several variables of the optimizer have the
        same, the later ones have a number appended, as TensorFlow does.
      norm: its L2 norm.
      slots: its slots, by name.
      update_ratio: the norm of what the step added to the variable, divided by
        the norm that it had before; None if it was zero and is not any more.
      gradient_norm: the L2 norm of its gradient.
      effective_learning_rate: the norm of what the step added to the variable,
        divided by that of the gradient; None if that is zero.
      rows: the number of its rows, of an embedding.
      dead_rows: how many of them no step has ever updated.
    """

    name: str
    norm: float
    slots: Mapping[str, SlotMeasures]
    update_ratio: float | None = None
    gradient_norm: float | None = None
    effective_learning_rate: float | None = None
    rows: int | None = None
    dead_rows: int | None = None


class Measures(NamedTuple):
    """What is measured of an optimizer.

    Attributes:
      step: its iterations.
      learning_rates: those of the next step, scheduled and decayed, by the
        names of the optimizers that have one: of wrappers, of what is inside.
      variables: what is measured of each variable.
    """

    step: int
    learning_rates: Mapping[str, float]
    variables: Sequence[VariableMeasures]


def measure(
    optimizer: Any,
    variables: Sequence[Any] | None = None,
    *,
    gradients: Sequence[Any] | None = None,
    before: Sequence[Any] | None = None,
    embeddings: selection.Selection = None,
) -> Measures:
    """Measures the slots of an optimizer, and its last step.

    >>> var = tf.Variable([3.0, 4.0], name="var")
    >>> opt = keras_legacy_opt.SGD(0.25, momentum=0.9)
    >>> before, gradient = tf.identity(var), tf.constant([0.0, 2.0])
    >>> _ = opt.apply_gradients([(gradient, var)])
    >>> of_var = keras_legacy_opt.summaries.measure(
    ...     opt, [var], gradients=[gradient], before=[before]).variables[0]
    >>> of_var.slots["momentum"].norm, of_var.update_ratio
    (0.5, 0.1)
    >>> of_var.gradient_norm, of_var.effective_learning_rate
    (2.0, 0.25)

    Args:
      optimizer: an optimizer of this package, or around one: wrappers and loss
        scales are looked into.
      variables: list of variables; those that the optimizer has trained if
        `None`.
      gradients: list of as many gradients, dense or sparse, or `None`, of the
        step that was taken last.
      before: list of the values that the variables had before that step.
      embeddings: which variables are looked through for dead rows: patterns
        that are found in their names, or variables and layers, or a function of
        the variable.  If `None`, those that are called "embeddings" or had
        sparse gradients.

    Returns:
      The `Measures`.

    Raises:
      RuntimeError: in a `tf.function` or a TF1 graph.
      TypeError: if the optimizer is none of ours, or an argument no list.
      ValueError: if lists differ in length.
    """
    optimizers = checked(optimizer)
    variables = listed(optimizers[0], variables, "variables")
    gradients = _of_each(gradients, variables, "gradients")
    before = _of_each(before, variables, "before")
    norms, sparse = {}, set()
    for gradient, variable in zip(gradients or (), variables, strict=False):
        if gradient is not None:
            key = var_key(variable)
            norms[key] = float(watch.norm(gradient, variable))
            if isinstance(gradient, tf.IndexedSlices):
                sparse.add(key)
    which = selection.check(embeddings, "embeddings")
    return measured(optimizers, variables, norms, sparse, before, which)


def measured(
    optimizers: Sequence[Any],
    variables: Sequence[Any],
    gradient_norms: Mapping[str, float],
    sparse: set[str],
    before: Sequence[Any] | None,
    embeddings: selection.Selection,
) -> Measures:
    """Measures; of what is checked.

    Args:
      optimizers: as `checked` returns them.
      variables: `tf.Variable`s.
      gradient_norms: by the keys of variables, as far as they are known.
      sparse: the keys of variables that have sparse gradients.
      before: the values of all of them before the step.
      embeddings: see `measure`.
    """
    known = optimizers[0]._known_variables
    targets = []
    for variable in variables:
        has_rows = _is_embedding(known, variable, embeddings, sparse)
        targets.append(Target.of(optimizers, variable, has_rows))
    probe = probe_of(optimizers[0], targets)
    readings = probe.read(before)
    names = _names(known)
    found = []
    for target, reading in zip(targets, readings, strict=True):
        gradient_norm = gradient_norms.get(target.key)
        found.append(
            VariableMeasures(
                name=names[target.key],
                norm=reading.norm,
                slots={
                    slot.name: SlotMeasures(norm, histogram(sample, slot.size))
                    for slot, norm, sample in zip(
                        target.slots,
                        reading.slot_norms,
                        reading.samples,
                        strict=True,
                    )
                },
                update_ratio=_update_ratio(reading.change, reading.norm_before),
                gradient_norm=gradient_norm,
                effective_learning_rate=_ratio(reading.change, gradient_norm),
                rows=None if reading.dead_rows is None else target.rows,
                dead_rows=reading.dead_rows,
            )
        )
    step = int(optimizers[0].iterations.numpy())
    return Measures(step, _learning_rates(optimizers), found)


def checked(optimizer: Any) -> list[Any]:
    """The optimizers that are inside one, from outside to inside.

    Raises:
      RuntimeError: where values cannot be read.
      TypeError: if it is no optimizer of this package.
    """
    optimizers = wrapper.all_inside(optimizer)
    for each in optimizers:
        if not isinstance(each, Optimizer):
            raise TypeError(
                "`optimizer` must be an optimizer of keras_legacy_opt, or"
                f" around one. Received: {optimizer!r} of type"
                f" {type(optimizer).__name__}."
            )
    if not tf.executing_eagerly():
        raise RuntimeError(
            "Slots are measured in eager execution: call this after the"
            " `tf.function` that takes the step, not inside it."
        )
    return optimizers


def listed(optimizer: Any, variables: Any, argument: str) -> list[Any]:
    """The `tf.Variable`s that are given, or those that it has trained."""
    known = optimizer._known_variables
    if variables is None:
        variables = known.with_slots()
    if not isinstance(variables, (list, tuple)):
        raise TypeError(
            f"`{argument}` must be a list of variables. Received: {variables!r}"
            f" of type {type(variables).__name__}."
        )
    for variable in variables:
        # Of distributed variables, `handle` raises here.
        if not isinstance(
            hosts.unwrap(variable), tf.distribute.DistributedValues
        ) and not hasattr(hosts.unwrap(variable), "handle"):
            raise TypeError(
                f"`{argument}` must be a list of variables. Received, among"
                f" them: {variable!r} of type {type(variable).__name__}."
            )
    return [known.unwrap(variable) for variable in variables]


def _of_each(
    values: Any, variables: Sequence[Any], argument: str
) -> Sequence[Any] | None:
    if values is None:
        return None
    if not isinstance(values, (list, tuple)):
        raise TypeError(
            f"`{argument}` must be a list, of one for each variable. Received:"
            f" {values!r} of type {type(values).__name__}."
        )
    if len(values) != len(variables):
        raise ValueError(
            f"`{argument}` must have one for each of the variables. Received:"
            f" {len(values)} for {len(variables)} variables."
        )
    return values


def _is_embedding(
    known: Any,
    variable: Any,
    embeddings: selection.Selection,
    sparse: set[str],
) -> bool:
    if embeddings is not None:
        return selection.selects(embeddings, known, variable)
    return var_key(variable) in sparse or known.name(variable).rstrip(
        "_0123456789"
    ).endswith("embeddings")


def _learning_rates(optimizers: Sequence[Any]) -> dict[str, float]:
    rates = {}
    for each in optimizers:
        if "learning_rate" in each._hyper:
            rates[numbered(each._name, rates)] = float(
                each._decayed_lr(tf.float32)
            )
    return rates


def _names(known: Any) -> dict[str, str]:
    """The names of all variables, by their keys, each another one.

    Of one name, all but the first that the optimizer has seen get a number.
    """
    variables = {var_key(hosts.unwrap(v)): v for v in known.all()}
    names: dict[str, str] = {}
    used: dict[str, None] = {}
    for key, variable in variables.items():
        names[key] = numbered(hosts.path_of(variable), used)
        used[names[key]] = None
    return names


def _update_ratio(change: float | None, before: float | None) -> float | None:
    return 0.0 if change == 0.0 else _ratio(change, before)


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    if numerator is None or not denominator:
        return None
    return numerator / denominator


# As many as TensorBoard's own histograms have.
_BUCKETS = 30
_EDGES = np.arange(_BUCKETS + 1) / _BUCKETS


def histogram(sample: np.ndarray, size: int) -> np.ndarray:
    """The histogram of a sample of `size` elements; see `SlotMeasures`."""
    weight = size / max(len(sample), 1)
    finite = np.isfinite(sample)
    sample = np.asarray(sample if finite.all() else sample[finite], np.float64)
    if not len(sample):
        return np.zeros([0, 3])
    low, high = sample.min(), sample.max()
    width = high - low
    if width == 0.0:  # TensorBoard, too, has all in the last bucket then.
        numbers = np.full(len(sample), _BUCKETS - 1)
    else:
        numbers = ((sample - low) * (_BUCKETS / width)).astype(np.int64)
        np.minimum(numbers, _BUCKETS - 1, out=numbers)
    edges = low + _EDGES * width
    counts = np.bincount(numbers, minlength=_BUCKETS) * weight
    return np.stack([edges[:-1], edges[1:], counts], axis=1)
