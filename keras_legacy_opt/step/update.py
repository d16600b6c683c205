"""The records of a step: what backends judge and run."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_legacy_opt import originals
from keras_legacy_opt.fused.norms import Row
from keras_legacy_opt.rules.formula import (
    Coefficients,
    Formula,
    declaration_of,
    formula_of,
)
from keras_legacy_opt.step import own as own_values
from keras_legacy_opt.step.own import NOTHING, Own

# The methods that an update runs through.  Where one is overridden, it decides.
_DENSE_METHODS = ("_resource_apply_dense", "get_slot")
_SPARSE_METHODS = (
    "get_slot",
    "_resource_apply_sparse_duplicate_indices",
    "_resource_apply_sparse",
    "_resource_scatter_add",
    "_resource_scatter_update",
)


class Deferred(NamedTuple):
    """A gradient, and what its update has to do to it first.

    Attributes:
      gradient: tensor or `IndexedSlices`.
      transform: tensor of shape [4], or `Row`, or None: multiply by the first
        number, clip to the second, multiply by the third, divide by the fourth.
      condition: bool scalar, or None: whether to update at all.
    """

    gradient: Any
    transform: tf.Tensor | Row | None = None
    condition: tf.Tensor | None = None


class Update(NamedTuple):
    """A gradient for a variable.

    Attributes:
      variable: the `tf.Variable`; before it is run, perhaps a distributed one.
      gradient: tensor or `IndexedSlices`; None if it is only asked who would
        take it.
      is_sparse: whether the gradient is, at least on one replica.
      constraint: what is applied to the variable afterwards.
      repeats: whether the step updates the variable several times.
      transform: see `Deferred`.
      condition: see `Deferred`.
      own: what the variable has of its own, when the update is run.
    """

    variable: Any
    gradient: Any = None
    is_sparse: bool = False
    constraint: Callable[[Any], Any] | None = None
    repeats: bool = False
    transform: tf.Tensor | Row | None = None
    condition: tf.Tensor | None = None
    own: Own = NOTHING


class Step:
    """What the updates of a step have in common.

    Attributes:
      optimizer: whose step it is.
      apply_state: what its `_prepare` returned.
      has_own: whether variables may have something of their own in it.
    """

    def __init__(self, optimizer: Any, apply_state: Mapping | None = None):
        self.optimizer = optimizer
        self.apply_state = apply_state
        self.has_own = own_values.may_exist(optimizer)
        self._answers: dict[Any, Any] = {}

    @functools.cached_property
    def formula(self) -> Formula | None:
        """What the optimizer's class declares, for its options."""
        return formula_of(self.optimizer)

    @property
    def declared(self) -> Formula:
        """The `formula`, where somebody has asked whether there is one."""
        if self.formula is None:
            raise TypeError(
                f"{type(self.optimizer).__name__} declares no formula."
            )
        return self.formula

    def own(self, variable: Any) -> Own:
        """What a variable has of its own; asked once, of one on a device."""
        if not self.has_own:
            return NOTHING
        key = Step.own, id(variable)
        if key not in self._answers:
            self._answers[key] = own_values.of(
                self.optimizer, variable, self.apply_state
            )
        return self._answers[key]

    def common_coefficients(self, variable: Any) -> Coefficients:
        """The coefficients of this step for all variables like this one."""
        return coefficients(self.optimizer, variable, self.apply_state)

    def coefficients(self, variable: Any) -> Coefficients:
        """The coefficients of this step for a variable."""
        c, own = self.common_coefficients(variable), self.own(variable)
        if not own.scales():
            return c
        changes = dict(own.coefficients)
        if own.lr_factor is not None:
            rate = c["lr_t"]
            changes["lr_t"] = rate * tf.cast(own.lr_factor, rate.dtype)
        return declaration_of(self.optimizer).changed(c, changes)

    def overridden(self, is_sparse: bool) -> str | None:
        """Which methods of an update are not this package's, in words."""
        methods = _SPARSE_METHODS if is_sparse else _DENSE_METHODS
        names = originals.overridden(self.optimizer, methods)
        if not names:
            return None
        them = ", ".join(f"`{name}`" for name in names)
        return f"{type(self.optimizer).__name__} has its own {them}"

    def once(
        self, question: Callable[[Step, bool], Any], is_sparse: bool
    ) -> Any:
        """The answer to what is the same for all updates of a kind."""
        key = question, is_sparse
        if key not in self._answers:
            self._answers[key] = question(self, is_sparse)
        return self._answers[key]


def coefficients(
    optimizer: Any, variable: Any, apply_state: Mapping | None
) -> Coefficients:
    """What `apply_state` has for a variable; else they are computed."""
    key = (variable.device, variable.dtype.base_dtype)
    found = (apply_state or {}).get(key)
    return found or optimizer._fallback_apply_state(*key)


def updates_of(
    optimizer: Any, grads_and_vars: Sequence[tuple[Any, Any]]
) -> list[Update]:
    """The records of pairs whose gradients may be `Deferred`."""
    known = optimizer._known_variables
    variables = [known.unwrap(given) for _, given in grads_and_vars]
    times = collections.Counter(map(id, variables))
    updates = []
    for (gradient, _), variable in zip(grads_and_vars, variables, strict=True):
        if not isinstance(gradient, Deferred):
            gradient = Deferred(gradient)
        updates.append(
            Update(
                variable,
                gradient.gradient,
                is_sparse(gradient.gradient),
                known.constraint(variable),
                times[id(variable)] > 1,
                gradient.transform,
                gradient.condition,
            )
        )
    return updates


def is_sparse(gradient: Any) -> bool:
    """Whether a gradient is `IndexedSlices`, at least on one replica."""
    if isinstance(gradient, (tf.Tensor, tf.IndexedSlices)):
        return isinstance(gradient, tf.IndexedSlices)
    local = tf.distribute.get_strategy().experimental_local_results(gradient)
    return any(isinstance(each, tf.IndexedSlices) for each in local)
