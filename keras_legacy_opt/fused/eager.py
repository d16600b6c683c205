"""The eager step of variables that the optimizer has updated before.

For many small variables an eager step costs what Python does per variable. What
cannot have changed since the last step is remembered: which variables these
are, that one native op takes all of them, and where their slots are. That op
has one input for all variables and slots, because each input of an eager op
costs more than a microsecond. A step that this does not cover goes the long
way, which yields the same.
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_legacy_opt import distribution, gradients, private_api
from keras_legacy_opt.fused import clip, plan, policy
from keras_legacy_opt.keras_3_api import overwritten_with_gradient

# What the short way leaves out or calls on its own terms: a class that has its
# own idea of one of these takes the long way.
_STEPS = (
    "_assert_valid_dtypes",
    "_valid_dtypes",
    "_create_all_weights",
    "_create_slots",
    "_prepare",
    "_transform_unaggregated_gradients",
    "_aggregate_gradients",
    "_transform_gradients",
    "_distributed_apply",
)


class _Memory(NamedTuple):
    """What is known of a list of variables.

    Attributes:
      given: the variables, as the caller has them.
      first: weak reference to one of the `tf.Variable`s; all are on its device
        and of its dtype.
      group: the handle of the native `VariableGroup` of the variables and their
        slots; None if these variables must take the long way.
    """

    given: list[weakref.ref[Any]]
    first: Any
    group: tf.Tensor | None


_memories: weakref.WeakKeyDictionary[Any, _Memory | None] = (
    weakref.WeakKeyDictionary()
)


def step(
    optimizer: Any,
    grads_and_vars: Sequence[Any],
    scaling: clip.Scaling = clip.UNSCALED,
) -> Any:
    """Takes the step the short way, if that is possible.

    Args:
      optimizer: the optimizer.
      grads_and_vars: as given by the caller, and not checked yet.
      scaling: how the gradients are scaled.

    Returns:
      The optimizer's iterations, or None if nothing was done.
    """
    if not _applies(optimizer):
        return None
    try:
        grads, variables = zip(*grads_and_vars, strict=True)
    except (TypeError, ValueError):
        return None  # Malformed, or empty.
    memory = _memories.get(optimizer)
    if memory is None or not _is_of(memory, variables):
        _memories[optimizer] = _remember(optimizer, variables)
        return None  # This once: the long way checks everything.
    if memory.group is None or set(map(type, grads)) != {type(memory.group)}:
        return None
    first = memory.first()
    apply_state = optimizer._prepare([first])
    formula = policy.dense_formula(optimizer)
    try:
        with tf.device(first.device):
            plan.call_group(
                optimizer,
                formula,
                memory.group,
                grads,
                first,
                apply_state,
                clip.scaling_alone(scaling, first.dtype),
            )
    except (tf.errors.OpError, TypeError, ValueError):
        # The op checks all before it changes any: the long way finds the same
        # mistake, and has the words for it.
        return None
    return optimizer.iterations.assign_add(1)


def knows(optimizer: Any, grads_and_vars: Sequence[Any]) -> bool:
    """Whether `step` takes these gradients, however they are scaled."""
    memory = _memories.get(optimizer)
    if memory is None or memory.group is None or not _applies(optimizer):
        return False
    try:
        grads, variables = zip(*grads_and_vars, strict=True)
    except (TypeError, ValueError):
        return False
    return (
        _is_of(memory, variables)
        and memory.first().dtype in (tf.float32, tf.float64)
        and set(map(type, grads)) == {type(memory.group)}
    )


def _applies(optimizer: Any) -> bool:
    return (
        tf.executing_eagerly()
        and distribution.current_strategy() is None
        and policy.ops() is not None
        and policy.dense_formula(optimizer) is not None
        and policy.is_own(type(optimizer), _STEPS)
        and optimizer.gradient_aggregator is gradients.all_reduce_sum
        and not optimizer.gradient_transformers
        and optimizer.clipvalue is None
        and optimizer.clipnorm is None
        and optimizer.global_clipnorm is None
        and optimizer.loss_scale_factor is None
        and optimizer.built
        and optimizer._pending_weights is None
    )


def _is_of(memory: _Memory, variables: Sequence[Any]) -> bool:
    return len(memory.given) == len(variables) and all(
        map(operator.is_, map(_dereferenced, memory.given), variables)
    )


_dereferenced = weakref.ref.__call__


def _remember(optimizer: Any, given: Sequence[Any]) -> _Memory | None:
    """What is known of these variables, or None before they have slots."""
    known = optimizer._known_variables
    try:
        references = [weakref.ref(variable) for variable in given]
        variables = [known.unwrap(variable) for variable in given]
        if not _fit_one_op(optimizer, given, variables):
            return _Memory(references, None, None)
        formula = policy.dense_formula(optimizer)
        slots = [
            [optimizer.get_slot(variable, slot) for variable in variables]
            for slot in formula.slots
        ]
    except (AttributeError, KeyError, TypeError):
        return None  # One has no slots yet, or is no variable.
    first = variables[0]
    with tf.device(first.device):
        group = policy.ops().variable_group(
            [v.handle for v in itertools.chain(variables, *slots)]
        )
    return _Memory(references, weakref.ref(first), group)


def _fit_one_op(
    optimizer: Any, given: Sequence[Any], variables: Sequence[Any]
) -> bool:
    """Whether one native op updates all, given dense gradients for all."""
    kinds = {
        (private_api.devices_of(variable), variable.dtype.base_dtype)
        for variable in variables
    }
    return (
        len(kinds) == 1
        and len(set(map(id, variables))) == len(variables)
        and all(policy.updates(optimizer, None, v) for v in variables)
        and not any(map(overwritten_with_gradient, given))
    )
