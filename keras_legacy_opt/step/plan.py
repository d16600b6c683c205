"""The eager step of variables that the optimizer has updated before.

For many small variables an eager step costs what Python does per variable. What
was found out in the last step is remembered: that one native op takes all of
these variables, and where their slots are. That op has one input for all of
them, because each input of an eager op costs more than a microsecond. The
coefficients of a step, twenty ops on scalars, come from one function after some
steps.

All that is remembered is compared in each step with what it depends on, in
`_Memory.is_valid` and `_Settings`. A step that this does not cover goes the
long way, which yields the same.
"""

from __future__ import annotations

import collections
import itertools
import operator
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import distribution, hosts, originals
from keras_legacy_opt.backends import judge, native
from keras_legacy_opt.rules.formula import Formula, formula_of, rule_of
from keras_legacy_opt.state import saving
from keras_legacy_opt.state.variables import var_key
from keras_legacy_opt.step import chain as chains
from keras_legacy_opt.step import gradients, own
from keras_legacy_opt.step.update import Step, coefficients, updates_of

# What the short way leaves out or calls on its own terms: an optimizer with its
# own idea of one of these takes the long way.
_STEPS = (
    "__getattribute__",
    "_aggregate_gradients",
    "_assert_valid_dtypes",
    "_create_all_weights",
    "_create_hypers",
    "_create_slots",
    "_distributed_apply",
    "_prepare",
    "_transform_gradients",
    "_transform_unaggregated_gradients",
    "_valid_dtypes",
    "add_slot",
    "get_slot",
    "iterations",
)
# What the coefficients of a step are made by.
_COEFFICIENTS = (
    "__getattr__",
    "_call_if_callable",
    "_decayed_lr",
    "_fallback_apply_state",
    "_get_hyper",
    "_prepare",
    "_prepare_local",
)
# A trace costs as much as it saves in about as many steps.
TRACE_AFTER = 100
# Of one optimizer: a step on other variables forgets those of long ago.
LISTS_KEPT = 16


class _Settings:
    """All but the values of variables that a trace of the coefficients is of.

    The objects are kept, so that no other can take their identity.
    """

    # These hold state, or settings that are no coefficients. So do `_self_...`,
    # which are TensorFlow's.
    _OTHERS = (saving.PROCESS_STATE - {"_iterations"}) | {
        "_hyper",
        "_pending_weights",
        "_slot_names",
        "gradient_aggregator",
        "gradient_transformers",
    }
    _KINDS = (
        bool,
        int,
        float,
        str,
        np.generic,
        type(None),
        tf.Variable,
        tf.Tensor,
    )

    def __init__(self, optimizer: Any, formula: Formula):
        hyper = list(optimizer._hyper.values())
        values = [
            value
            for name, value in vars(optimizer).items()
            if name not in self._OTHERS and not name.startswith("_self_")
        ]
        # Whether none can change without becoming another object: but for the
        # values of variables, which a trace reads.
        self.are_traceable = all(
            isinstance(value, tf.Variable) for value in hyper
        ) and all(isinstance(value, self._KINDS) for value in values)
        # Anything else may lead to the optimizer, and keep it alive.
        self._values = [*hyper, *values] if self.are_traceable else []
        self._formula = formula

    def are(self, other: _Settings) -> bool:
        """Whether they are the same objects, as far as there may be a trace."""
        return (
            self.are_traceable == other.are_traceable
            and self._formula is other._formula
            and len(self._values) == len(other._values)
            and all(map(operator.is_, self._values, other._values))
        )


