"""What updates variables: the same numbers in several ways, and one judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_legacy_opt.backends.base import Backend
from keras_legacy_opt.backends.composed import Composed
from keras_legacy_opt.backends.kernels import Kernels
from keras_legacy_opt.backends.native import NativeCPU, NativeGPU
from keras_legacy_opt.backends.overridden import Overridden, is_updating
from keras_legacy_opt.step import own
from keras_legacy_opt.step.update import Step, Update

_KERNELS, _COMPOSED = Kernels(), Composed()

# In the order in which they are asked; one of the last two takes whatever the
# others leave.
BACKENDS: list[Backend] = [
    NativeCPU(),
    NativeGPU(),
    _KERNELS,
    _COMPOSED,
    Overridden(),
]


def judge(step: Step, update: Update) -> Backend:
    """The backend that takes an update: the first that does not refuse it."""
    return asked(step, update)[0]


def asked(step: Step, update: Update) -> tuple[Backend, dict[Backend, str]]:
    """The backend that takes an update, and why those before it do not."""
    refusals = {}
    for backend in BACKENDS:
        refusal = backend.refuses(step, update)
        if refusal is None:
            return backend, refusals
        refusals[backend] = refusal
    raise NotImplementedError(  # Somebody removed one.
        f"No backend updates variable {update.variable.name!r}."
    )


def update_as_legacy(
    optimizer: Any, grad: Any, variable: Any, apply_state: Mapping | None = None
) -> Any:
    """Updates a variable as `_resource_apply_*` of legacy does.

    Whatever is overridden: a subclass that has its own method calls this one.
    What the variable has of its own comes with it, unless a step has seen to
    that, and handed on the coefficients.
    """
    step = Step(optimizer, apply_state)
    is_sparse = isinstance(grad, tf.IndexedSlices)
    update = Update(variable, grad, is_sparse)
    backend = _KERNELS if _KERNELS.lacks(step, update) is None else _COMPOSED
    if not step.has_own:
        return backend.apply(step, update)
    if is_updating(optimizer, variable):
        step.has_own = apply_state is None
        return backend.apply(step, update)
    update = update._replace(own=step.own(variable))
    return own.run([update], False, lambda each: backend.apply(step, each[0]))
