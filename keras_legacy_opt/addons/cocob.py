"""COCOB-Backprop, which has no learning rate."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.rules import formula as f
from keras_legacy_opt.rules.declared import DeclaredOptimizer, declare


def _update(state: f.State, grad: tf.Tensor, c: f.Coefficients) -> f.Changes:
    scale = tf.maximum(state["lr"], tf.abs(grad))
    norms = state["grad_norm_sum"] + tf.abs(grad)
    total = state["gradients_sum"] + grad
    reward = tf.maximum(state["reward"] - grad * state["tilde_w"], 0)
    largest = tf.maximum(norms + scale, c["alpha"] * scale)
    bet = -total / (scale * largest) * (reward + scale)
    lr, w = c["lr_t"], state[f.VARIABLE]
    return {
        "lr": scale,
        "grad_norm_sum": norms,
        "gradients_sum": total,
        "tilde_w": bet,
        "reward": reward,
        f.VARIABLE: w - lr * state["tilde_w"] + lr * bet,
    }


_SLOTS = {
    "scale": "lr",
    "norms": "grad_norm_sum",
    "sum": "gradients_sum",
    "bet": "tilde_w",
    "reward": "reward",
}
_FORMULA = f.Formula(
    slots=tuple(_SLOTS.values()),
    is_real=True,
    update=_update,
    native=f.Native("cocob", _SLOTS, {"lr": "lr_t", "alpha": "alpha"}),
)


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: f.Coefficients
) -> f.Coefficients:
    # A variable may have a factor of it.
    ones = tf.ones([], dtype)
    return {"lr_t": ones, **f.hypers_of(optimizer, dtype, "alpha")}


@hosts.public
class COCOB(DeclaredOptimizer):
    """COCOB: bets on each weight, with a fortune instead of a learning rate.

    A step, with the slots `lr` (L, the largest gradient; it starts from 1e-8),
    `grad_norm_sum` (S), `gradients_sum` (G), `tilde_w` (b) and `reward` (R), is

        L = max(L, abs(g))
        S = S + abs(g)
        G = G + g
        R = max(R - g * b, 0)
        old_b, b = b, -G / (L * max(S + L, alpha * L)) * (R + L)
        w = w - old_b + b

    Sparse gradients, which tensorflow_addons refuses, update their rows only;
    zeros would not change the others either.  In float16 the 1e-8 is 0: a
    weight whose first gradient is 0 becomes NaN.

    >>> opt = keras_legacy_opt.addons.COCOB()
    >>> var = tf.Variable(10.0)
    >>> for _ in range(200):
    ...     _ = opt.minimize(lambda: (var - 3.0)**2, [var])
    >>> abs(float(var) - 3.0) < 0.5
    True

    Reference: [Orabona and Tommasi, 2017](https://arxiv.org/abs/1705.07795).
    """

    _HAS_AGGREGATE_GRAD = True
    _declaration = f.Rule(
        hypers=("alpha",),
        formula=lambda optimizer: _FORMULA,
        coefficients=_coefficients,
        initializers={"lr": lambda optimizer: tf.constant_initializer(1e-8)},
        slots_alternate=True,
    )

    def __init__(
        self,
        alpha: float = 100,
        use_locking: bool = False,
        name: str | None = "COCOB",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          alpha: number >= 1, how carefully the first bets are made.
          use_locking: without effect, as in tensorflow_addons.
          name: name of the optimizer's variables.
          **kwargs: see `keras_legacy_opt.Optimizer`; there is no `decay`.

        Raises:
          ValueError: if `alpha` is less than 1, or there is a `decay`.
        """
        del use_locking
        super().__init__(name, **kwargs)
        declare(self, alpha=alpha)

    def _check_hyper(self, name: str, value: Any) -> None:
        super()._check_hyper(name, value)
        if name == "alpha" and isinstance(value, (int, float)) and value < 1:
            raise ValueError(f"`alpha` must be at least 1. Received: {value}.")
