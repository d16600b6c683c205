"""Adamax, the variant of Adam with the infinity norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.optimizer import DEFAULT_EPSILON, Optimizer, coefficients


def decayed(
    m: tf.Tensor,
    v: tf.Tensor,
    grad: tf.Tensor,
    *,
    beta_1: tf.Tensor,
    one_minus_beta_1: tf.Tensor,
    beta_2: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The new moment and infinity norm."""
    m = m * beta_1 + grad * one_minus_beta_1
    return m, tf.maximum(v * beta_2, tf.abs(grad))


@hosts.public
class Adamax(Optimizer):
    """Adamax: Adam with the infinity norm in place of the second moment.

    A step, with the slots `m` and `v`, is

        t = iterations + 1
        m = beta_1 * m + (1 - beta_1) * g
        v = max(beta_2 * v, abs(g))
        w = w - learning_rate / (1 - beta_1**t) * m / (v + epsilon)

    Sparse gradients update, and decay the slots of, their rows only.

    >>> opt = keras_legacy_opt.Adamax(learning_rate=0.1)
    >>> var = tf.Variable(10.0)
    >>> _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> round(float(var), 4)  # The first step is learning_rate * sign(g).
    9.9

    Reference: [Kingma and Ba, 2014](https://arxiv.org/abs/1412.6980),
    section 7.1.
    """

    _HAS_AGGREGATE_GRAD = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: float | None = 1e-7,
        name: str | None = "Adamax",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          beta_1: number, tensor or callable, the decay of the first moment.
          beta_2: number, tensor or callable, the decay of the infinity norm.
          epsilon: number, added to the denominator; 1e-7 if `None` or 0.
          name: name of the optimizer's variables.
          **kwargs: see `keras_legacy_opt.Optimizer`.
        """
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("beta_1", beta_1)
        self._set_hyper("beta_2", beta_2)
        self.epsilon = epsilon or DEFAULT_EPSILON

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        for slot_name in ("m", "v"):
            for var in var_list:
                self.add_slot(var, slot_name)

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        c = apply_state[var_device, var_dtype]
        step = tf.cast(self.iterations + 1, var_dtype)
        beta_1 = tf.identity(self._get_hyper("beta_1", var_dtype))
        beta_1_power = tf.pow(beta_1, step)
        c.update(
            neg_scaled_lr=-c["lr_t"] / (1 - beta_1_power),
            epsilon=tf.convert_to_tensor(self.epsilon, var_dtype),
            beta_1_t=beta_1,
            beta_1_power=beta_1_power,
            one_minus_beta_1_t=1 - beta_1,
            beta_2_t=tf.identity(self._get_hyper("beta_2", var_dtype)),
            zero=tf.zeros([], tf.int64),  # For subclasses, as legacy.
        )

    def _resource_apply_dense(
        self, grad: tf.Tensor, var: Any, apply_state: dict | None = None
    ) -> Any:
        c = coefficients(self, var, apply_state)
        return tf.raw_ops.ResourceApplyAdaMax(
            var=var.handle,
            m=self.get_slot(var, "m").handle,
            v=self.get_slot(var, "v").handle,
            beta1_power=c["beta_1_power"],
            lr=c["lr_t"],
            beta1=c["beta_1_t"],
            beta2=c["beta_2_t"],
            epsilon=c["epsilon"],
            grad=grad,
            use_locking=self._use_locking,
        )

    def _resource_apply_sparse(
        self,
        grad: tf.Tensor,
        var: Any,
        indices: tf.Tensor,
        apply_state: dict | None = None,
    ) -> Any:
        c = coefficients(self, var, apply_state)
        m, v = self.get_slot(var, "m"), self.get_slot(var, "v")
        m_t, v_t = decayed(
            tf.gather(m, indices),
            tf.gather(v, indices),
            grad,
            beta_1=c["beta_1_t"],
            one_minus_beta_1=c["one_minus_beta_1_t"],
            beta_2=c["beta_2_t"],
        )
        step = c["neg_scaled_lr"] * (m_t / (v_t + c["epsilon"]))
        return tf.group(
            self._resource_scatter_add(var, indices, step),
            self._resource_scatter_update(m, indices, m_t),
            self._resource_scatter_update(v, indices, v_t),
        )

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter("learning_rate"),
            "decay": self._serialize_hyperparameter("decay"),
            "beta_1": self._serialize_hyperparameter("beta_1"),
            "beta_2": self._serialize_hyperparameter("beta_2"),
            "epsilon": self.epsilon,
        }
