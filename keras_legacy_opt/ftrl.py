"""FTRL-proximal."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, private_api, slots
from keras_legacy_opt.optimizer import Optimizer, coefficients


def ftrl_step(
    var: tf.Tensor,
    accumulator: tf.Tensor,
    linear: tf.Tensor,
    *,
    grad: tf.Tensor,
    lr: tf.Tensor,
    l1: tf.Tensor,
    l2: tf.Tensor,
    l2_shrinkage: tf.Tensor,
    lr_power: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One step of FTRL-proximal: the new (var, accumulator, linear)."""
    old_scale = tf.pow(accumulator, -lr_power)
    accumulator = accumulator + tf.square(grad)
    scale = tf.pow(accumulator, -lr_power)
    shrunk = grad + 2 * l2_shrinkage * var
    linear = linear + shrunk - (scale - old_scale) / lr * var
    quadratic = scale / lr + 2 * l2
    var = (tf.clip_by_value(linear, -l1, l1) - linear) / quadratic
    return var, accumulator, linear


@hosts.public
class Ftrl(Optimizer):
    """FTRL-proximal: follow the regularized leader, for sparse linear models.

    A step, with the slots `accumulator` (n) and `linear` (z), where p is
    `-learning_rate_power`, l1 the L1 strength, and l2 the L2 strength plus
    `beta / (2 * learning_rate)`, is

        old_n, n = n, n + g**2
        g = g + 2 * l2_shrinkage_regularization_strength * w
        z = z + g - (n**p - old_n**p) / learning_rate * w
        w = (clip(z, -l1, l1) - z) / (n**p / learning_rate + 2 * l2)

    Weights whose z stays within plus or minus l1 are exactly 0.  Sparse
    gradients update their rows only.

    >>> opt = keras_legacy_opt.Ftrl(learning_rate=0.1)
    >>> var = tf.Variable(0.0)
    >>> _ = opt.minimize(lambda: (var - 1.0)**2 / 2.0, [var])
    >>> round(float(var), 4)  # 0.1 * 1 / sqrt(0.1 + 1)
    0.0953

    Reference: [McMahan et al., 2013](
    https://research.google.com/pubs/archive/41159.pdf).
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        learning_rate_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        name: str | None = "Ftrl",
        l2_shrinkage_regularization_strength: float = 0.0,
        beta: float = 0.0,
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          learning_rate_power: number <= 0, how the learning rate falls; 0 is a
            constant learning rate.
          initial_accumulator_value: number >= 0, what the slot `accumulator`
            starts with.
          l1_regularization_strength: number >= 0.
          l2_regularization_strength: number >= 0, a stabilization penalty.
          name: name of the optimizer's variables.
          l2_shrinkage_regularization_strength: number >= 0, a magnitude
            penalty: weights shrink where there is a gradient.
          beta: number, the beta of the paper.
          **kwargs: see `keras_legacy_opt.Optimizer`.  `lr` is accepted and
            ignored, as it always was.

        Raises:
          ValueError: if a number is out of range.
        """
        super().__init__(name, **kwargs)
        non_negative = {
            "initial_accumulator_value": initial_accumulator_value,
            "l1_regularization_strength": l1_regularization_strength,
            "l2_regularization_strength": l2_regularization_strength,
            "l2_shrinkage_regularization_strength": (
                l2_shrinkage_regularization_strength
            ),
        }
        for argument, value in non_negative.items():
            if value < 0.0:
                raise ValueError(
                    f"`{argument}` needs to be positive or zero. Received:"
                    f" {value}."
                )
        if learning_rate_power > 0.0:
            raise ValueError(
                "`learning_rate_power` needs to be negative or zero. Received:"
                f" {learning_rate_power}."
            )
        self._set_hyper("learning_rate", learning_rate)
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("learning_rate_power", learning_rate_power)
        self._set_hyper(
            "l1_regularization_strength", l1_regularization_strength
        )
        self._set_hyper(
            "l2_regularization_strength", l2_regularization_strength
        )
        self._set_hyper("beta", beta)
        self._initial_accumulator_value = initial_accumulator_value
        self._l2_shrinkage_regularization_strength = (
            l2_shrinkage_regularization_strength
        )

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        initializer = tf.constant_initializer(self._initial_accumulator_value)
        for var in var_list:
            self.add_slot(var, "accumulator", initializer)
            self.add_slot(var, "linear")

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        c = apply_state[var_device, var_dtype]
        for hyper in (
            "learning_rate_power",
            "l1_regularization_strength",
            "l2_regularization_strength",
            "beta",
        ):
            c[hyper] = tf.identity(self._get_hyper(hyper, var_dtype))
        c["l2_shrinkage_regularization_strength"] = tf.cast(
            self._l2_shrinkage_regularization_strength, var_dtype
        )

    def _resource_apply_dense(
        self, grad: tf.Tensor, var: Any, apply_state: dict | None = None
    ) -> Any:
        arguments, shrinkage = self.__kernel_arguments(var, apply_state)
        handles = self.__handles(var)
        if shrinkage is None:
            return tf.raw_ops.ResourceApplyFtrl(
                grad=grad, use_locking=self._use_locking, **handles, **arguments
            )
        return tf.raw_ops.ResourceApplyFtrlV2(
            grad=grad,
            l2_shrinkage=shrinkage,
            use_locking=self._use_locking,
            **handles,
            **arguments,
        )

    def _resource_apply_sparse(
        self,
        grad: tf.Tensor,
        var: Any,
        indices: tf.Tensor,
        apply_state: dict | None = None,
    ) -> Any:
        arguments, shrinkage = self.__kernel_arguments(var, apply_state)
        if private_api.compiled_by_xla():
            step = functools.partial(
                ftrl_step,
                grad=grad,
                l2_shrinkage=tf.zeros([], grad.dtype)
                if shrinkage is None
                else shrinkage,
                **arguments,
            )
            accumulator = self.get_slot(var, "accumulator")
            linear = self.get_slot(var, "linear")
            return slots.update_rows((var, accumulator, linear), indices, step)
        handles = self.__handles(var)
        if shrinkage is None:
            return tf.raw_ops.ResourceSparseApplyFtrl(
                grad=grad,
                indices=indices,
                use_locking=self._use_locking,
                **handles,
                **arguments,
            )
        return tf.raw_ops.ResourceSparseApplyFtrlV2(
            grad=grad,
            indices=indices,
            l2_shrinkage=shrinkage,
            use_locking=self._use_locking,
            **handles,
            **arguments,
        )

    def __handles(self, var: Any) -> dict[str, tf.Tensor]:
        return {
            "var": var.handle,
            "accum": self.get_slot(var, "accumulator").handle,
            "linear": self.get_slot(var, "linear").handle,
        }

    def __kernel_arguments(
        self, var: Any, apply_state: dict | None
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor | None]:
        """The kernels' coefficients, and the L2 shrinkage if there is any."""
        c = coefficients(self, var, apply_state)
        arguments = {
            "lr": c["lr_t"],
            "l1": c["l1_regularization_strength"],
            "l2": c["l2_regularization_strength"]
            + c["beta"] / (2.0 * c["lr_t"]),
            "lr_power": c["learning_rate_power"],
        }
        if self._l2_shrinkage_regularization_strength <= 0.0:
            return arguments, None
        return arguments, c["l2_shrinkage_regularization_strength"]

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        hypers = (
            "learning_rate",
            "learning_rate_power",
            "l1_regularization_strength",
            "l2_regularization_strength",
            "beta",
        )
        return {
            **super().get_config(),
            **{name: self._serialize_hyperparameter(name) for name in hypers},
            "decay": self._serialize_hyperparameter("decay"),
            "initial_accumulator_value": self._initial_accumulator_value,
            "l2_shrinkage_regularization_strength": (
                self._l2_shrinkage_regularization_strength
            ),
        }
