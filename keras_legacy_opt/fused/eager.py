"""The eager step of variables that the optimizer has updated before.

For many small variables an eager step costs what Python does per variable. What
cannot have changed since the last step is remembered: which variables these
are, that one native op takes all of them, and where their slots are. That op
has one input for all variables and slots, because each input of an eager op
costs more than a microsecond. The coefficients of a step, twenty ops on
scalars, come from one function after some steps. A step that this does not
cover goes the long way, which yields the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_legacy_opt import distribution, gradients, originals, private_api
from keras_legacy_opt.fused import clip, formulas, groups, plan, policy

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
# What the coefficients of a step are made by.
_COEFFICIENTS = ("_prepare", "_prepare_local", "_decayed_lr", "_get_hyper")
# A trace costs as much as it saves in about as many steps.
TRACE_AFTER = 100


class _Coefficients:
    """The coefficients of a step, for one device and dtype.

    They are traced when they were computed many times without a change of
    anything that a trace would not notice, and anew after such a change.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._settings: Any = None
        self._variables: list[Any] = []
        self._function: Any = None

    def next(
        self, optimizer: Any, formula: formulas.Formula, variable: Any
    ) -> list[tf.Tensor]:
        """What `plan.call_group` takes for this step, which is counted."""
        variables = [*optimizer._hyper.values(), optimizer.iterations]
        settings = (
            formula,
            tuple(map(id, variables)),
            [v for v in vars(optimizer).values() if isinstance(v, _PLAIN)],
        )
        if settings != self._settings:
            self._settings, self._variables = settings, variables
            self._steps, self._function = 0, None
        self._steps += 1
        if self._function is None:
            if self._steps <= TRACE_AFTER or not self._traceable(optimizer):
                return _counted_coefficients(optimizer, formula, variable)
            # A strong reference to either would keep it alive.
            references = weakref.ref(optimizer), weakref.ref(variable)

            @tf.function(autograph=False)
            def function() -> list[tf.Tensor]:
                optimizer, variable = (r() for r in references)
                return _counted_coefficients(optimizer, formula, variable)

            self._function = function.get_concrete_function()
        return self._function()

    def _traceable(self, optimizer: Any) -> bool:
        return (
            all(isinstance(v, tf.Variable) for v in self._variables)
            and originals.is_own(optimizer, _COEFFICIENTS)
            and not any(name in vars(optimizer) for name in _COEFFICIENTS)
        )


# Settings such as `epsilon`, which are no variables and may be overwritten.
_PLAIN = (bool, int, float, str, np.generic, type(None))


def _counted_coefficients(
    optimizer: Any, formula: formulas.Formula, variable: Any
) -> list[tf.Tensor]:
    apply_state = optimizer._prepare([variable])
    scalars = plan.coefficients(optimizer, formula, variable, apply_state)
    optimizer.iterations.assign_add(1)
    return scalars


class _Memory(NamedTuple):
    """What is known of a list of variables.

    Attributes:
      given: the variables, as the caller has them.
      first: weak reference to one of the `tf.Variable`s; all are on its device
        and of its dtype.
      group: the handle of the group of the variables and their slots; None if
        these variables must take the long way.
      coefficients: of the steps of these variables.
    """

    given: list[weakref.ref[Any]]
    first: Any
    group: tf.Tensor | None
    coefficients: _Coefficients

    def takes(self, grads: Sequence[Any]) -> bool:
        """Whether these gradients can go the short way: all are eager."""
        return self.group is not None and (
            set(map(type, grads)) == {type(self.group)}
        )


# By optimizer, then by the identities of the variables: an entry goes when one
# of them does.
_memories: weakref.WeakKeyDictionary[Any, dict[tuple[int, ...], _Memory]] = (
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
    grads, variables, memory = _recall(optimizer, grads_and_vars)
    if memory is None:
        if variables:
            _remember(optimizer, variables)
        return None  # This once: the long way checks everything.
    if not memory.takes(grads):
        return None
    first = memory.first()
    formula = policy.dense_formula(optimizer)
    scalars = memory.coefficients.next(optimizer, formula, first)
    try:
        with tf.device(first.device):
            plan.call_group(
                optimizer,
                formula,
                memory.group,
                grads,
                scalars,
                clip.scaling_alone(scaling, first.dtype),
                [],
            )
    except (tf.errors.OpError, TypeError, ValueError):
        # The op checks all before it changes any: the long way finds the same
        # mistake, and has the words for it.
        optimizer.iterations.assign_sub(1)
        return None
    return optimizer.iterations


def knows(optimizer: Any, grads_and_vars: Sequence[Any]) -> bool:
    """Whether `step` takes these gradients, however they are scaled."""
    grads, _, memory = _recall(optimizer, grads_and_vars)
    return (
        memory is not None
        and memory.takes(grads)
        and memory.first().dtype in (tf.float32, tf.float64)
    )


def _recall(
    optimizer: Any, grads_and_vars: Sequence[Any]
) -> tuple[Sequence[Any], Sequence[Any], _Memory | None]:
    """Gradients, variables, and what is known of these.

    Nothing, where the short way is closed to whatever variables.
    """
    if not _applies(optimizer):
        return (), (), None
    try:
        grads, variables = zip(*grads_and_vars, strict=True)
    except (TypeError, ValueError):
        return (), (), None  # Malformed, or empty.
    key = tuple(map(id, variables))
    return grads, variables, _memories.get(optimizer, {}).get(key)


def _applies(optimizer: Any) -> bool:
    return (
        tf.executing_eagerly()
        and distribution.current_strategy() is None
        and policy.ops() is not None
        and policy.dense_formula(optimizer) is not None
        and originals.is_own(optimizer, _STEPS)
        and optimizer.gradient_aggregator is gradients.all_reduce_sum
        and not optimizer.gradient_transformers
        and optimizer.clipvalue is None
        and optimizer.clipnorm is None
        and optimizer.global_clipnorm is None
        and optimizer.loss_scale_factor is None
        and optimizer.built
        and optimizer._pending_weights is None
    )


def _remember(optimizer: Any, given: Sequence[Any]) -> None:
    """Takes down what is known of these variables, once they have slots."""
    memories = _memories.setdefault(optimizer, {})
    key = tuple(map(id, given))

    def forget(_: Any) -> None:
        memories.pop(key, None)

    known = optimizer._known_variables
    try:
        references = [weakref.ref(variable, forget) for variable in given]
        variables = [known.unwrap(variable) for variable in given]
        first, group = variables[0], None
        if _fit_one_op(optimizer, given, variables):
            slots = [
                [optimizer.get_slot(variable, slot) for variable in variables]
                for slot in policy.dense_formula(optimizer).slots
            ]
            group = groups.group_of(policy.ops(), variables, *slots)
    except (AttributeError, KeyError, TypeError):
        return  # One has no slots yet, or is no variable.
    memories[key] = _Memory(
        references, weakref.ref(first), group, _Coefficients()
    )


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
        and not any(map(optimizer._known_variables.is_overwritten, given))
    )
