"""Adadelta."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, private_api, slots
from keras_legacy_opt.optimizer import DEFAULT_EPSILON, Optimizer, coefficients


def adadelta_step(
    var: tf.Tensor,
    accum_grad: tf.Tensor,
    accum_var: tf.Tensor,
    *,
    grad: tf.Tensor,
    lr: tf.Tensor,
    rho: tf.Tensor,
    epsilon: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One step of Adadelta: the new (var, accum_grad, accum_var)."""
    accum_grad = accum_grad * rho + tf.square(grad) * (1 - rho)
    step = tf.sqrt(accum_var + epsilon) / tf.sqrt(accum_grad + epsilon) * grad
    accum_var = accum_var * rho + tf.square(step) * (1 - rho)
    return var - step * lr, accum_grad, accum_var


@hosts.public
class Adadelta(Optimizer):
    """Adadelta: steps in the units of the weights, from two running averages.

    A step, with the slots `accum_grad` and `accum_var`, is

        accum_grad = rho * accum_grad + (1 - rho) * g**2
        step = sqrt(accum_var + epsilon) / sqrt(accum_grad + epsilon) * g
        accum_var = rho * accum_var + (1 - rho) * step**2
        w = w - learning_rate * step

    The paper has no learning rate: set it to 1.0 to match.  Sparse gradients
    update their rows only.

    >>> opt = keras_legacy_opt.Adadelta(learning_rate=1.0, epsilon=0.01)
    >>> var = tf.Variable(10.0)
    >>> _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> round(float(var), 4)  # 0.1 / sqrt(0.05 * 100 + 0.01) * 10 = 0.4468
    9.5532

    Reference: [Zeiler, 2012](https://arxiv.org/abs/1212.5701).
    """

    _HAS_AGGREGATE_GRAD = True
    _takes_weights_without_iterations = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: Any = 0.95,
        epsilon: float | None = 1e-7,
        name: str | None = "Adadelta",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          rho: number, tensor or callable, the decay of the averages.
          epsilon: number, inside the square roots; 1e-7 if `None` or 0.
          name: name of the optimizer's variables.
          **kwargs: see `keras_legacy_opt.Optimizer`.
        """
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("rho", rho)
        self.epsilon = epsilon or DEFAULT_EPSILON

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        for slot_name in ("accum_grad", "accum_var"):
            for var in var_list:
                self.add_slot(var, slot_name)

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        apply_state[var_device, var_dtype].update(
            epsilon=tf.convert_to_tensor(self.epsilon, var_dtype),
            rho=tf.identity(self._get_hyper("rho", var_dtype)),
        )

    def _resource_apply_dense(
        self, grad: tf.Tensor, var: Any, apply_state: dict | None = None
    ) -> Any:
        return tf.raw_ops.ResourceApplyAdadelta(
            **self.__kernel_arguments(grad, var, apply_state)
        )

    def _resource_apply_sparse(
        self,
        grad: tf.Tensor,
        var: Any,
        indices: tf.Tensor,
        apply_state: dict | None = None,
    ) -> Any:
        if private_api.compiled_by_xla():
            c = coefficients(self, var, apply_state)
            step = functools.partial(
                adadelta_step,
                grad=grad,
                lr=c["lr_t"],
                rho=c["rho"],
                epsilon=c["epsilon"],
            )
            accum_grad = self.get_slot(var, "accum_grad")
            accum_var = self.get_slot(var, "accum_var")
            return slots.update_rows(
                (var, accum_grad, accum_var), indices, step
            )
        return tf.raw_ops.ResourceSparseApplyAdadelta(
            indices=indices, **self.__kernel_arguments(grad, var, apply_state)
        )

    def __kernel_arguments(
        self, grad: tf.Tensor, var: Any, apply_state: dict | None
    ) -> dict:
        c = coefficients(self, var, apply_state)
        return {
            "var": var.handle,
            "accum": self.get_slot(var, "accum_grad").handle,
            "accum_update": self.get_slot(var, "accum_var").handle,
            "lr": c["lr_t"],
            "rho": c["rho"],
            "epsilon": c["epsilon"],
            "grad": grad,
            "use_locking": self._use_locking,
        }

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter("learning_rate"),
            "decay": self._serialize_hyperparameter("decay"),
            "rho": self._serialize_hyperparameter("rho"),
            "epsilon": self.epsilon,
        }
