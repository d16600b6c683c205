"""What eager steps remember: a plan for each list of variables.

For many small variables an eager step costs what Python does per variable.  A
`Plan` knows that one native op takes all variables of a list, and the one input
that stands for them and their slots: each input of an eager op costs more than
a microsecond.

All that this depends on is one list of objects, the plan's signature: each step
makes it anew and compares.  What a step computes is written when the op has
accepted it: the op checks everything before it changes anything.  A step that
has no plan, or that the op refuses, goes the way of all others.
"""

from __future__ import annotations

import collections
import operator
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import distribution, hosts, originals
from keras_legacy_opt.backends import judge, native
from keras_legacy_opt.fused import switch
from keras_legacy_opt.rules.formula import declaration_of, formula_of
from keras_legacy_opt.state import reads
from keras_legacy_opt.state.variables import var_key
from keras_legacy_opt.step import chain as chains
from keras_legacy_opt.step import gradients, own
from keras_legacy_opt.step.update import Step, updates_of

# What a planned step leaves out: an optimizer with its own idea of one of these
# has no plan.
_STEPS = (
    "__getattribute__",
    "_aggregate_gradients",
    "_assert_valid_dtypes",
    "_create_all_weights",
    "_create_hypers",
    "_create_slots",
    "_distributed_apply",
    "_own_of",
    "_resource_apply_dense",
    "_transform_gradients",
    "_transform_unaggregated_gradients",
    "_valid_dtypes",
    "add_slot",
    "get_slot",
    "iterations",
)
# What makes the coefficients of a step.
_COEFFICIENTS = (
    "__getattr__",
    "_call_if_callable",
    "_decayed_lr",
    "_fallback_apply_state",
    "_get_hyper",
    "_prepare",
    "_prepare_local",
)
_HOOKS = (*_STEPS, *_COEFFICIENTS)
_hooks_of = operator.attrgetter(*_HOOKS)
# The options whose handling a planned step leaves out.
_options_of = operator.attrgetter(
    "gradient_aggregator",
    "gradient_transformers",
    "clipvalue",
    "clipnorm",
    "global_clipnorm",
    "loss_scale_factor",
    "built",
    "_pending_weights",
)
_constraint_of = operator.attrgetter("constraint")
# Of one optimizer: a step on other variables forgets those of long ago.
LISTS_KEPT = 16


