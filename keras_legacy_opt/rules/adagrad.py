"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.rules.declared import (
    DEFAULT_EPSILON,
    DeclaredOptimizer,
    declare,
    initial_accumulator,
)
from keras_legacy_opt.rules.formula import (
    VARIABLE,
    Changes,
    Coefficients,
    Descended,
    Formula,
    Kernel,
    Native,
    Rule,
    State,
)


def _update(state: State, grad: tf.Tensor, c: Coefficients) -> Changes:
    accumulator = state["accumulator"] + tf.square(grad)
    divisor = tf.sqrt(accumulator) + c["epsilon"]
    return {
        "accumulator": accumulator,
        VARIABLE: Descended("lr_t", grad, divisor),
    }


_SLOTS = {"accum": "accumulator"}
_COEFFICIENTS = {"lr": "lr_t", "epsilon": "epsilon"}
_FORMULA = Formula(
    slots=("accumulator",),
    update=_update,
    kernel=Kernel("AdagradV2", _SLOTS, _COEFFICIENTS),
    native=Native("adagrad", _SLOTS, _COEFFICIENTS),
)


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: Coefficients
) -> Coefficients:
    return {"epsilon": tf.convert_to_tensor(optimizer.epsilon, dtype)}


_DERIVED = {
    "neg_lr_t": lambda c: -c["lr_t"],
    "zero": lambda c: tf.zeros([], tf.int64),  # For subclasses, as legacy.
}


@hosts.public
class Adagrad(DeclaredOptimizer):
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
    _declaration = Rule(
        hypers=("learning_rate", "decay"),
        options={
            "initial_accumulator_value": "_initial_accumulator_value",
            "epsilon": "epsilon",
        },
        formula=lambda optimizer: _FORMULA,
        coefficients=_coefficients,
        derived=_DERIVED,
        initializers={"accumulator": initial_accumulator},
    )

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
        declare(
            self,
            learning_rate=kwargs.get("lr", learning_rate),
            initial_accumulator_value=initial_accumulator_value,
            epsilon=epsilon or DEFAULT_EPSILON,
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
