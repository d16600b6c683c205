"""Yogi, whose second moment changes by no more than the gradient says."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.rules import formula as f
from keras_legacy_opt.rules.declared import (
    DeclaredOptimizer,
    declare,
    initial_accumulator,
)

_SIGNS = {"sign": tf.sign, "tanh": lambda x: tf.tanh(10 * x)}
_HYPERS = (
    "beta_1",
    "beta_2",
    "epsilon",
    "l1_regularization_strength",
    "l2_regularization_strength",
)


def _update(
    state: f.State, grad: tf.Tensor, c: f.Coefficients, *, activation: str
) -> f.Changes:
    changes: dict[str, Any] = {}
    m = grad
    if "m" in state:
        m = state.average("m", grad, c["beta_1"], 1 - c["beta_1"])
        changes["m"] = m
    square = grad * grad
    sign = _SIGNS[activation](square - state["v"])
    v = changes["v"] = state["v"] + (1 - c["beta_2"]) * sign * square
    rate = c["lr"] / (tf.sqrt(v) + c["epsilon"])
    moved = state[f.VARIABLE] - rate * m
    threshold = c["l1_regularization_strength"] * rate
    shrunk = (moved - threshold * tf.sign(moved)) / (
        1 + c["l2_regularization_strength"] * rate
    )
    stays = tf.cast(tf.abs(moved) > threshold, shrunk.dtype)
    changes[f.VARIABLE] = stays * shrunk
    return changes


@functools.cache
def _formula(averages: bool, activation: str) -> f.Formula:
    inputs = {
        "lr": "lr_t",
        **f.same("beta_1_power", "beta_2_power", "beta_1", "beta_2", "epsilon"),
        "l1": "l1_regularization_strength",
        "l2": "l2_regularization_strength",
    }
    slots = ("v", "m") if averages else ("v",)
    op = "yogi_momentum" if averages else "yogi"
    return f.Formula(
        slots=slots,
        is_real=True,
        update=functools.partial(_update, activation=activation),
        # TensorFlow's tanh has bits of its own.
        native=f.Native(op, f.same(*slots), inputs)
        if activation == "sign"
        else None,
        idle=f.Idle.SLOTS if averages else f.Idle.NOTHING,
    )


def _formula_of(optimizer: Any) -> f.Formula:
    return _formula(optimizer._averages, optimizer._activation)


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: f.Coefficients
) -> f.Coefficients:
    del c
    hypers = f.hypers_of(optimizer, dtype, *_HYPERS)
    step = f.number_of_step(optimizer, dtype)
    return {
        **hypers,
        "beta_1_power": tf.pow(hypers["beta_1"], step),
        "beta_2_power": tf.pow(hypers["beta_2"], step),
    }


def _bias_corrected(c: f.Coefficients) -> tf.Tensor:
    """The learning rate that corrects the bias of both moments."""
    root = tf.sqrt(1 - c["beta_2_power"])
    return c["lr_t"] * root / (1 - c["beta_1_power"])


@hosts.public
class Yogi(DeclaredOptimizer):
    """Yogi: Adam whose second moment grows and shrinks additively.

    A step, with the slots `v` and, unless `beta1` is 0, `m` (else m = g), is

        t = iterations + 1
        m = beta1 * m + (1 - beta1) * g
        v = v + (1 - beta2) * sign(g**2 - v) * g**2
        a = learning_rate * sqrt(1 - beta2**t) / (1 - beta1**t)
        a = a / (sqrt(v) + epsilon)
        w = w - a * m
        w = sign(w) * max(abs(w) - l1 * a, 0) / (1 + l2 * a)

    With `activation="tanh"`, tanh(10 * x) replaces sign(x) in the line of v;
    native ops do not have it.  Sparse gradients update their rows, and decay
    `m` in all rows.

    >>> opt = keras_legacy_opt.addons.Yogi(learning_rate=0.1)
    >>> var = tf.Variable(10.0)
    >>> _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> round(float(var), 3)
    9.9

    Reference: [Zaheer et al., 2018](https://papers.nips.cc/paper/
    8186-adaptive-methods-for-nonconvex-optimization).
    """

    _HAS_AGGREGATE_GRAD = True
    _declaration = f.Rule(
        hypers=("learning_rate", "decay", *_HYPERS),
        options={
            "activation": "_activation",
            "initial_accumulator_value": "_initial_accumulator_value",
        },
        formula=_formula_of,
        coefficients=_coefficients,
        derived={"lr": _bias_corrected},
        initializers={"v": initial_accumulator},
        slots_alternate=True,
        variants=tuple(_formula(a, s) for a in (True, False) for s in _SIGNS),
        called={"beta_1": "beta1", "beta_2": "beta2"},
    )

    def __init__(
        self,
        learning_rate: Any = 0.01,
        beta1: Any = 0.9,
        beta2: Any = 0.999,
        epsilon: Any = 1e-3,
        l1_regularization_strength: Any = 0.0,
        l2_regularization_strength: Any = 0.0,
        initial_accumulator_value: float = 1e-6,
        activation: str = "sign",
        name: str | None = "Yogi",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          beta1: number, tensor or callable, the decay of the first moment.  The
            number 0 does without the slot `m`, for good.
          beta2: number, tensor or callable, the decay of the second moment.
          epsilon: number, tensor or callable, added to the denominator.
          l1_regularization_strength: number, tensor or callable, >= 0.
          l2_regularization_strength: number, tensor or callable, >= 0.
          initial_accumulator_value: number, what the slot `v` starts with.
          activation: "sign" or "tanh".
          name: name of the optimizer's variables.
          **kwargs: see `keras_legacy_opt.Optimizer`.

        Raises:
          ValueError: if `activation` is neither.
        """
        if activation not in _SIGNS:
            raise ValueError(
                '`activation` must be "sign" or "tanh". Received:'
                f" {activation!r}."
            )
        super().__init__(name, **kwargs)
        declare(
            self,
            learning_rate=kwargs.get("lr", learning_rate),
            beta_1=beta1,
            beta_2=beta2,
            epsilon=epsilon,
            l1_regularization_strength=l1_regularization_strength,
            l2_regularization_strength=l2_regularization_strength,
            activation=activation,
            initial_accumulator_value=initial_accumulator_value,
        )
        self._averages = not (isinstance(beta1, (int, float)) and beta1 == 0)
