"""Gradient descent, with momentum."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, private_api, slots
from keras_legacy_opt.optimizer import Optimizer, coefficients, uses_momentum


def momentum_step(
    var: tf.Tensor,
    accum: tf.Tensor,
    *,
    grad: tf.Tensor,
    lr: tf.Tensor,
    momentum: tf.Tensor,
    nesterov: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
    """One step of gradient descent with momentum: the new (var, accum)."""
    accum = accum * momentum - grad * lr
    step = accum * momentum - grad * lr if nesterov else accum
    return var + step, accum


@hosts.public
class SGD(Optimizer):
    """Gradient descent, with momentum if wanted.

    Without momentum, a step is

        w = w - learning_rate * g

    and with momentum, whose slot is `velocity`,

        velocity = momentum * velocity - learning_rate * g
        w = w + velocity                                    # or, with Nesterov:
        w = w + momentum * velocity - learning_rate * g

    Sparse gradients update, and decay the velocity of, their rows only.

    >>> opt = keras_legacy_opt.SGD(learning_rate=0.1, momentum=0.9)
    >>> var = tf.Variable(1.0)
    >>> for _ in range(2):
    ...     _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> round(float(var), 4)  # First 1 - 0.1, then another 0.9 * 0.1 + 0.09.
    0.72

    Reference: [Sutskever et al., 2013](
    https://proceedings.mlr.press/v28/sutskever13.html).
    """

    _HAS_AGGREGATE_GRAD = True

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: Any = 0.0,
        nesterov: bool = False,
        name: str | None = "SGD",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          momentum: number in [0, 1], tensor or callable.
          nesterov: whether to apply Nesterov momentum.
          name: name of the optimizer's variables.
          **kwargs: see `keras_legacy_opt.Optimizer`.

        Raises:
          ValueError: if `momentum` is outside [0, 1].
        """
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._momentum = uses_momentum(momentum)
        self._set_hyper("momentum", momentum)
        self.nesterov = nesterov

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        if self._momentum:
            for var in var_list:
                self.add_slot(var, "momentum")

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        apply_state[var_device, var_dtype]["momentum"] = tf.identity(
            self._get_hyper("momentum", var_dtype)
        )

    def _resource_apply_dense(
        self, grad: tf.Tensor, var: Any, apply_state: dict | None = None
    ) -> Any:
        c = coefficients(self, var, apply_state)
        if not self._momentum:
            return tf.raw_ops.ResourceApplyGradientDescent(
                var=var.handle,
                alpha=c["lr_t"],
                delta=grad,
                use_locking=self._use_locking,
            )
        return tf.raw_ops.ResourceApplyKerasMomentum(
            var=var.handle,
            accum=self.get_slot(var, "momentum").handle,
            lr=c["lr_t"],
            grad=grad,
            momentum=c["momentum"],
            use_locking=self._use_locking,
            use_nesterov=self.nesterov,
        )

    def _resource_apply_sparse_duplicate_indices(
        self, grad: tf.Tensor, var: Any, indices: tf.Tensor, **kwargs: Any
    ) -> Any:
        if self._momentum:
            return super()._resource_apply_sparse_duplicate_indices(
                grad, var, indices, **kwargs
            )
        c = coefficients(self, var, kwargs.get("apply_state"))
        return tf.raw_ops.ResourceScatterAdd(
            resource=var.handle, indices=indices, updates=-grad * c["lr_t"]
        )

    def _resource_apply_sparse(
        self,
        grad: tf.Tensor,
        var: Any,
        indices: tf.Tensor,
        apply_state: dict | None = None,
    ) -> Any:
        c = coefficients(self, var, apply_state)
        accum = self.get_slot(var, "momentum")
        if private_api.compiled_by_xla():
            step = functools.partial(
                momentum_step,
                grad=grad,
                lr=c["lr_t"],
                momentum=c["momentum"],
                nesterov=self.nesterov,
            )
            return slots.update_rows((var, accum), indices, step)
        return tf.raw_ops.ResourceSparseApplyKerasMomentum(
            var=var.handle,
            accum=accum.handle,
            lr=c["lr_t"],
            grad=grad,
            indices=indices,
            momentum=c["momentum"],
            use_locking=self._use_locking,
            use_nesterov=self.nesterov,
        )

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter("learning_rate"),
            "decay": self._serialize_hyperparameter("decay"),
            "momentum": self._serialize_hyperparameter("momentum"),
            "nesterov": self.nesterov,
        }
