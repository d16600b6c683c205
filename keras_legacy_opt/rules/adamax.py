"""Adamax, the variant of Adam with the infinity norm."""

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
    hyper,
    number_of_step,
    same,
)


def _update(state: State, grad: tf.Tensor, c: Coefficients) -> Changes:
    m = state.average("m", grad, c["beta_1_t"], c["one_minus_beta_1_t"])
    v = tf.maximum(state["v"] * c["beta_2_t"], tf.abs(grad))
    step = c["neg_scaled_lr"] * (m / (v + c["epsilon"]))
    return {VARIABLE: Added(step), "m": m, "v": v}


_FORMULA = Formula(
    slots=("m", "v"),
    is_real=True,
    update=_update,
    kernel=Kernel(
        "AdaMax",
        same("m", "v"),
        coefficients={
            "lr": "lr_t",
            "beta1": "beta_1_t",
            "beta2": "beta_2_t",
            "beta1_power": "beta_1_power",
            "epsilon": "epsilon",
        },
        is_sparse=False,
        lacks=(tf.bfloat16,),
    ),
    native=Native(
        "adamax",
        same("m", "v"),
        coefficients={
            "lr": "lr_t",
            "beta_1": "beta_1_t",
            "beta_2": "beta_2_t",
            **same("beta_1_power", "epsilon"),
        },
    ),
)


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: Coefficients
) -> Coefficients:
    step = number_of_step(optimizer, dtype)
    beta_1 = hyper(optimizer, "beta_1", dtype)
    return {
        "epsilon": tf.convert_to_tensor(optimizer.epsilon, dtype),
        "beta_1_t": beta_1,
        "beta_1_power": tf.pow(beta_1, step),
        "beta_2_t": hyper(optimizer, "beta_2", dtype),
    }


_DERIVED = {
    "neg_scaled_lr": lambda c: -c["lr_t"] / (1 - c["beta_1_power"]),
    "one_minus_beta_1_t": lambda c: 1 - c["beta_1_t"],
    "zero": lambda c: tf.zeros([], tf.int64),  # For subclasses, as legacy.
}


@hosts.public
class Adamax(DeclaredOptimizer):
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
    _declaration = Rule(
        hypers=("learning_rate", "decay", "beta_1", "beta_2"),
        options={"epsilon": "epsilon"},
        formula=lambda optimizer: _FORMULA,
        coefficients=_coefficients,
        derived=_DERIVED,
    )

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
        declare(
            self,
            learning_rate=kwargs.get("lr", learning_rate),
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon or DEFAULT_EPSILON,
        )