class _Coefficients:
    """The coefficients of a step, for one device and dtype.

    They are traced when they were computed many times without a change of
    anything that a trace would not notice, and anew after such a change.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._settings: _Settings | None = None
        self._function: Any = None

    def next(
        self, optimizer: Any, formula: Formula, variable: Any
    ) -> dict[str, tf.Tensor]:
        """The scalars of this step's op; the step is counted."""
        settings = _Settings(optimizer, formula)
        if self._settings is None or not settings.are(self._settings):
            self._settings, self._steps, self._function = settings, 0, None
        self._steps += 1
        if not _makes_own_coefficients(optimizer):
            self._steps, self._function = 0, None
        if self._function is None:
            if self._steps <= TRACE_AFTER or not settings.are_traceable:
                return _counted_coefficients(optimizer, formula, variable)
            # A strong reference to either would keep it alive.
            references = weakref.ref(optimizer), weakref.ref(variable)

            @tf.function(autograph=False)
            def function() -> list[tf.Tensor]:
                optimizer, variable = (r() for r in references)
                c = _counted_coefficients(optimizer, formula, variable)
                return list(c.values())

            self._function = function.get_concrete_function()
        names = formula.native.coefficients
        return dict(zip(names, self._function(), strict=True))


def _makes_own_coefficients(optimizer: Any) -> bool:
    """Whether the optimizer's attributes are known, and what reads them."""
    cls = type(optimizer)
    return originals.own_class(cls) is cls and originals.is_own(
        optimizer, _COEFFICIENTS
    )


def _counted_coefficients(
    optimizer: Any, formula: Formula, variable: Any
) -> dict[str, tf.Tensor]:
    apply_state = optimizer._prepare([variable])
    c = coefficients(optimizer, variable, apply_state)
    scalars = native.scalars(formula.native, variable, c)
    optimizer.iterations.assign_add(1)
    return scalars


_constraint_of = operator.attrgetter("constraint")


class _Memory:
    """What is known of a list of variables.

    Attributes:
      group: the handle of the group of the variables and their slots; None if
        these variables must take the long way.
      coefficients: of the steps of these variables.
    """

    def __init__(self, optimizer: Any, given: Sequence[Any], forget: Any):
        """Takes down what is known of the variables `given`.

        Raises:
          AttributeError, KeyError, TypeError: if one has no slots yet, or is no
            variable.
        """
        known = optimizer._known_variables
        variables = [known.unwrap(variable) for variable in given]
        # A memory goes when one of its variables does, of which others may take
        # the identities then.
        self._alive = [weakref.ref(v, forget) for v in [*given, *variables]]
        self._first = weakref.ref(variables[0])
        self._variables = list(map(id, variables))
        self._keys = list(map(var_key, variables))
        self._owners = list(map(known._given.get, self._keys))
        self._has_keras_variables = any(
            hosts.is_keras_variable(each)
            for each in [*given, *(owner() for owner in self._owners)]
        )
        self._names: tuple[str, ...] = ()
        self._slots: list[Any] = []
        self.coefficients = _Coefficients()
        self.group: tf.Tensor | None = None
        if _fit_one_op(optimizer, given):
            formula = formula_of(optimizer)
            self._names = formula.slots
            self._slots = list(self._slots_of(optimizer))
            count = len(variables)
            slots = {
                slot: self._slots[k * count : (k + 1) * count]
                for k, slot in enumerate(self._names)
            }
            inputs = formula.native.slots
            by_input = {name: slots[slot] for name, slot in inputs.items()}
            self.group = native.group_of(formula.native, variables, by_input)

    @property
    def first(self) -> Any:
        """One of the `tf.Variable`s: all are on its device and of its dtype."""
        return self._first()

    def takes(self, grads: Sequence[Any]) -> bool:
        """Whether these gradients can go the short way: all are eager."""
        return self.group is not None and (
            set(map(type, grads)) == {type(self.group)}
        )

    def is_valid(self, optimizer: Any, given: Sequence[Any]) -> bool:
        """Whether all is as it was: variables, slots, and what they obey."""
        owners = map(optimizer._known_variables._given.get, self._keys)
        if not all(map(operator.is_, owners, self._owners)):
            return False
        variables = given
        if self._has_keras_variables:
            variables = [hosts.unwrap(variable) for variable in given]
            if list(map(id, variables)) != self._variables:
                return False
        if self.group is None:
            return not _fit_one_op(optimizer, given)
        try:
            are_same = map(operator.is_, self._slots_of(optimizer), self._slots)
            same_slots = all(are_same)
        except (KeyError, TypeError):
            return False
        return (
            same_slots
            and formula_of(optimizer).slots == self._names
            and not any(map(_constraint_of, variables))
            and not (self._has_keras_variables and self._obeys_keras())
        )

    def _slots_of(self, optimizer: Any) -> Iterator[Any]:
        rows = (
            list(map(optimizer._slots.__getitem__, self._keys))
            if self._names
            else []
        )
        return itertools.chain.from_iterable(
            map(operator.itemgetter(name), rows) for name in self._names
        )

    def _obeys_keras(self) -> bool:
        """Whether a `keras.Variable` has an update the native ops have not."""
        owners = [owner() for owner in self._owners]
        return any(
            getattr(owner, "constraint", None)
            or getattr(owner, "overwrite_with_gradient", False)
            for owner in owners
            if hosts.is_keras_variable(owner)
        )


