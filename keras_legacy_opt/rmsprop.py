"""RMSprop, plain, centered and with momentum."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, private_api, slots
from keras_legacy_opt.optimizer import (
    DEFAULT_EPSILON,
    Optimizer,
    coefficients,
    uses_momentum,
)


def plain_step(
    var: tf.Tensor,
    rms: tf.Tensor,
    mg: tf.Tensor | None = None,
    *,
    grad: tf.Tensor,
    lr: tf.Tensor,
    rho: tf.Tensor,
    one_minus_rho: tf.Tensor,
    epsilon: tf.Tensor,
) -> tuple[tf.Tensor, ...]:
    """One step without momentum: the new (var, rms) or (var, rms, mg).

    `epsilon` stands outside the square root.
    """
    rms = rho * rms + one_minus_rho * tf.square(grad)
    if mg is None:
        return var - lr * grad / (tf.sqrt(rms) + epsilon), rms
    mg = rho * mg + one_minus_rho * grad
    variance = rms - tf.square(mg)
    return var - lr * grad / (tf.sqrt(variance) + epsilon), rms, mg


def momentum_step(
    var: tf.Tensor,
    rms: tf.Tensor,
    mom: tf.Tensor,
    mg: tf.Tensor | None = None,
    *,
    grad: tf.Tensor,
    lr: tf.Tensor,
    rho: tf.Tensor,
    momentum: tf.Tensor,
    epsilon: tf.Tensor,
) -> tuple[tf.Tensor, ...]:
    """One step with momentum: the new (var, rms, mom) or (..., mg).

    `epsilon` stands inside the square root.
    """
    rms = rms + (tf.square(grad) - rms) * (1 - rho)
    variance = rms
    if mg is not None:
        mg = mg + (grad - mg) * (1 - rho)
        variance = rms - tf.square(mg)
    mom = mom * momentum + lr * grad / tf.sqrt(variance + epsilon)
    return (var - mom, rms, mom) + (() if mg is None else (mg,))


@hosts.public
class RMSprop(Optimizer):
    """RMSprop: steps divided by the root mean square of recent gradients.

    A step, with the slot `rms`, and `mg` if it is centered, is

        rms = rho * rms + (1 - rho) * g**2
        mg = rho * mg + (1 - rho) * g
        variance = rms - mg**2                        # centered, else rms
        w = w - learning_rate * g / (sqrt(variance) + epsilon)

    and with momentum, whose slot is `momentum`, the last line is

        momentum_slot = (momentum * momentum_slot
                         + learning_rate * g / sqrt(variance + epsilon))
        w = w - momentum_slot

    Note where `epsilon` is.  Sparse gradients update their rows only, except
    that without momentum all rows of `rms` and `mg` decay.

    >>> opt = keras_legacy_opt.RMSprop(learning_rate=0.1)
    >>> var = tf.Variable(10.0)
    >>> _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> round(float(var), 4)  # g / sqrt(0.1 * g**2) = 3.1623
    9.6838

    References: [Hinton, 2012](
    https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf);
    [Graves, 2013](https://arxiv.org/abs/1308.0850) for the centered variant.
    """

    _HAS_AGGREGATE_GRAD = True
    _takes_weights_without_iterations = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: Any = 0.9,
        momentum: Any = 0.0,
        epsilon: float | None = 1e-7,
        centered: bool = False,
        name: str | None = "RMSprop",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          rho: number, tensor or callable, the decay of the averages.
          momentum: number in [0, 1], tensor or callable.
          epsilon: number, added to the denominator; 1e-7 if `None` or 0.
          centered: whether to divide by the estimated variance instead.
          name: name of the optimizer's variables.
          **kwargs: see `keras_legacy_opt.Optimizer`.

        Raises:
          ValueError: if `momentum` is outside [0, 1].
        """
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("rho", rho)
        self._momentum = uses_momentum(momentum)
        self._set_hyper("momentum", momentum)
        self.epsilon = epsilon or DEFAULT_EPSILON
        self.centered = centered

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        names = ["rms"]
        names += ["momentum"] if self._momentum else []
        names += ["mg"] if self.centered else []
        for slot_name in names:
            for var in var_list:
                self.add_slot(var, slot_name)

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        c = apply_state[var_device, var_dtype]
        rho = tf.identity(self._get_hyper("rho", var_dtype))
        c.update(
            neg_lr_t=-c["lr_t"],
            epsilon=tf.convert_to_tensor(self.epsilon, var_dtype),
            rho=rho,
            momentum=tf.identity(self._get_hyper("momentum", var_dtype)),
            one_minus_rho=1.0 - rho,
        )

    def _resource_apply_dense(
        self, grad: tf.Tensor, var: Any, apply_state: dict | None = None
    ) -> Any:
        c = coefficients(self, var, apply_state)
        rms = self.get_slot(var, "rms")
        mg = [self.get_slot(var, "mg")] if self.centered else []
        if not self._momentum:
            step = functools.partial(
                plain_step,
                grad=grad,
                lr=c["lr_t"],
                rho=c["rho"],
                one_minus_rho=c["one_minus_rho"],
                epsilon=c["epsilon"],
            )
            return slots.update_all((var, rms, *mg), step)
        arguments = self.__kernel_arguments(c, grad, var)
        if self.centered:
            return tf.raw_ops.ResourceApplyCenteredRMSProp(
                mg=mg[0].handle, **arguments
            )
        return tf.raw_ops.ResourceApplyRMSProp(**arguments)

    def _resource_apply_sparse(
        self,
        grad: tf.Tensor,
        var: Any,
        indices: tf.Tensor,
        apply_state: dict | None = None,
    ) -> Any:
        c = coefficients(self, var, apply_state)
        mg = [self.get_slot(var, "mg")] if self.centered else []
        if not self._momentum:
            return self.__apply_sparse_plain(c, grad, var, indices)
        if private_api.compiled_by_xla():
            step = functools.partial(
                momentum_step,
                grad=grad,
                lr=c["lr_t"],
                rho=c["rho"],
                momentum=c["momentum"],
                epsilon=c["epsilon"],
            )
            rms = self.get_slot(var, "rms")
            mom = self.get_slot(var, "momentum")
            return slots.update_rows((var, rms, mom, *mg), indices, step)
        arguments = self.__kernel_arguments(c, grad, var)
        if self.centered:
            return tf.raw_ops.ResourceSparseApplyCenteredRMSProp(
                mg=mg[0].handle, indices=indices, **arguments
            )
        return tf.raw_ops.ResourceSparseApplyRMSProp(
            indices=indices, **arguments
        )

    def __apply_sparse_plain(
        self, c: dict, grad: tf.Tensor, var: Any, indices: tf.Tensor
    ) -> Any:
        """The step without momentum: all rows decay, some are updated."""
        rms = slots.decay_then_scatter_add(
            self,
            self.get_slot(var, "rms"),
            c["rho"],
            indices,
            grad * grad * c["one_minus_rho"],
        )
        updates = [rms]
        variance = tf.gather(rms, indices)
        if self.centered:
            mg = slots.decay_then_scatter_add(
                self,
                self.get_slot(var, "mg"),
                c["rho"],
                indices,
                grad * c["one_minus_rho"],
            )
            updates.append(mg)
            variance = variance - tf.square(tf.gather(mg, indices))
        step = c["neg_lr_t"] * grad / (tf.sqrt(variance) + c["epsilon"])
        updates.append(self._resource_scatter_add(var, indices, step))
        return tf.group(*updates)

    def __kernel_arguments(self, c: dict, grad: tf.Tensor, var: Any) -> dict:
        return {
            "var": var.handle,
            "ms": self.get_slot(var, "rms").handle,
            "mom": self.get_slot(var, "momentum").handle,
            "lr": c["lr_t"],
            "rho": c["rho"],
            "momentum": c["momentum"],
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
            "momentum": self._serialize_hyperparameter("momentum"),
            "epsilon": self.epsilon,
            "centered": self.centered,
        }
