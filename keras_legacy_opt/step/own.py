"""What one variable has of its own in a step, beside what all have in common.

A factor of the learning rate, decoupled weight decay, an average of its values.
An optimizer is asked for it by one hook; where nobody has anything to say, it
costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_legacy_opt.step import gradients

# Function from a variable to the variable that has its average, and the weight
# of a new value in it; None if there is none.
Averaging = Callable[[Any], tuple[Any, Any] | None]


class Own(NamedTuple):
    """What one variable has of its own; of what is None it has nothing.

    Numbers may be scalar tensors of any float dtype.

    Attributes:
      lr_factor: number that its learning rate is multiplied by.
      decay: fraction of the variable that is subtracted from it before its
        update; of a sparse gradient, in the rows that it has.
      decays_all_rows: whether a sparse gradient decays those, too, that it has
        not.
      average: variable beside it, on its device and of its shape and dtype,
        which after the update, and the constraint, moves towards it.
      average_weight: number, by which fraction of their difference.
      coefficients: values of the step's coefficients that are other than those
        of other variables.
    """

    lr_factor: Any = None
    decay: Any = None
    decays_all_rows: bool = False
    average: Any = None
    average_weight: Any = None
    coefficients: Mapping[str, Any] = {}

    def scales(self) -> bool:
        """Whether the step has other coefficients for this variable."""
        return self.lr_factor is not None or bool(self.coefficients)


NOTHING = Own()


class OwnMixin:
    """The part of an optimizer that is asked what a variable has of its own.

    Attributes:
      _averaging: set by a wrapper that keeps averages of the variables: the
        step moves them, with its updates where these can do that.
    """

    _averaging: Averaging | None

    def _own_of(self, variable: Any, apply_state: Any) -> Own | None:
        """What a variable has of its own in a step; for subclasses to override.

        Args:
          variable: a `tf.Variable`, on one device.
          apply_state: the result of `_prepare`, or None.
        """
        del variable, apply_state

    def _own_depends_on(self) -> list[Any] | None:
        """What `_own_of` answers by, for subclasses that override that.

        Returns:
          Objects: as long as they are the same, so are the answers, but for the
          coefficients in them. None: nobody knows.
        """


def depends_on(optimizer: OwnMixin) -> list[Any] | None:
    """What says which variables have what of their own; None: nobody knows."""
    if not may_exist(optimizer):
        return []
    return optimizer._own_depends_on()


def kind_of(own: Own) -> tuple[Any, ...]:
    """What variables have in common whose own values are the same in a step."""
    return own.lr_factor, own.decay is None


def may_exist(optimizer: OwnMixin) -> bool:
    """Whether variables of an optimizer may have something of their own."""
    method = getattr(optimizer._own_of, "__func__", None)
    return method is not OwnMixin._own_of or optimizer._averaging is not None


def of(optimizer: OwnMixin, variable: Any, apply_state: Any) -> Own:
    """What a variable has of its own."""
    own = optimizer._own_of(variable, apply_state) or NOTHING
    average = optimizer._averaging and optimizer._averaging(variable)
    if average:
        own = own._replace(average=average[0], average_weight=average[1])
    return own


def run(
    updates: Sequence[Any],
    takes_own: bool,
    update: Callable[[Sequence[Any]], Any],
) -> Any:
    """Runs updates on one device, then their constraints.

    Args:
      updates: `Update`s; their `own` says what comes before and after.
      takes_own: whether `update` does that itself, where there is no constraint
        in between.
      update: function of the updates, returns an operation.

    Returns:
      The operation, in functions and graphs.
    """
    before, handed, after = [], [], []
    for each in updates:
        own = each.own
        if own is NOTHING:
            handed.append(each)
            continue
        if own.decay is not None and not (
            takes_own and not (each.is_sparse and own.decays_all_rows)
        ):
            before.append(decay(each))
            own = own._replace(decay=None)
        if own.average is not None and not (
            takes_own and each.constraint is None
        ):
            after.append(each)
            own = own._replace(average=None, average_weight=None)
        handed.append(each._replace(own=own))
    with tf.control_dependencies(before):
        op = update(handed)
    for each in updates:
        if each.constraint is not None:
            with tf.control_dependencies([op]):
                op = each.variable.assign(each.constraint(each.variable))
    if not after:
        return op
    with tf.control_dependencies([op]):
        return tf.group(*map(average, after))


def decay(update: Any) -> Any:
    """Subtracts from a variable what decays of it."""
    variable = update.variable
    fraction = tf.cast(update.own.decay, variable.dtype.base_dtype)
    if not update.is_sparse or update.own.decays_all_rows:
        return variable.assign_sub(
            fraction * variable.read_value(), read_value=False
        )
    indices = gradients.unique(
        update.gradient.indices, gradients.rows_of(variable)
    )
    return tf.raw_ops.ResourceScatterAdd(
        resource=variable.handle,
        indices=indices,
        updates=-fraction * tf.gather(variable, indices),
    )


def average(update: Any) -> Any:
    """Moves the average of a variable."""
    own, variable = update.own, update.variable
    weight = tf.cast(own.average_weight, variable.dtype.base_dtype)
    difference = own.average.read_value() - variable.read_value()
    return own.average.assign_sub(difference * weight, read_value=False)
