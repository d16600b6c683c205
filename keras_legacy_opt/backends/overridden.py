"""The legacy contract: what a subclass overrides updates its variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt.backends.base import Backend
from keras_legacy_opt.step.update import Step, Update


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
        optimizer, grad = step.optimizer, update.gradient
        state = {"apply_state": step.apply_state}
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
