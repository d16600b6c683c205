"""The legacy contract: what a subclass overrides updates its variables."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt.backends.base import Backend
from keras_legacy_opt.state.variables import var_key
from keras_legacy_opt.step.update import Step, Update

# Whose method is updating which variable: a step has done the rest.
_updating: contextvars.ContextVar[tuple[Any, Any] | None] = (
    contextvars.ContextVar("updating", default=None)
)


def is_updating(optimizer: Any, variable: Any) -> bool:
    """Whether this is called by the method that updates a variable."""
    now = _updating.get()
    return now is not None and (
        now[0] is optimizer and var_key(now[1]) == var_key(variable)
    )


@contextlib.contextmanager
def _updates(optimizer: Any, variable: Any) -> Iterator[None]:
    token = _updating.set((optimizer, variable))
    try:
        yield
    finally:
        _updating.reset(token)


class Overridden(Backend):
    """Calls `_resource_apply_*`, as legacy does."""

    name = "methods of the optimizer"

    def refuses(self, step: Step, update: Update) -> str | None:
        """See `Backend`."""
        if step.formula is None or step.once(Step.overridden, update.is_sparse):
            return None
        return "no method that updates variables is overridden"

    def run(self, step: Step, updates: Sequence[Update]) -> Any:
        """See `Backend`."""
        (update,) = updates
        with _updates(step.optimizer, update.variable):
            return self._run(step, update)

    def _run(self, step: Step, update: Update) -> Any:
        optimizer, grad = step.optimizer, update.gradient
        state = {"apply_state": _apply_state(step, update)}
        if update.is_sparse:
            takes_state = "apply_state" in optimizer._sparse_apply_args
            op = optimizer._resource_apply_sparse_duplicate_indices(
                grad.values,
                update.variable,
                grad.indices,
                **(state if takes_state else {}),
            )
        else:
            takes_state = "apply_state" in optimizer._dense_apply_args
            op = optimizer._resource_apply_dense(
                grad, update.variable, **(state if takes_state else {})
            )
        if op is None and not tf.executing_eagerly():
            kind = "sparse" if update.is_sparse else "dense"
            raise TypeError(
                f"`_resource_apply_{kind}` of {type(optimizer).__name__}"
                " returned None in a function or graph, where it must return"
                " the operation that updates variable"
                f" {optimizer._known_variables.name(update.variable)!r}: what"
                " `assign` returned, or a `tf.group`."
            )
        return op


def _apply_state(step: Step, update: Update) -> Any:
    """The `apply_state` of one variable."""
    if not update.own.scales():
        return step.apply_state
    variable = update.variable
    key = (variable.device, variable.dtype.base_dtype)
    return {**(step.apply_state or {}), key: step.coefficients(variable)}
