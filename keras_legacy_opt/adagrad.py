"""Adagrad."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, private_api, slots
from keras_legacy_opt.optimizer import DEFAULT_EPSILON, Optimizer, coefficients


def adagrad_step(
    var: tf.Tensor,
    accumulator: tf.Tensor,
    *,
    grad: tf.Tensor,
    lr: tf.Tensor,
    epsilon: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """One step of Adagrad: the new (var, accumulator)."""
    accumulator = accumulator + tf.square(grad)
    return var - grad * lr / (tf.sqrt(accumulator) + epsilon), accumulator


@hosts.public
class Adagrad(Optimizer):
    """Adagrad: steps divided by the root of the sum of all squared gradients.

    A step, with the slot `accumulator`, is

        accumulator = accumulator + g**2
        w = w - learning_rate * g / (sqrt(accumulator) + epsilon)

    Its learning rate is usually larger than that of others; the paper uses 1.0.
    Sparse gradients update their rows only.

    >>> opt = keras_legacy_opt.Adagrad(
    ...     learning_rate=1.0, initial_accumulator_value=0.0)
    >>> var = tf.Variable(10.0)
    >>> _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> round(float(var), 4)  # The first step is learning_rate * sign(g).
    9.0

    Reference: [Duchi et al., 2011](
    https://jmlr.org/papers/v12/duchi11a.html).
    """

    _HAS_AGGREGATE_GRAD = True
    _takes_weights_without_iterations = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float | None = 1e-7,
        name: str | None = "Adagrad",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          initial_accumulator_value: non-negative number, what the slot
            `accumulator` starts with.
          epsilon: number, added to the denominator; 1e-7 if `None` or 0.
          name: name of the optimizer's variables.
          **kwargs: see `keras_legacy_opt.Optimizer`.

        Raises:
          ValueError: if `initial_accumulator_value` is negative.
        """
        if initial_accumulator_value < 0.0:
            raise ValueError(
                "`initial_accumulator_value` must be non-negative. Received:"
                f" {initial_accumulator_value}."
            )
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
        self._set_hyper("decay", self._initial_decay)
        self._initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon or DEFAULT_EPSILON

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        initializer = tf.constant_initializer(self._initial_accumulator_value)
        for var in var_list:
            self.add_slot(var, "accumulator", initializer)

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        c = apply_state[var_device, var_dtype]
        c.update(
            epsilon=tf.convert_to_tensor(self.epsilon, var_dtype),
            neg_lr_t=-c["lr_t"],
            zero=tf.zeros([], tf.int64),  # For subclasses, as legacy.
        )

    def _resource_apply_dense(
        self, grad: tf.Tensor, var: Any, apply_state: dict | None = None
    ) -> Any:
        c = coefficients(self, var, apply_state)
        return tf.raw_ops.ResourceApplyAdagradV2(
            var=var.handle,
            accum=self.get_slot(var, "accumulator").handle,
            lr=c["lr_t"],
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
        accumulator = self.get_slot(var, "accumulator")
        if private_api.compiled_by_xla():
            step = functools.partial(
                adagrad_step, grad=grad, lr=c["lr_t"], epsilon=c["epsilon"]
            )
            return slots.update_rows((var, accumulator), indices, step)
        return tf.raw_ops.ResourceSparseApplyAdagradV2(
            var=var.handle,
            accum=accumulator.handle,
            lr=c["lr_t"],
            epsilon=c["epsilon"],
            grad=grad,
            indices=indices,
            use_locking=self._use_locking,
        )

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Any:
        """The optimizer of a configuration; see `keras_legacy_opt.Optimizer`.

        Configurations of Keras 1 lack `initial_accumulator_value`.
        """
        config = {"initial_accumulator_value": 0.1, **config}
        return super().from_config(config, custom_objects)

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter("learning_rate"),
            "decay": self._serialize_hyperparameter("decay"),
            "initial_accumulator_value": self._initial_accumulator_value,
            "epsilon": self.epsilon,
        }
