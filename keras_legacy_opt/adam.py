"""Adam, and its AMSGrad variant."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, private_api, slots
from keras_legacy_opt.optimizer import DEFAULT_EPSILON, Optimizer, coefficients


def amsgrad_step(
    var: tf.Tensor,
    m: tf.Tensor,
    v: tf.Tensor,
    vhat: tf.Tensor,
    *,
    grad: tf.Tensor,
    alpha: tf.Tensor,
    one_minus_beta_1: tf.Tensor,
    one_minus_beta_2: tf.Tensor,
    epsilon: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """One step of AMSGrad: the new (var, m, v, vhat)."""
    m = m + (grad - m) * one_minus_beta_1
    v = v + (tf.square(grad) - v) * one_minus_beta_2
    vhat = tf.maximum(vhat, v)
    return var - m * alpha / (tf.sqrt(vhat) + epsilon), m, v, vhat


def accumulate_moments(
    optimizer: Optimizer,
    var: Any,
    indices: tf.Tensor,
    grad: tf.Tensor,
    c: dict[str, tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decays all of `m` and `v`, then adds a sparse gradient: their values."""
    m = slots.decay_then_scatter_add(
        optimizer,
        optimizer.get_slot(var, "m"),
        c["beta_1_t"],
        indices,
        grad * c["one_minus_beta_1_t"],
    )
    v = slots.decay_then_scatter_add(
        optimizer,
        optimizer.get_slot(var, "v"),
        c["beta_2_t"],
        indices,
        grad * grad * c["one_minus_beta_2_t"],
    )
    return m, v


@hosts.public
class Adam(Optimizer):
    """Adam: steps scaled by estimates of the gradient's first two moments.

    A step, with the slots `m` and `v`, is

        t = iterations + 1
        alpha = learning_rate * sqrt(1 - beta_2**t) / (1 - beta_1**t)
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        w = w - alpha * m / (sqrt(v) + epsilon)

    which is the formulation before section 2.1 of the paper: `epsilon` is the
    paper's "epsilon hat".  With `amsgrad`, the slot `vhat` keeps the maximum of
    all `v`, and replaces it in the last line.

    Sparse gradients are not applied lazily: all rows of `m` and `v` decay, and
    all rows of the variable move, as if the missing gradients were zeros.

    >>> opt = keras_legacy_opt.Adam(learning_rate=0.1)
    >>> var = tf.Variable(10.0)
    >>> _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> round(float(var), 4)  # The first step is learning_rate * sign(g).
    9.9

    References: [Kingma and Ba, 2014](https://arxiv.org/abs/1412.6980);
    [Reddi et al., 2018](https://openreview.net/forum?id=ryQu7f-RZ) for AMSGrad.
    """

    _HAS_AGGREGATE_GRAD = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: float | None = 1e-7,
        amsgrad: bool = False,
        name: str | None = "Adam",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          beta_1: number, tensor or callable, the decay of the first moment.
          beta_2: number, tensor or callable, the decay of the second moment.
          epsilon: number, added to the denominator; 1e-7 if `None` or 0.
          amsgrad: whether to apply the AMSGrad variant.
          name: name of the optimizer's variables.
          **kwargs: see `keras_legacy_opt.Optimizer`.
        """
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("beta_1", beta_1)
        self._set_hyper("beta_2", beta_2)
        self.epsilon = epsilon or DEFAULT_EPSILON
        self.amsgrad = amsgrad

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        names = ("m", "v", "vhat") if self.amsgrad else ("m", "v")
        for slot_name in names:
            for var in var_list:
                self.add_slot(var, slot_name)

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        c = apply_state[var_device, var_dtype]
        step = tf.cast(self.iterations + 1, var_dtype)
        beta_1 = tf.identity(self._get_hyper("beta_1", var_dtype))
        beta_2 = tf.identity(self._get_hyper("beta_2", var_dtype))
        beta_1_power = tf.pow(beta_1, step)
        beta_2_power = tf.pow(beta_2, step)
        correction = tf.sqrt(1 - beta_2_power) / (1 - beta_1_power)
        c.update(
            lr=c["lr_t"] * correction,
            epsilon=tf.convert_to_tensor(self.epsilon, var_dtype),
            beta_1_t=beta_1,
            beta_1_power=beta_1_power,
            one_minus_beta_1_t=1 - beta_1,
            beta_2_t=beta_2,
            beta_2_power=beta_2_power,
            one_minus_beta_2_t=1 - beta_2,
        )

    def _resource_apply_dense(
        self, grad: tf.Tensor, var: Any, apply_state: dict | None = None
    ) -> Any:
        c = coefficients(self, var, apply_state)
        m, v = self.get_slot(var, "m"), self.get_slot(var, "v")
        vhat = self.get_slot(var, "vhat") if self.amsgrad else None
        if vhat is not None and private_api.compiled_by_xla():
            # The one dense kernel that XLA lacks.
            step = functools.partial(
                amsgrad_step,
                grad=grad,
                alpha=c["lr"],
                one_minus_beta_1=c["one_minus_beta_1_t"],
                one_minus_beta_2=c["one_minus_beta_2_t"],
                epsilon=c["epsilon"],
            )
            return slots.update_all((var, m, v, vhat), step)
        arguments = {
            "var": var.handle,
            "m": m.handle,
            "v": v.handle,
            "beta1_power": c["beta_1_power"],
            "beta2_power": c["beta_2_power"],
            "lr": c["lr_t"],
            "beta1": c["beta_1_t"],
            "beta2": c["beta_2_t"],
            "epsilon": c["epsilon"],
            "grad": grad,
            "use_locking": self._use_locking,
        }
        if vhat is None:
            return tf.raw_ops.ResourceApplyAdam(**arguments)
        return tf.raw_ops.ResourceApplyAdamWithAmsgrad(
            vhat=vhat.handle, **arguments
        )

    def _resource_apply_sparse(
        self,
        grad: tf.Tensor,
        var: Any,
        indices: tf.Tensor,
        apply_state: dict | None = None,
    ) -> Any:
        c = coefficients(self, var, apply_state)
        m, v = accumulate_moments(self, var, indices, grad, c)
        updates = [m, v]
        if self.amsgrad:
            vhat = self.get_slot(var, "vhat")
            v = tf.maximum(vhat.read_value(), v)
            updates.append(vhat.assign(v, read_value=False))
        step = c["lr"] * m / (tf.sqrt(v) + c["epsilon"])
        updates.append(var.assign_sub(step, read_value=False))
        return tf.group(*(op for op in updates if op is not None))

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets the values of `weights`; see `keras_legacy_opt.Optimizer`.

        Files of Keras 1 hold the slots of AMSGrad even where it was not used:
        the surplus third of the slots is then left out.
        """
        slots_of_one = (len(self.weights) - 1) // 2
        if self.built and len(weights) == 3 * slots_of_one + 1:
            weights = weights[: len(self.weights)]
        super().set_weights(weights)

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter("learning_rate"),
            "decay": self._serialize_hyperparameter("decay"),
            "beta_1": self._serialize_hyperparameter("beta_1"),
            "beta_2": self._serialize_hyperparameter("beta_2"),
            "epsilon": self.epsilon,
            "amsgrad": self.amsgrad,
        }
