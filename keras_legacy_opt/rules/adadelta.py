"""Adadelta."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.rules.declared import (
    DEFAULT_EPSILON,
    DeclaredOptimizer,
    declare,
)
from keras_legacy_opt.rules.formula import (
    VARIABLE,
    Added,
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


def _update(state: State, grad: tf.Tensor, c: Coefficients) -> Changes:
    rho, epsilon, lr = c["rho"], c["epsilon"], c["lr_t"]
    accum_grad = state.average_of_squares("accum_grad", grad, rho, 1 - rho)
    root = tf.sqrt(state["accum_var"] + epsilon)
    step = root / tf.sqrt(accum_grad + epsilon) * grad
    return {
        "accum_grad": accum_grad,
        "accum_var": state.average_of_squares("accum_var", step, rho, 1 - rho),
        VARIABLE: Added(-step * lr),
    }


_COEFFICIENTS = {"lr": "lr_t", **same("rho", "epsilon")}
_FORMULA = Formula(
    slots=("accum_grad", "accum_var"),
    update=_update,
    kernel=Kernel(
        "Adadelta",
        slots={"accum": "accum_grad", "accum_update": "accum_var"},
        coefficients=_COEFFICIENTS,
    ),
    native=Native(
        "adadelta",
        slots=same("accum_grad", "accum_var"),
        coefficients=_COEFFICIENTS,
    ),
)


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: Coefficients
) -> Coefficients:
    return {
        "epsilon": tf.convert_to_tensor(optimizer.epsilon, dtype),
        **hypers_of(optimizer, dtype, "rho"),
    }


@hosts.public
class Adadelta(DeclaredOptimizer):
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
    _declaration = Rule(
        hypers=("learning_rate", "decay", "rho"),
        options={"epsilon": "epsilon"},
        formula=lambda optimizer: _FORMULA,
        coefficients=_coefficients,
    )

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
        declare(
            self,
            learning_rate=kwargs.get("lr", learning_rate),
            rho=rho,
            epsilon=epsilon or DEFAULT_EPSILON,
        )