class Plan:
    """What is known of a list of variables.

    Attributes:
      dtype: of all variables.
      group: the handle of the group of the variables and their slots; None if
        there is no such way for them.
    """

    def __init__(self, optimizer: Any, given: Sequence[Any], forget: Any):
        """Plans the steps on the variables `given`.

        Raises:
          AttributeError, KeyError, TypeError: if one has no slots yet, or is no
            variable.
        """
        known = optimizer._known_variables
        variables = [known.unwrap(variable) for variable in given]
        # A plan goes when one of its variables does, of which others may take
        # the identities then.
        self._alive = [weakref.ref(v, forget) for v in [*given, *variables]]
        self._first = weakref.ref(variables[0])
        self.dtype: tf.DType = variables[0].dtype
        self._keys = list(map(var_key, variables))
        owners = [owner() for owner in map(known._given.get, self._keys)]
        self._has_keras_variables = any(
            map(hosts.is_keras_variable, [*given, *owners])
        )
        self._variables = list(map(id, variables))
        are_ours = originals.is_own(optimizer, _COEFFICIENTS)
        # Somebody's code makes them, of which nobody knows what it changes.
        self._checks_first = not are_ours or any(
            callable(value) for value in optimizer._hyper.values()
        )
        self._has_own = own.may_exist(optimizer)
        self._prepares = not are_ours or self._has_own
        # One variable of each kind, by what they have of their own, and the
        # number of the kind of each variable.
        self._examples: list[Any] = []
        self._kinds: list[int] = []
        signature = self._depends_on(optimizer, variables)
        self.group = self._group_of(optimizer, given, variables)
        # Objects, so that no other takes the identity of one of these. But what
        # forbids a plan may lead to the optimizer, and keep it alive.
        self._signature = None if self.group is None else signature
        self._identities = list(map(id, signature))

    def is_valid(self, optimizer: Any, given: Sequence[Any]) -> bool:
        """Whether all that it depends on is as it was."""
        try:
            if self._has_keras_variables:
                given = [hosts.unwrap(variable) for variable in given]
                if list(map(id, given)) != self._variables:
                    return False
            now = self._depends_on(optimizer, given)
        except (AttributeError, KeyError, TypeError):
            return False
        if self._signature is None:
            return list(map(id, now)) == self._identities
        return len(now) == len(self._signature) and all(
            map(operator.is_, now, self._signature)
        )

    def _depends_on(
        self, optimizer: Any, variables: Sequence[Any]
    ) -> list[Any]:
        """All that a plan depends on, but the identities of the variables.

        A list of some objects for each variable, which C code makes.
        """
        known, formula = optimizer._known_variables, formula_of(optimizer)
        own_by = own.depends_on(optimizer)
        found = [
            *_hooks_of(type(optimizer)),
            *map(vars(optimizer).get, _HOOKS),
            *_options_of(optimizer),
            *optimizer.gradient_transformers,  # A list may grow.
            *optimizer._hyper.values(),
            optimizer._averaging is None,
            own_by is None,
            *(own_by or ()),
            formula,
            distribution.current_strategy(),
            switch.refuses() is None,
            known.given_now,
            *map(_constraint_of, variables),
        ]
        if self._has_keras_variables:
            for owner in map(known._given.get, self._keys):
                found += _obeyed(owner())
        if formula is not None and formula.slots:
            rows = list(map(optimizer._slots.__getitem__, self._keys))
            for name in formula.slots:
                found += map(operator.itemgetter(name), rows)
        return found

    def _group_of(
        self, optimizer: Any, given: Sequence[Any], variables: Sequence[Any]
    ) -> tf.Tensor | None:
        if not _has_plans(optimizer) or not _fit_one_op(optimizer, given):
            return None
        if self._has_own and not self._sort(optimizer, variables):
            return None
        op = native.op_of(declaration_of(optimizer).formula(optimizer))
        slots = {
            name: [optimizer.get_slot(each, slot) for each in variables]
            for name, slot in op.slots.items()
        }
        return native.group_of(op, variables, slots)

    def _sort(self, optimizer: Any, variables: Sequence[Any]) -> bool:
        """Finds the kinds of variables; False if one op cannot take them."""
        # Only a step may compute coefficients, which may be somebody's code.
        places = {(v.device, v.dtype.base_dtype) for v in variables}
        step = Step(optimizer, {each: _AnyNumber(a=0) for each in places})
        owns = list(map(step.own, variables))
        if len({native.kind_of(each) for each in owns}) > 1:
            return False
        kinds = list(map(own.kind_of, owns))
        distinct = list(dict.fromkeys(kinds))
        self._kinds = list(map(distinct.index, kinds))
        firsts = (variables[kinds.index(each)] for each in distinct)
        self._examples = list(map(weakref.ref, firsts))
        return True

    def takes(self, grads: Sequence[Any]) -> bool:
        """Whether it is a plan for these gradients: all are eager and dense."""
        return self.group is not None and (
            set(map(type, grads)) == {type(self.group)}
        )

    def run(
        self, optimizer: Any, grads: Sequence[Any], chain: chains.Chain
    ) -> bool:
        """Takes the step; False if it is refused, and nothing changed."""
        first, group = self._first(), self.group
        if first is None or group is None:
            return False
        if self._checks_first and not self._fit(grads):
            return False
        rule = declaration_of(optimizer)
        op = native.op_of(rule.formula(optimizer))
        with tf.device(first.device):
            c, own_inputs = self._coefficients(optimizer, first)
            inputs = {
                "grad": grads,
                **native.scalars(op, first, c),
                **own_inputs,
                "transform": chains.transform_alone(chain, first.dtype),
                "condition": [],
            }
            try:
                native.update_group(optimizer, op, group, inputs)
            except (tf.errors.OpError, TypeError, ValueError):
                # All others find the same mistake, and have the words for it.
                return False
        if not self._prepares:  # Else `_prepare` has.
            for attribute, name in rule.also.items():
                variable = getattr(optimizer, attribute)
                # As in `_prepare_local`: one of another dtype stays as it is.
                if variable.dtype.base_dtype == c[name].dtype:
                    variable.assign(c[name], read_value=False)
        reads.count_one(optimizer.iterations)
        return True

    def _fit(self, grads: Sequence[Any]) -> bool:
        try:
            for gradient, reference in zip(grads, self._alive, strict=False):
                gradients.fitted(gradient, hosts.unwrap(reference()), "")
        except (tf.errors.OpError, TypeError, ValueError):
            return False
        return True

    def _coefficients(
        self, optimizer: Any, variable: Any
    ) -> tuple[Mapping[str, tf.Tensor], Mapping[str, Any]]:
        """The coefficients of a step, and inputs of what variables have."""
        dtype = variable.dtype.base_dtype
        if not self._prepares:
            return declaration_of(optimizer).coefficients_of(
                optimizer, dtype
            ), {}
        step = Step(optimizer, optimizer._prepare([variable]))
        c = step.common_coefficients(variable)
        if not self._has_own:
            return c, {}
        owns = [step.own(example()) for example in self._examples]
        inputs = native.own_inputs(owns, dtype)
        if len(owns) > 1:
            (rows,) = inputs["per_variable"]
            inputs["per_variable"] = [tf.gather(rows, self._kinds)]
        return {**c, **owns[0].coefficients}, inputs


