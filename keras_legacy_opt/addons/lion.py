"""Lion, which steps by signs."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.addons.per_variable import WeightDecayMixin
from keras_legacy_opt.rules import formula as f
from keras_legacy_opt.rules.declared import DeclaredOptimizer, declare


def _update(state: f.State, grad: tf.Tensor, c: f.Coefficients) -> f.Changes:
    sign = tf.sign(state["m"] * c["beta_1"] + grad * (1 - c["beta_1"]))
    step = c["lr_t"] * (sign + c["weight_decay"] * state[f.VARIABLE])
    m = state.average("m", grad, c["beta_2"], 1 - c["beta_2"])
    return {"m": m, f.VARIABLE: f.Added(-step)}


_HYPERS = ("beta_1", "beta_2", "weight_decay")
_COEFFICIENTS = {"lr": "lr_t", **f.same(*_HYPERS)}
_FORMULA = f.Formula(
    slots=("m",),
    update=_update,
    native=f.Native("lion", f.same("m"), _COEFFICIENTS),
)


@hosts.public
class Lion(WeightDecayMixin, DeclaredOptimizer):
    """Lion: steps of one size, in the direction of a sign.

    A step, with the slot `m`, is

        c = beta_1 * m + (1 - beta_1) * g
        w = w - learning_rate * (sign(c) + weight_decay * w)
        m = beta_2 * m + (1 - beta_2) * g

    Sparse gradients update, and decay the slot of, their rows only.

    Reference: [Chen et al., 2023](https://arxiv.org/abs/2302.06675).
    """

    _HAS_AGGREGATE_GRAD = True
    _declaration = f.Rule(
        ("learning_rate", "decay", *_HYPERS), lambda optimizer: _FORMULA
    )

    def __init__(
        self,
        learning_rate: Any = 1e-4,
        beta_1: Any = 0.9,
        beta_2: Any = 0.99,
        weight_decay: Any = 0.0,
        name: str | None = "Lion",
        **kwargs: Any,
    ):
        """Creates the optimizer; see `keras_legacy_opt.Optimizer`."""
        super().__init__(name, **kwargs)
        declare(
            self,
            learning_rate=kwargs.get("lr", learning_rate),
            beta_1=beta_1,
            beta_2=beta_2,
            weight_decay=weight_decay,
        )
