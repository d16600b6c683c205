"""NovoGrad: one second moment for each variable."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.addons.per_variable import (
    Factors,
    PerVariableMixin,
)
from keras_legacy_opt.rules import formula as f
from keras_legacy_opt.rules.declared import (
    DEFAULT_EPSILON,
    DeclaredOptimizer,
    declare,
    without_surplus,
)


def _update(state: f.State, grad: tf.Tensor, c: f.Coefficients) -> f.Changes:
    squares = tf.reduce_sum(tf.square(grad))
    v = state["v"] * c["v_decay"] + squares * c["v_weight"]
    changes = {"v": v}
    if "vhat" in state:
        v = changes["vhat"] = tf.maximum(state["vhat"], v)
    grad = grad / (tf.sqrt(v) + c["epsilon"])
    grad = (grad + c["weight_decay"] * state[f.VARIABLE]) * c["grad_weight"]
    m = state["m"] * c["beta_1"] - grad * c["lr_t"]
    return {**changes, "m": m, f.VARIABLE: f.Added(m)}


@functools.cache
def _formula(amsgrad: bool) -> f.Formula:
    slots = ("m", "v", "vhat") if amsgrad else ("m", "v")
    names = ("beta_1", "v_decay", "v_weight", "weight_decay", "grad_weight")
    return f.Formula(
        slots=slots,
        is_real=True,
        scalars=("v",),
        update=_update,
        native=f.Native(
            "novo_grad_amsgrad" if amsgrad else "novo_grad",
            f.same(*slots),
            {"lr": "lr_t", **f.same("epsilon", *names)},
        ),
    )


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: f.Coefficients
) -> f.Coefficients:
    del c
    betas = f.hypers_of(optimizer, dtype, "beta_1", "beta_2")
    beta_1, beta_2 = betas["beta_1"], betas["beta_2"]
    is_first = tf.equal(optimizer.iterations, 0)
    averages = tf.cast(optimizer._get_hyper("grad_averaging"), tf.bool)
    one = tf.ones([], dtype)
    return {
        "beta_1": beta_1,
        "v_decay": tf.where(is_first, tf.zeros([], dtype), beta_2),
        "v_weight": tf.where(is_first, one, 1 - beta_2),
        "grad_weight": tf.where(averages & ~is_first, 1 - beta_1, one),
        "epsilon": tf.convert_to_tensor(optimizer.epsilon, dtype),
        "weight_decay": optimizer._weight_decay(dtype),
    }


@hosts.public
class NovoGrad(PerVariableMixin, DeclaredOptimizer):
    """NovoGrad: gradients divided by an average of their norms, then momentum.

    A step, with the slots `m` and `v`, of which `v` is one number, is

        v = beta_2 * v + (1 - beta_2) * norm(g)**2   # at first: norm(g)**2
        g = g / (sqrt(v) + epsilon) + weight_decay * w
        m = beta_1 * m - learning_rate * g
        w = w + m

    With `grad_averaging`, `g` is multiplied by `1 - beta_1`, but for the first
    step. With `amsgrad`, the slot `vhat` keeps the maximum of all `v`, and
    replaces it in the second line. Sparse gradients change their rows of `m`
    and of the variable only. Factors of learning rates that are set later need
    a new trace, as those of `DecoupledWeightDecayExtension`.

    >>> opt = keras_legacy_opt.addons.NovoGrad(learning_rate=0.5)
    >>> var = tf.Variable([3.0, 4.0])
    >>> _ = opt.minimize(lambda: 7.0 * var[0], [var])
    >>> var.numpy().tolist()
    [2.5, 4.0]

    Reference: [Ginsburg et al., 2019](https://arxiv.org/abs/1905.11286).
    """

    _HAS_AGGREGATE_GRAD = True
    _selections = ()
    _declaration = f.Rule(
        (
            *("learning_rate", "decay", "beta_1", "beta_2"),
            *("weight_decay", "grad_averaging"),
        ),
        lambda optimizer: _formula(bool(optimizer.amsgrad)),
        options=f.same("epsilon", "amsgrad"),
        coefficients=_coefficients,
        variants=(_formula(False), _formula(True)),
    )

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: float | None = 1e-7,
        weight_decay: Any = 0.0,
        grad_averaging: bool = False,
        amsgrad: bool = False,
        name: str | None = "NovoGrad",
        learning_rate_factors: Factors = None,
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          beta_1: number, tensor or callable, the momentum.
          beta_2: number, tensor or callable, the decay of the second moment.
          epsilon: number, added to the denominator; 1e-7 if `None` or 0.
          weight_decay: number, tensor, callable or schedule.
          grad_averaging: whether the momentum is an average.
          amsgrad: whether to divide by the largest second moment so far.
          name: name of the optimizer's variables.
          learning_rate_factors: see `DecoupledWeightDecayExtension`.
          **kwargs: see `keras_legacy_opt.Optimizer`.

        Raises:
          TypeError: if the decay or the factors are none.
          ValueError: for a negative decay or factor.
        """
        super().__init__(name, **kwargs)
        self.learning_rate_factors = learning_rate_factors
        declare(
            self,
            learning_rate=kwargs.get("lr", learning_rate),
            beta_1=beta_1,
            beta_2=beta_2,
            weight_decay=weight_decay,
            grad_averaging=grad_averaging,
            epsilon=epsilon or DEFAULT_EPSILON,
            amsgrad=amsgrad,
        )

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets the values of `weights`; see `keras_legacy_opt.Optimizer`.

        Those of tensorflow_addons may have a surplus third of slots.
        """
        super().set_weights(without_surplus(self, weights))
