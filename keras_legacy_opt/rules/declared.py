"""The methods of the legacy API, as an optimizer's declaration has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from keras_legacy_opt import backends, originals
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.rules.formula import LazyCoefficients, Rule, hyper

_REAL = (tf.bfloat16, tf.float16, tf.float32, tf.float64)
# Where one is overridden, it decides what a variable may be.
_UPDATES = (
    "_resource_apply_dense",
    "_resource_apply_sparse",
    "_resource_apply_sparse_duplicate_indices",
)
DEFAULT_EPSILON = 1e-7  # Keras' `backend.epsilon()`.


class DeclaredOptimizer(Optimizer):
    """An optimizer whose class has a `Rule`."""

    _declaration: ClassVar[Rule]

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        rule = self._declaration
        formula = rule.formula(self)
        names = formula.slots
        if rule.slots_alternate:
            order = [(var, name) for var in var_list for name in names]
        else:
            order = [(var, name) for name in names for var in var_list]
        initializers = {n: make(self) for n, make in rule.initializers.items()}
        for var, name in order:
            shape = [] if name in formula.scalars else None
            self.add_slot(var, name, initializers.get(name, "zeros"), shape)

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        rule, c = self._declaration, apply_state[var_device, var_dtype]
        if rule.has_schedule:
            super()._prepare_local(var_device, var_dtype, apply_state)
        else:
            c["lr_t"] = hyper(self, "learning_rate", var_dtype)
        c.update(rule.coefficients(self, var_dtype, c))
        if isinstance(c, LazyCoefficients):
            return
        for attribute, name in rule.also.items():
            variable = getattr(self, attribute)
            if variable.dtype.base_dtype == var_dtype:
                c[name] = tf.identity(
                    tf.compat.v1.assign(
                        variable, c[name], use_locking=self._use_locking
                    )
                )
        for name, derive in rule.derived.items():
            c[name] = derive(c)

    def _resource_apply_dense(
        self, grad: tf.Tensor, var: Any, apply_state: dict | None = None
    ) -> Any:
        return backends.update_as_legacy(self, grad, var, apply_state)

    def _resource_apply_sparse_duplicate_indices(
        self, grad: tf.Tensor, var: Any, indices: tf.Tensor, **kwargs: Any
    ) -> Any:
        if self._declaration.formula(self).sums_duplicates:
            return super()._resource_apply_sparse_duplicate_indices(
                grad, var, indices, **kwargs
            )
        return backends.update_as_legacy(
            self, tf.IndexedSlices(grad, indices), var, **kwargs
        )

    def _resource_apply_sparse(
        self,
        grad: tf.Tensor,
        var: Any,
        indices: tf.Tensor,
        apply_state: dict | None = None,
    ) -> Any:
        return backends.update_as_legacy(
            self, tf.IndexedSlices(grad, indices), var, apply_state
        )

    def _valid_dtypes(self) -> Iterable[tf.DType]:
        formula = self._declaration.formula(self)
        if formula.is_real and originals.is_own(self, _UPDATES):
            return _REAL
        return super()._valid_dtypes()

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return {
            **super().get_config(),
            **{
                self._declaration.called.get(name, name): (
                    self._serialize_hyperparameter(name)
                )
                for name in self._declaration.hypers
            },
            **{
                name: getattr(self, attribute)
                for name, attribute in self._declaration.options.items()
            },
        }


def uses_momentum(momentum: Any) -> bool:
    """Whether an optimizer with this `momentum` needs slots for it.

    Raises:
      ValueError: if it is a number outside [0, 1].
    """
    if isinstance(momentum, (int, float)) and not 0 <= momentum <= 1:
        raise ValueError(
            "`momentum` must be between [0, 1]. Received:"
            f" momentum={momentum} (of type {type(momentum).__name__})."
        )
    return tf.is_tensor(momentum) or callable(momentum) or momentum > 0


def initial_accumulator(optimizer: Any) -> Any:
    """The initializer of a slot that starts from a number."""
    return tf.constant_initializer(optimizer._initial_accumulator_value)


def without_surplus(optimizer: Any, weights: Sequence[Any]) -> Sequence[Any]:
    """Weights for `set_weights`, without slots of AMSGrad that are not used.

    Files of Keras 1 and of tensorflow_addons hold them all the same: as the
    last third of the slots.
    """
    slots_of_one = (len(optimizer.weights) - 1) // 2
    if optimizer.built and len(weights) == 3 * slots_of_one + 1:
        return weights[: len(optimizer.weights)]
    return weights


def declare(optimizer: DeclaredOptimizer, **values: Any) -> None:
    """Sets hyperparameters and options, as the constructor was given them.

    Nothing may be left out; `decay` is what the base class was given.

    Raises:
      ValueError: if that is given to an optimizer that does not have it.
    """
    rule = optimizer._declaration
    if "decay" in rule.hypers:
        values.setdefault("decay", optimizer._initial_decay)
    elif optimizer._initial_decay:
        raise ValueError(
            f"{type(optimizer).__name__} has no `decay`. Received:"
            f" decay={optimizer._initial_decay}. Leave it out; if there is a"
            " `learning_rate`, pass a schedule: InverseTimeDecay is the same."
        )
    for name in rule.hypers:
        optimizer._set_hyper(name, values.pop(name))
    for name, attribute in rule.options.items():
        setattr(optimizer, attribute, values.pop(name))
    if values:
        raise TypeError(f"Not declared: {', '.join(values)}.")
