"""TensorFlow's own ops, one variable at a time: their bits are legacy's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.backends.base import Backend
from keras_legacy_opt.rules.formula import Kernel
from keras_legacy_opt.step import gradients
from keras_legacy_opt.step.update import Step, Update


class Kernels(Backend):
    """`ResourceApply...` and `ResourceSparseApply...`."""

    name = "TensorFlow's ops"

    def refuses(self, step: Step, update: Update) -> str | None:
        """See `Backend`."""
        if step.formula is None:
            return f"{type(step.optimizer).__name__} declares no formula"
        own = step.once(Step.overridden, update.is_sparse)
        return own or self.lacks(step, update)

    def lacks(self, step: Step, update: Update) -> str | None:
        """Why TensorFlow has no op for an update; None if it has."""
        kernel, is_sparse = step.declared.kernel, update.is_sparse
        if kernel is None or (is_sparse and not kernel.is_sparse):
            kind = "sparse" if is_sparse else "dense"
            return f"there is none of this formula for {kind} gradients"
        name = _name(kernel, is_sparse)
        if (is_sparse or not kernel.in_xla) and private_api.compiled_by_xla():
            return f"XLA cannot compile {name}"
        dtype = update.variable.dtype.base_dtype
        if not is_sparse and dtype in kernel.lacks:
            return f"{name} takes no {dtype.name}"
        return None

    def run(self, step: Step, updates: Sequence[Update]) -> Any:
        """See `Backend`."""
        (update,) = updates
        return self.apply(step, gradients.with_unique_rows(step, update))

    def apply(self, step: Step, update: Update) -> Any:
        """Updates a variable; the rows of a sparse gradient are unique."""
        variable, grad = update.variable, update.gradient
        kernel, c = step.declared.kernel, step.coefficients(variable)
        if kernel is None:
            raise ValueError(self.lacks(step, update))
        inputs = {
            name: step.optimizer.get_slot(variable, slot).handle
            for name, slot in kernel.slots.items()
        }
        for name, key in kernel.coefficients.items():
            inputs[name] = key(c) if callable(key) else c[key]
        if update.is_sparse:
            inputs["indices"], grad = grad.indices, grad.values
        inputs[kernel.gradient] = grad
        return getattr(tf.raw_ops, _name(kernel, update.is_sparse))(
            var=variable.handle,
            use_locking=step.optimizer._use_locking,
            **inputs,
            **kernel.attributes,
        )


def _name(kernel: Kernel, is_sparse: bool) -> str:
    return f"Resource{'Sparse' if is_sparse else ''}Apply{kernel.name}"
