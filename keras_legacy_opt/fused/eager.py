"""The eager step of variables that the optimizer has updated before.

For many small variables an eager step costs what Python does per variable. What
cannot have changed since the last step is remembered: which variables these
are, that native ops take all of them, and where their slots are. A step that
this does not cover goes the long way, which yields the same.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_legacy_opt import distribution, gradients, private_api
from keras_legacy_opt.fused import formulas, plan, policy
from keras_legacy_opt.keras_3_api import overwritten_with_gradient

GradsAndVars = Sequence[tuple[Any, Any]]

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


class _Group(NamedTuple):
    """Variables on one device and of one dtype.

    Attributes:
      places: their positions in the step's list.
      handles_of_slots: for each slot, the handles for all variables.
    """

    places: list[int]
    handles_of_slots: list[list[Any]]


class _Memory(NamedTuple):
    """What is known of a list of variables; no groups: take the long way."""

    given: list[weakref.ref[Any]]
    variables: list[weakref.ref[Any]]
    dtypes: list[tf.DType]
    shapes: list[tf.TensorShape]
    groups: list[_Group]


_memories: weakref.WeakKeyDictionary[Any, _Memory | None] = (
    weakref.WeakKeyDictionary()
)


def step(optimizer: Any, grads_and_vars: GradsAndVars) -> Any:
    """Takes the step the short way, if that is possible.

    Returns:
      The optimizer's iterations, or None if nothing was done.
    """
    if not _applies(optimizer):
        return None
    memory = _memories.get(optimizer)
    if memory is None or not _is_of(memory, grads_and_vars):
        _memories[optimizer] = _remember(optimizer, grads_and_vars)
        return None  # This once: the long way checks everything.
    if not memory.groups:
        return None
    grads = [grad for grad, _ in grads_and_vars]
    eager_tensor = type(optimizer.iterations.handle)
    for grad, dtype, shape in zip(
        grads, memory.dtypes, memory.shapes, strict=True
    ):
        if (
            type(grad) is not eager_tensor
            or grad.dtype is not dtype
            or grad.shape != shape
        ):
            return None
    variables = [reference() for reference in memory.variables]
    firsts = [variables[group.places[0]] for group in memory.groups]
    apply_state = optimizer._prepare(firsts)
    formula = policy.dense_formula(optimizer)
    for group, first in zip(memory.groups, firsts, strict=True):
        with tf.device(first.device):
            plan.call_dense(
                optimizer,
                formula,
                [
                    [variables[place].handle for place in group.places],
                    *group.handles_of_slots,
                ],
                [grads[place] for place in group.places],
                first,
                apply_state,
            )
    return optimizer.iterations.assign_add(1)


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


def _is_of(memory: _Memory, grads_and_vars: GradsAndVars) -> bool:
    return len(memory.given) == len(grads_and_vars) and all(
        reference() is variable
        for reference, (_, variable) in zip(
            memory.given, grads_and_vars, strict=True
        )
    )


def _remember(optimizer: Any, grads_and_vars: GradsAndVars) -> _Memory | None:
    """What is known of these variables, or None before they have slots."""
    given = [variable for _, variable in grads_and_vars]
    known = optimizer._known_variables
    variables = [known.unwrap(variable) for variable in given]
    if len(set(map(id, variables))) < len(variables) or not all(
        policy.updates(optimizer, None, unwrapped)
        and not overwritten_with_gradient(variable)
        for unwrapped, variable in zip(variables, given, strict=True)
    ):
        return _Memory([weakref.ref(v) for v in given], [], [], [], [])
    formula = policy.dense_formula(optimizer)
    try:
        return _Memory(
            given=[weakref.ref(variable) for variable in given],
            variables=[weakref.ref(variable) for variable in variables],
            dtypes=[variable.dtype.base_dtype for variable in variables],
            shapes=[variable.shape for variable in variables],
            groups=_groups(optimizer, formula, variables),
        )
    except KeyError:
        return None  # One has no slots yet.


def _groups(
    optimizer: Any, formula: formulas.Formula, variables: list[Any]
) -> list[_Group]:
    def kind(place: int) -> tuple[str, str]:
        variable = variables[place]
        devices = private_api.devices_of(variable)
        return str(devices), variable.dtype.base_dtype.name

    places = sorted(range(len(variables)), key=kind)
    return [
        _Group(
            members := list(group),
            [
                [optimizer.get_slot(variables[m], s).handle for m in members]
                for s in formula.slots
            ],
        )
        for _, group in itertools.groupby(places, kind)
    ]
