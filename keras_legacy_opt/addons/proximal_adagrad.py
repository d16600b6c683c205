"""Proximal Adagrad: Adagrad with L1 and L2 penalties."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.rules import formula as f
from keras_legacy_opt.rules.declared import (
    DeclaredOptimizer,
    declare,
    initial_accumulator,
)


def _update(state: f.State, grad: tf.Tensor, c: f.Coefficients) -> f.Changes:
    accumulator = state["accumulator"] + tf.square(grad)
    rate = c["lr_t"] * (1 / tf.sqrt(accumulator))
    moved = state[f.VARIABLE] - grad * rate
    shrunk = tf.abs(moved) - rate * c["l1_regularization_strength"]
    shrunk = tf.sign(moved) * tf.maximum(shrunk, 0)
    return {
        "accumulator": accumulator,
        f.VARIABLE: shrunk / (1 + c["l2_regularization_strength"] * rate),
    }


_STRENGTHS = ("l1_regularization_strength", "l2_regularization_strength")
_FORMULA = f.Formula(
    slots=("accumulator",),
    is_real=True,
    update=_update,
    # TensorFlow's kernels refuse a rate of 0, with which warm-ups begin.
    native=f.Native(
        "proximal_adagrad",
        {"accum": "accumulator"},
        {"lr": "lr_t", "l1": _STRENGTHS[0], "l2": _STRENGTHS[1]},
    ),
)


@hosts.public
class ProximalAdagrad(DeclaredOptimizer):
    """Proximal Adagrad: Adagrad that pulls weights to 0, and leaves some there.

    A step, with the slot `accumulator`, is

        accumulator = accumulator + g**2
        a = learning_rate / sqrt(accumulator)
        w = w - a * g
        w = sign(w) * max(abs(w) - l1 * a, 0) / (1 + l2 * a)

    Sparse gradients update their rows only.  A learning rate of 0, which
    tensorflow_addons refuses, may be that of a step.

    >>> opt = keras_legacy_opt.addons.ProximalAdagrad(
    ...     1.0, initial_accumulator_value=0.0, l1_regularization_strength=50.0)
    >>> var = tf.Variable(10.0)
    >>> _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> float(var)  # 10 - 1 - 50 / 10
    4.0

    Reference: [Duchi and Singer, 2009](https://papers.nips.cc/paper/
    3793-efficient-learning-using-forward-backward-splitting).
    """

    _HAS_AGGREGATE_GRAD = True
    _declaration = f.Rule(
        hypers=("learning_rate", *_STRENGTHS),
        options={"initial_accumulator_value": "_initial_accumulator_value"},
        formula=lambda optimizer: _FORMULA,
        initializers={"accumulator": initial_accumulator},
    )

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        name: str | None = "ProximalAdagrad",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          initial_accumulator_value: number >= 0, what the slot `accumulator`
            starts with.
          l1_regularization_strength: number >= 0.
          l2_regularization_strength: number >= 0.
          name: name of the optimizer's variables.
          **kwargs: see `keras_legacy_opt.Optimizer`; there is no `decay`.

        Raises:
          ValueError: if a number is negative, or there is a `decay`.
        """
        numbers = {
            "initial_accumulator_value": initial_accumulator_value,
            "l1_regularization_strength": l1_regularization_strength,
            "l2_regularization_strength": l2_regularization_strength,
        }
        for argument, value in numbers.items():
            if value < 0.0:
                raise ValueError(
                    f"`{argument}` must not be negative. Received: {value}."
                )
        super().__init__(name, **kwargs)
        declare(self, learning_rate=kwargs.get("lr", learning_rate), **numbers)