class _AnyNumber(dict[str, Any]):
    """Stands for coefficients, of which nobody asks the value."""

    def __missing__(self, name: str) -> tf.Tensor:
        value = self[name] = tf.zeros([])
        return value


def _obeyed(owner: Any) -> tuple[Any, ...]:
    """What a `keras.Variable` says of its updates."""
    return (
        getattr(owner, "constraint", None),
        getattr(owner, "overwrite_with_gradient", False),
    )


# By optimizer, then by the identities of the variables.
_plans: weakref.WeakKeyDictionary[
    Any, collections.OrderedDict[tuple[int, ...], Plan]
] = weakref.WeakKeyDictionary()


def step(
    optimizer: Any, grads_and_vars: Sequence[Any], chain: chains.Chain = ()
) -> Any:
    """Takes a step that there is a plan for.

    Args:
      optimizer: the optimizer.
      grads_and_vars: as given by the caller, and not checked yet.
      chain: how the gradients are scaled.

    Returns:
      The optimizer's iterations, or None if nothing was done.
    """
    grads, plan = _recall(optimizer, grads_and_vars, make=True)
    if plan is None or not plan.takes(grads):
        return None
    if not plan.run(optimizer, grads, chain):
        return None
    return optimizer.iterations


def knows(optimizer: Any, grads_and_vars: Sequence[Any]) -> bool:
    """Whether `step` takes these gradients, however they are scaled."""
    grads, plan = _recall(optimizer, grads_and_vars, make=False)
    return (
        plan is not None
        and plan.takes(grads)
        and plan.dtype in (tf.float32, tf.float64)
    )


def _recall(
    optimizer: Any, grads_and_vars: Sequence[Any], make: bool
) -> tuple[Sequence[Any], Plan | None]:
    """Gradients, and the plan for their variables, if it is still valid.

    A new one is for the next step: the first checks what is given.
    """
    if not tf.executing_eagerly():
        return (), None
    try:
        grads, variables = zip(*grads_and_vars, strict=True)
    except (TypeError, ValueError):
        return (), None  # Malformed, or empty.
    plans = _plans.get(optimizer) or collections.OrderedDict()
    key = tuple(map(id, variables))
    plan = plans.get(key)
    if plan is not None and plan.is_valid(optimizer, variables):
        plans.move_to_end(key)
        return grads, plan
    plans.pop(key, None)
    if make and optimizer.built:
        _remember(optimizer, variables, key)
    return grads, None


def _remember(optimizer: Any, given: Sequence[Any], key: Any) -> None:
    """Makes a plan for these variables, once they have slots."""
    plans = _plans.setdefault(optimizer, collections.OrderedDict())

    def forget(_: Any) -> None:
        plans.pop(key, None)

    try:
        plans[key] = Plan(optimizer, given, forget)
    except (AttributeError, KeyError, TypeError):
        return
    while len(plans) > LISTS_KEPT:
        plans.popitem(last=False)


def _has_plans(optimizer: Any) -> bool:
    """Whether its steps do nothing but what a planned one does."""
    return (
        distribution.current_strategy() is None
        and native.refuses_kind(Step(optimizer), False) is None
        and originals.is_own(optimizer, _STEPS)
        and optimizer.gradient_aggregator is gradients.all_reduce_sum
        and not optimizer.gradient_transformers
        and not chains.clips_of(optimizer)
        and optimizer.loss_scale_factor is None
        and own.depends_on(optimizer) is not None
        and optimizer.built
        and optimizer._pending_weights is None
    )


def _fit_one_op(optimizer: Any, given: Sequence[Any]) -> bool:
    """Whether one native op updates all, given dense gradients for all."""
    if any(map(optimizer._known_variables.is_overwritten, given)):
        return False
    step, groups = Step(optimizer), set()
    for update in updates_of(optimizer, [(None, each) for each in given]):
        backend = judge(step, update)
        if not isinstance(backend, native.NativeCPU):
            return False
        groups.add(backend.group(update))
    return len(groups) == 1
