"""What eager steps remember: a plan for each list of variables.

For many small variables an eager step costs what Python does per variable.  A
`Plan` knows that one native op takes all variables of a list, and the one input
that stands for them and their slots: each input of an eager op costs more than
a microsecond.

All that this depends on is one list of objects, the plan's signature: each step
makes it anew and compares.  What a step computes is written when the op has
accepted it: the op checks everything before it changes anything.  A step that
has no plan, or that the op refuses, goes the way of all others.

Hyperparameters and methods that are somebody's code are asked once in a step,
and may change what the plan depends on.  So it is compared again; from there
on, such a step goes the way of all others with the answers that it has got.

The plan of a wrapper is that of the optimizer inside, and depends on both.  It
is for the steps in which the wrapper does no more than its `Around` says.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import operator
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from keras_legacy_opt import distribution, hosts, originals
from keras_legacy_opt.backends import judge, native
from keras_legacy_opt.fused import switch
from keras_legacy_opt.rules.formula import (
    LazyCoefficients,
    declaration_of,
    formula_of,
)
from keras_legacy_opt.state import reads
from keras_legacy_opt.state.variables import var_key
from keras_legacy_opt.step import chain as chains
from keras_legacy_opt.step import gradients, own
from keras_legacy_opt.step.around import Around
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
# What a wrapper calls besides, which a planned step of it leaves out.
_ENTRANCE = ("apply_gradients",)
_HOOKS = (*_STEPS, *_COEFFICIENTS, *_ENTRANCE)
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
# Function that takes a step on: of the optimizer inside, the pairs of gradient
# and `tf.Variable`, and what its `_prepare` returned; None: its step begins.
Rest = Callable[[Any, Sequence[tuple[Any, Any]], Mapping[Any, Any] | None], Any]


class Plan:
    """What is known of a list of variables.

    Attributes:
      dtype: of all variables.
      group: the handle of the group of the variables and their slots; None if
        there is no such way for them.
      is_of_wrapper: whether the optimizer is one.
    """

    def __init__(self, optimizer: Any, given: Sequence[Any], forget: Any):
        """Plans the steps on the variables `given`.

        Raises:
          AttributeError, KeyError, TypeError: if one has no slots yet, or is no
            variable.
        """
        wrappers, inside = _layers(optimizer)
        self.is_of_wrapper = bool(wrappers)
        known = inside._known_variables
        variables = [hosts.unwrap(variable) for variable in given]
        # A plan goes when one of its variables does, of which others may take
        # the identities then.
        self._alive = [weakref.ref(v, forget) for v in [*given, *variables]]
        self._members: list[Callable[[], Any]] = self._alive[len(given) :]
        self.dtype: tf.DType = variables[0].dtype
        self._keys = list(map(var_key, variables))
        owners = [owner() for owner in map(known._given.get, self._keys)]
        self._has_keras_variables = any(
            map(hosts.is_keras_variable, [*given, *owners])
        )
        self._variables = list(map(id, variables))
        are_ours = originals.is_own(inside, _COEFFICIENTS)
        # Somebody's code may make the coefficients, and the weight of averages:
        # nobody knows what it sees, and what it changes.
        self._sees_all = not are_ours
        self._asks = not are_ours or _has_callables(inside)
        self._asks_before = any(
            around.weight is not None and _has_callables(wrapper)
            for wrapper, around in _taking_part(wrappers)
        )
        self._has_own = own.may_exist(inside)
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
        wrappers, inside = _layers(optimizer)
        formula, own_by = formula_of(inside), own.depends_on(inside)
        found = [
            *_hooks_of(type(inside)),
            *map(vars(inside).get, _HOOKS),
            own_by is None,
            *(own_by or ()),
            formula,
            distribution.current_strategy(),
            switch.refuses() is None,
            *map(_constraint_of, variables),
            *self._settings_of(inside),
        ]
        for wrapper, around in wrappers:
            found += [around.inside, not wrapper._uncopied]
            found += _methods_of(wrapper)
            found += self._settings_of(wrapper)
            found += self._slots_of(wrapper, around.slots)
            if around.remembered is not None:
                found += map(around.remembered.__getitem__, self._keys)
        if formula is not None and formula.slots:
            found += self._slots_of(inside, formula.slots)
        return found

    def _settings_of(self, optimizer: Any) -> list[Any]:
        known = optimizer._known_variables
        found = [
            *_options_of(optimizer),
            *optimizer.gradient_transformers,  # A list may grow.
            *optimizer._hyper.values(),
            known.given_now,
        ]
        if self._has_keras_variables:
            for owner in map(known._given.get, self._keys):
                found += _obeyed(owner())
        return found

    def _slots_of(self, optimizer: Any, names: Sequence[str]) -> Iterator[Any]:
        rows = list(map(optimizer._slots.__getitem__, self._keys))
        return itertools.chain.from_iterable(
            map(operator.itemgetter(name), rows) for name in names
        )

    def _group_of(
        self, optimizer: Any, given: Sequence[Any], variables: Sequence[Any]
    ) -> tf.Tensor | None:
        wrappers, inside = _layers(optimizer)
        if not _have_plans(wrappers, inside) or not _fit_one_op(inside, given):
            return None
        averages: list[Any] = []
        for wrapper, around in wrappers:
            known = wrapper._known_variables
            if any(map(known.is_overwritten, given)):
                return None
            if around.sum is not None:
                slots = [wrapper.get_slot(v, around.sum) for v in variables]
                return native.group_of(native.SUM, slots, {})
            if around.average is not None:
                averages = [
                    wrapper.get_slot(v, around.average) for v in variables
                ]
        if self._has_own and not self._sort(inside, variables):
            return None
        op = native.op_of(declaration_of(inside).formula(inside))
        slots = {
            name: [inside.get_slot(each, slot) for each in variables]
            for name, slot in op.slots.items()
        }
        return native.group_of(op, variables, slots, averages)

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
        self,
        optimizer: Any,
        given: Sequence[Any],
        grads: Sequence[Any],
        chain: chains.Chain,
        rest: Rest,
    ) -> bool:
        """Takes the step; False if it is refused, and nothing changed.

        Args:
          optimizer: that of the plan.
          given: the variables, as they were given.
          grads: gradients that it `takes`.
          chain: how they are scaled.
          rest: takes a step on, where somebody's code was asked.
        """
        first, group = self._members[0](), self.group
        if first is None or group is None:
            return False
        wrappers, inside = _layers(optimizer)
        asks = self._asks or self._asks_before
        if _is_watched(inside) or (asks and not self._fit(grads)):
            return False
        _ = optimizer.iterations  # Now those of all inside, too.
        parts = [around for _, around in _taking_part(wrappers)]
        members = [each() for each in self._members] if asks else [first]
        with tf.device(first.device):
            if any(x.is_due is not None and x.is_due() for x in parts):
                return False
            if parts and parts[-1].sum is not None:
                return self._add(optimizer, grads, group, parts[-1].count)
            weight, averaging = _averaging(parts, self.dtype)
            state = None
            if not self._asks_before or self.is_valid(optimizer, given):
                # Who is not asked does not take steps in there.
                with averaging() if self._asks else contextlib.nullcontext():
                    state = self._prepare(inside, members)
                changed = _is_watched(inside) or (
                    self._asks and not self.is_valid(optimizer, given)
                )
                if not changed and self._update(
                    inside, first, group, grads, chain, state, weight
                ):
                    return True
        if not asks:
            return False
        pairs = list(zip(grads, members, strict=True))
        with averaging():
            rest(inside, pairs, state if self._asks else None)
        return True

    def _update(
        self,
        optimizer: Any,
        first: Any,
        group: tf.Tensor,
        grads: Sequence[Any],
        chain: chains.Chain,
        apply_state: Mapping[Any, Any],
        weight: Any,
    ) -> bool:
        """Runs the op, and counts the iteration; False if it is refused."""
        op = native.op_of(declaration_of(optimizer).formula(optimizer))
        c, own_inputs = self._coefficients(optimizer, first, apply_state)
        inputs = {
            "grad": grads,
            **native.scalars(op, first, c),
            **own_inputs,
            **native.averaging(weight, self.dtype),
            "transform": chains.transform_alone(chain, first.dtype),
            "condition": [],
        }
        if not _accepts(native.update_group, optimizer, op, group, inputs):
            return False
        if not self._asks:  # Else `_prepare` has.
            _assign_also(optimizer, c)
        reads.count_one(optimizer.iterations)
        return True

    def _add(
        self, optimizer: Any, grads: Sequence[Any], group: tf.Tensor, count: Any
    ) -> bool:
        """Adds gradients to the members of the group, and counts them."""
        if not _accepts(
            native.add_to_group, optimizer, group, grads, self.dtype
        ):
            return False
        reads.count_one(count)
        return True

    def _fit(self, grads: Sequence[Any]) -> bool:
        try:
            for gradient, member in zip(grads, self._members, strict=True):
                gradients.fitted(gradient, member(), "")
        except (tf.errors.OpError, TypeError, ValueError):
            return False
        return True

    def _prepare(
        self, optimizer: Any, variables: Sequence[Any]
    ) -> Mapping[Any, Any]:
        """The coefficients of a step, as `_prepare` of the optimizer has them.

        Of ours, those that are derived are computed when they are asked for.
        """
        if self._asks:
            # Somebody's `_prepare` may go by the variables, or change them.
            seen = variables if self._sees_all else variables[:1]
            with tf.name_scope(optimizer._name):
                return optimizer._prepare(seen)
        first = variables[0]
        key = device, dtype = first.device, first.dtype.base_dtype
        derived = declaration_of(optimizer).derived
        apply_state = {key: LazyCoefficients(derived)}
        optimizer._prepare_local(device, dtype, apply_state)
        return apply_state

    def _coefficients(
        self, optimizer: Any, variable: Any, apply_state: Mapping[Any, Any]
    ) -> tuple[Mapping[str, tf.Tensor], Mapping[str, Any]]:
        """The coefficients of a step, and inputs of what variables have."""
        step = Step(optimizer, apply_state)
        c = step.common_coefficients(variable)
        if not self._has_own:
            return c, {}
        owns = [step.own(example()) for example in self._examples]
        inputs = native.own_inputs(owns, variable.dtype.base_dtype)
        if len(owns) > 1:
            (rows,) = inputs["per_variable"]
            inputs["per_variable"] = [tf.gather(rows, self._kinds)]
        changes = dict(owns[0].coefficients)
        if changes:
            # Nobody changes it.
            c = collections.ChainMap(changes, c)  # pyright: ignore[reportArgumentType]
        return c, inputs


class _AnyNumber(dict[str, Any]):
    """Stands for coefficients, of which nobody asks the value."""

    def __missing__(self, name: str) -> tf.Tensor:
        value = self[name] = tf.zeros([])
        return value


def _has_callables(optimizer: Any) -> bool:
    return any(map(callable, optimizer._hyper.values()))


def _is_watched(optimizer: Any) -> bool:
    """Whether a step just now has to show its gradients."""
    watch = optimizer._watch
    return watch is not None and watch.sees_eagerly()


def _accepts(update: Callable[..., Any], *args: Any) -> bool:
    """Runs the op of a step; False if that refuses it."""
    try:
        update(*args)
    except (tf.errors.OpError, TypeError, ValueError):
        # All others find the same mistake, and have the words for it.
        return False
    return True


def _assign_also(optimizer: Any, c: Mapping[str, tf.Tensor]) -> None:
    """Sets what else a step changes."""
    for attribute, name in declaration_of(optimizer).also.items():
        variable = getattr(optimizer, attribute)
        # As in `_prepare_local`: one of another dtype stays as it is.
        if variable.dtype.base_dtype == c[name].dtype:
            variable.assign(c[name], read_value=False)


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
    optimizer: Any,
    grads_and_vars: Sequence[Any],
    rest: Rest,
    chain: chains.Chain = (),
) -> Any:
    """Takes a step that there is a plan for.

    Args:
      optimizer: the optimizer.
      grads_and_vars: as given by the caller, and not checked yet.
      rest: see `Plan.run`.
      chain: how the gradients are scaled.

    Returns:
      The optimizer's iterations, or None if nothing was done.
    """
    if optimizer._averaging is not None:
        return None  # It is the step of a wrapper, which has no plan.
    grads, variables, plan = _recall(optimizer, grads_and_vars, make=True)
    if plan is None or not plan.takes(grads):
        return None
    if not plan.run(optimizer, variables, grads, chain, rest):
        return None
    return optimizer.iterations


def knows(optimizer: Any, grads_and_vars: Sequence[Any]) -> bool:
    """Whether `step` takes these gradients, however they are scaled."""
    grads, _, plan = _recall(optimizer, grads_and_vars, make=False)
    return (
        plan is not None
        and not plan.is_of_wrapper
        and plan.takes(grads)
        and plan.dtype in (tf.float32, tf.float64)
    )


def _recall(
    optimizer: Any, grads_and_vars: Sequence[Any], make: bool
) -> tuple[Sequence[Any], Sequence[Any], Plan | None]:
    """Gradients, variables, and the plan for these, if it is still valid.

    A new one is for the next step: the first checks what is given.
    """
    if not tf.executing_eagerly():
        return (), (), None
    try:
        grads, variables = zip(*grads_and_vars, strict=True)
    except (TypeError, ValueError):
        return (), (), None  # Malformed, or empty.
    plans = _plans.get(optimizer) or collections.OrderedDict()
    key = tuple(map(id, variables))
    plan = plans.get(key)
    if plan is not None and plan.is_valid(optimizer, variables):
        plans.move_to_end(key)
        return grads, variables, plan
    plans.pop(key, None)
    if make and optimizer.built:
        _remember(optimizer, variables, key)
    return grads, variables, None


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


def _layers(optimizer: Any) -> tuple[list[tuple[Any, Around]], Any]:
    """The wrappers around an optimizer, from outside, and that one."""
    wrappers = []
    while (around := optimizer._around_planned()) is not None:
        wrappers.append((optimizer, around))
        optimizer = around.inside
    return wrappers, optimizer


def _taking_part(
    wrappers: Sequence[tuple[Any, Around]],
) -> list[tuple[Any, Around]]:
    """Those of a step: where gradients are added up, there is none inside."""
    sums = [around.sum is not None for _, around in wrappers]
    return list(wrappers[: sums.index(True) + 1 if any(sums) else None])


def _averaging(
    parts: Sequence[Around], dtype: tf.DType
) -> tuple[Any, Callable[[], AbstractContextManager[Any]]]:
    """The weight of averages in a step, and a context that moves them."""
    for around in parts:
        if around.weight is not None:
            weight = around.weight(dtype)
            return weight, functools.partial(around.moving, {dtype: weight})
    return None, contextlib.nullcontext


def _methods_of(wrapper: Any) -> tuple[Any, ...]:
    """The methods of a wrapper, and whether it has any on the instance."""
    cls = type(wrapper)
    if originals.own_class(cls) is not cls:
        return (cls,)  # It has no plan, whatever they are.
    names, getter = _all_methods(cls)
    return vars(wrapper).keys().isdisjoint(names), *getter(cls)


@functools.cache
def _all_methods(cls: type) -> tuple[frozenset[str], Any]:
    names = originals.methods_of(cls)
    return names, operator.attrgetter(*sorted(names))


def _have_plans(wrappers: Sequence[tuple[Any, Around]], inside: Any) -> bool:
    """Whether their steps do nothing but what a planned one does."""
    return (
        distribution.current_strategy() is None
        and all(_is_plain(wrapper) for wrapper, _ in wrappers)
        and all(originals.all_own(wrapper) for wrapper, _ in wrappers)
        and _is_plain(inside)
        and native.refuses_kind(Step(inside), False) is None
        and originals.is_own(inside, _STEPS)
        and (not wrappers or originals.is_own(inside, _ENTRANCE))
        and own.depends_on(inside) is not None
    )


def _is_plain(optimizer: Any) -> bool:
    """Whether it does nothing to gradients, and has no state yet to come."""
    return (
        optimizer.gradient_aggregator is gradients.all_reduce_sum
        and not optimizer.gradient_transformers
        and not chains.clips_of(optimizer)
        and optimizer.loss_scale_factor is None
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