# By optimizer, then by the identities of the variables.
_memories: weakref.WeakKeyDictionary[
    Any, collections.OrderedDict[tuple[int, ...], _Memory]
] = weakref.WeakKeyDictionary()


def step(
    optimizer: Any,
    grads_and_vars: Sequence[Any],
    chain: chains.Chain = (),
) -> Any:
    """Takes the step the short way, if that is possible.

    Args:
      optimizer: the optimizer.
      grads_and_vars: as given by the caller, and not checked yet.
      chain: how the gradients are scaled.

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
    first = memory.first
    formula = formula_of(optimizer)
    also = [getattr(optimizer, name) for name in rule_of(optimizer).also]
    before = [tf.identity(variable) for variable in also]
    inputs = {
        "grad": grads,
        **memory.coefficients.next(optimizer, formula, first),
        "transform": chains.transform_alone(chain, first.dtype),
        "condition": [],
    }
    try:
        with tf.device(first.device):
            native.update_group(optimizer, formula.native, memory.group, inputs)
    except (tf.errors.OpError, TypeError, ValueError):
        # The op checks all before it changes any: the long way finds the same
        # mistake, and has the words for it.
        optimizer.iterations.assign_sub(1)
        for variable, value in zip(also, before, strict=True):
            variable.assign(value)
        return None
    return optimizer.iterations


def knows(optimizer: Any, grads_and_vars: Sequence[Any]) -> bool:
    """Whether `step` takes these gradients, however they are scaled."""
    grads, _, memory = _recall(optimizer, grads_and_vars)
    return (
        memory is not None
        and memory.takes(grads)
        and memory.first.dtype in (tf.float32, tf.float64)
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
    memories = _memories.get(optimizer, {})
    key = tuple(map(id, variables))
    memory = memories.get(key)
    if memory is not None and not memory.is_valid(optimizer, variables):
        del memories[key]
        memory = None
    if memory is not None:
        memories.move_to_end(key)
    return grads, variables, memory


def _applies(optimizer: Any) -> bool:
    return (
        tf.executing_eagerly()
        and distribution.current_strategy() is None
        and native.refuses_kind(Step(optimizer), False) is None
        and originals.is_own(optimizer, _STEPS)
        and optimizer.gradient_aggregator is gradients.all_reduce_sum
        and not optimizer.gradient_transformers
        and optimizer.clipvalue is None
        and optimizer.clipnorm is None
        and optimizer.global_clipnorm is None
        and optimizer.loss_scale_factor is None
        and not own.may_exist(optimizer)
        and optimizer.built
        and optimizer._pending_weights is None
    )


def _remember(optimizer: Any, given: Sequence[Any]) -> None:
    """Takes down what is known of these variables, once they have slots."""
    memories = _memories.setdefault(optimizer, collections.OrderedDict())
    key = tuple(map(id, given))

    def forget(_: Any) -> None:
        memories.pop(key, None)

    try:
        memories[key] = _Memory(optimizer, given, forget)
    except (AttributeError, KeyError, TypeError):
        return
    while len(memories) > LISTS_KEPT:
        memories.popitem(last=False)


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
