"""LAMB: Adam, whose steps are as long as their variables allow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.addons.layer_adaptation import (
    LayerAdaptationMixin,
    switches,
    trust_ratio,
)
from keras_legacy_opt.addons.per_variable import Factors
from keras_legacy_opt.addons.selection import Selection
from keras_legacy_opt.rules import formula as f
from keras_legacy_opt.rules.declared import DEFAULT_EPSILON, declare


def _update(state: f.State, grad: tf.Tensor, c: f.Coefficients) -> f.Changes:
    m = state.average("m", grad, c["beta_1_t"], c["one_minus_beta_1_t"])
    v = state.average_of_squares(
        "v", grad, c["beta_2_t"], c["one_minus_beta_2_t"]
    )
    # Where `v` has no digits, this is larger than any number of 16 bits.
    wide = f.arithmetic(m.dtype)
    w, mean, square = (tf.cast(x, wide) for x in (state[f.VARIABLE], m, v))
    by = {name: tf.cast(c[name], wide) for name in _OF_DIRECTION}
    root = tf.sqrt(square / by["unbias_v"])
    direction = mean / by["unbias_m"] / (root + by["epsilon"])
    direction += by["weight_decay"] * w
    step = trust_ratio(1.0, w, direction, c) * by["lr_t"] * direction
    return {"m": m, "v": v, f.VARIABLE: f.Added(-tf.cast(step, m.dtype))}


_OF_DIRECTION = ("unbias_m", "unbias_v", "epsilon", "weight_decay", "lr_t")


_FORMULA = f.Formula(
    slots=("m", "v"),
    is_real=True,
    update=_update,
    native=f.Native(
        "lamb",
        f.same("m", "v"),
        {
            "lr": "lr_t",
            "beta_1": "beta_1_t",
            "beta_2": "beta_2_t",
            **f.same(
                *("unbias_m", "unbias_v", "epsilon"),
                *("weight_decay", "adapt"),
            ),
        },
        # In 16 bits, a small `v` is 0, by the root of which is divided.
        needs_32_bits=True,
    ),
    idle=f.Idle.EVERYTHING,
)


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: f.Coefficients
) -> f.Coefficients:
    del c
    betas = f.hypers_of(optimizer, dtype, "beta_1", "beta_2")
    beta_1, beta_2 = betas["beta_1"], betas["beta_2"]
    wide = f.arithmetic(dtype)  # In 16 bits, beta_2**t has no digits.
    step = f.number_of_step(optimizer, wide)
    unbias_m, unbias_v = (
        tf.cast(1 - tf.pow(f.hyper(optimizer, name, wide), step), dtype)
        for name in ("beta_1", "beta_2")
    )
    return {
        "weight_decay": optimizer._weight_decay(dtype),
        "epsilon": tf.convert_to_tensor(optimizer.epsilon, dtype),
        "beta_1_t": beta_1,
        "unbias_m": unbias_m,
        "one_minus_beta_1_t": 1 - beta_1,
        "beta_2_t": beta_2,
        "unbias_v": unbias_v,
        "one_minus_beta_2_t": 1 - beta_2,
        **switches(dtype),
    }


@hosts.public
class LAMB(LayerAdaptationMixin):
    """LAMB: Adam for large batches, with a step for each variable.

    A step, with the slots `m` and `v`, is

        t = iterations + 1
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        m_hat, v_hat = m / (1 - beta_1**t), v / (1 - beta_2**t)
        u = m_hat / (sqrt(v_hat) + epsilon) + weight_decay * w
        w = w - learning_rate * norm(w) / norm(u) * u

    where the quotient of the norms is 1 if one of them is 0, or the variable is
    excluded from that. Sparse gradients change all rows, as if the missing
    gradients were zeros. Selections and factors that are set later need a new
    trace, as those of `DecoupledWeightDecayExtension`.

    >>> opt = keras_legacy_opt.addons.LAMB(
    ...     learning_rate=0.1, exclude_from_weight_decay=["bias", "norm"])
    >>> var = tf.Variable([3.0, 4.0])
    >>> _ = opt.minimize(lambda: tf.reduce_sum(var), [var])
    >>> [round(x, 4) for x in var.numpy().tolist()]  # 0.1 of its norm.
    [2.6464, 3.6464]

    Reference: [You et al., 2020](https://arxiv.org/abs/1904.00962).
    """

    _HAS_AGGREGATE_GRAD = True
    _declaration = f.Rule(
        (*("learning_rate", "weight_decay", "decay"), "beta_1", "beta_2"),
        lambda optimizer: _FORMULA,
        options=f.same("epsilon", *LayerAdaptationMixin._selections),
        coefficients=_coefficients,
    )

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: float | None = 1e-6,
        weight_decay: Any = 0.0,
        exclude_from_weight_decay: Selection = None,
        exclude_from_layer_adaptation: Selection = None,
        name: str | None = "LAMB",
        learning_rate_factors: Factors = None,
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          beta_1: number, tensor or callable, the decay of the first moment.
          beta_2: number, tensor or callable, the decay of the second moment.
          epsilon: number, added to the denominator; 1e-7 if `None` or 0.
          weight_decay: number, tensor, callable or schedule.
          exclude_from_weight_decay: what does not decay: patterns of which one
            is found in a variable's name or path, or variables and layers, or
            a function of the variable.
          exclude_from_layer_adaptation: likewise, whose steps do not depend on
            norms; `exclude_from_weight_decay` if there are none.
          name: name of the optimizer's variables.
          learning_rate_factors: see `DecoupledWeightDecayExtension`.
          **kwargs: see `keras_legacy_opt.Optimizer`; `weight_decay_rate` is an
            old name of `weight_decay`.

        Raises:
          TypeError: if a selection, the decay or the factors are none.
          ValueError: for a negative decay or factor, or a pattern that is no
            regular expression.
        """
        weight_decay = kwargs.pop("weight_decay_rate", weight_decay)
        selections = self._checked_selections(
            exclude_from_weight_decay, exclude_from_layer_adaptation
        )
        super().__init__(name, **kwargs)
        self.learning_rate_factors = learning_rate_factors
        declare(
            self,
            learning_rate=kwargs.get("lr", learning_rate),
            beta_1=beta_1,
            beta_2=beta_2,
            weight_decay=weight_decay,
            epsilon=epsilon or DEFAULT_EPSILON,
            **selections,
        )
