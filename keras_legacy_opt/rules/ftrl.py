"""FTRL-proximal."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.rules.declared import (
    DeclaredOptimizer,
    declare,
    initial_accumulator,
)
from keras_legacy_opt.rules.formula import (
    VARIABLE,
    Changes,
    Coefficients,
    Formula,
    Kernel,
    Native,
    Rule,
    State,
    hypers_of,
    same,
)


def _update(
    state: State, grad: tf.Tensor, c: Coefficients, *, shrinks: bool
) -> Changes:
    var, power, lr = state[VARIABLE], c["learning_rate_power"], c["lr_t"]
    shrunk = grad
    if shrinks:
        shrunk += 2 * c["l2_shrinkage_regularization_strength"] * var
    accumulator = state["accumulator"] + tf.square(grad)
    scale = tf.pow(accumulator, -power)
    change = scale - tf.pow(state["accumulator"], -power)
    linear = state["linear"] + shrunk - change / lr * var
    l1 = c["l1_regularization_strength"]
    clipped = tf.clip_by_value(linear, -l1, l1)
    return {
        "accumulator": accumulator,
        "linear": linear,
        VARIABLE: (clipped - linear) / (scale / lr + 2 * _l2(c)),
    }


def _l2(c: Coefficients) -> tf.Tensor:
    return c["l2_regularization_strength"] + c["beta"] / (2.0 * c["lr_t"])


@functools.cache
def _formula(shrinks: bool) -> Formula:
    slots = {"accum": "accumulator", "linear": "linear"}
    inputs = {
        "lr": "lr_t",
        "lr_power": "learning_rate_power",
        "l1": "l1_regularization_strength",
    }
    shrinkage = {"l2_shrinkage": "l2_shrinkage_regularization_strength"}
    return Formula(
        slots=("accumulator", "linear"),
        is_real=True,
        update=functools.partial(_update, shrinks=shrinks),
        kernel=Kernel(
            "FtrlV2" if shrinks else "Ftrl",
            slots,
            {**inputs, "l2": _l2, **(shrinkage if shrinks else {})},
        ),
        native=Native(
            "ftrl_shrinkage" if shrinks else "ftrl",
            slots,
            {
                **inputs,
                "l2": "l2_regularization_strength",
                **same("beta"),
                **shrinkage,
            },
        ),
    )


_HYPERS = (
    "learning_rate_power",
    "l1_regularization_strength",
    "l2_regularization_strength",
    "beta",
)


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: Coefficients
) -> Coefficients:
    shrinkage = optimizer._l2_shrinkage_regularization_strength
    return {
        **hypers_of(optimizer, dtype, *_HYPERS),
        "l2_shrinkage_regularization_strength": tf.cast(shrinkage, dtype),
    }


@hosts.public
class Ftrl(DeclaredOptimizer):
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

    _declaration = Rule(
        hypers=("learning_rate", *_HYPERS, "decay"),
        options={
            "initial_accumulator_value": "_initial_accumulator_value",
            "l2_shrinkage_regularization_strength": (
                "_l2_shrinkage_regularization_strength"
            ),
        },
        formula=lambda optimizer: _formula(
            optimizer._l2_shrinkage_regularization_strength > 0.0
        ),
        coefficients=_coefficients,
        initializers={"accumulator": initial_accumulator},
        slots_alternate=True,
        variants=(_formula(False), _formula(True)),
    )

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
        declare(
            self,
            learning_rate=learning_rate,
            learning_rate_power=learning_rate_power,
            l1_regularization_strength=l1_regularization_strength,
            l2_regularization_strength=l2_regularization_strength,
            beta=beta,
            initial_accumulator_value=initial_accumulator_value,
            l2_shrinkage_regularization_strength=(
                l2_shrinkage_regularization_strength
            ),
        )
