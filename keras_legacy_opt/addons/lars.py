"""LARS: momentum, whose steps are as long as their variables allow."""

from __future__ import annotations

import functools
import itertools
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
from keras_legacy_opt.rules.declared import declare


def _update(
    state: f.State,
    grad: tf.Tensor,
    c: f.Coefficients,
    *,
    classic: bool,
    nesterov: bool,
) -> f.Changes:
    variable = state[f.VARIABLE]
    grad = grad + c["weight_decay_rate"] * variable
    if classic:
        grad = trust_ratio(c["eeta"], variable, grad, c) * c["lr_t"] * grad
    momentum = c["momentum"] * state["momentum"] + grad
    step = c["momentum"] * momentum + grad if nesterov else momentum
    if not classic:
        step = trust_ratio(c["eeta"], variable, step, c) * c["lr_t"] * step
    return {"momentum": momentum, f.VARIABLE: f.Added(-step)}


@functools.cache
def _formula(classic: bool, nesterov: bool) -> f.Formula:
    op = f"lars{'' if classic else '_popular'}{'_nesterov' if nesterov else ''}"
    return f.Formula(
        slots=("momentum",),
        is_real=True,
        update=functools.partial(_update, classic=classic, nesterov=nesterov),
        native=f.Native(
            op,
            {"accum": "momentum"},
            {
                "lr": "lr_t",
                "weight_decay": "weight_decay_rate",
                **f.same("momentum", "eeta", "adapt"),
            },
        ),
        idle=f.Idle.EVERYTHING,
        densifies=True,
    )


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: f.Coefficients
) -> f.Coefficients:
    del c
    return {
        "weight_decay_rate": optimizer._weight_decay(dtype),
        **f.hypers_of(optimizer, dtype, "momentum", "eeta"),
        **switches(dtype),
    }


@hosts.public
class LARS(LayerAdaptationMixin):
    """LARS: gradient descent for large batches, with a step for each variable.

    A step, with the slot `momentum` (a), is

        g = g + weight_decay_rate * w
        r = eeta * norm(w) / norm(g)
        a = momentum * a + learning_rate * r * g
        w = w - a                      # or, with Nesterov:
        w = w - (momentum * a + learning_rate * r * g)

    where r is 1 if one of the norms is 0, or the variable is excluded. Without
    `classic_momentum` the learning rate comes after the momentum:

        a = momentum * a + g
        d = a                          # or, with Nesterov: momentum * a + g
        w = w - learning_rate * eeta * norm(w) / norm(d) * d

    A sparse gradient is as a dense one, with zeros for the missing rows.
    Selections and factors that are set later need a new trace, as those of
    `DecoupledWeightDecayExtension`.

    >>> opt = keras_legacy_opt.addons.LARS(learning_rate=1.0, eeta=0.1)
    >>> var = tf.Variable([3.0, 4.0])
    >>> _ = opt.minimize(lambda: var[0], [var])
    >>> var.numpy().tolist()  # 0.1 of its norm.
    [2.5, 4.0]

    Reference: [You et al., 2017](https://arxiv.org/abs/1708.03888).
    """

    _HAS_AGGREGATE_GRAD = True
    _decay = "weight_decay_rate"
    _declaration = f.Rule(
        ("learning_rate", "decay", "momentum", "weight_decay_rate", "eeta"),
        lambda optimizer: _formula(
            bool(optimizer.classic_momentum), bool(optimizer.nesterov)
        ),
        options=f.same(
            "nesterov", "classic_momentum", *LayerAdaptationMixin._selections
        ),
        coefficients=_coefficients,
        variants=tuple(
            _formula(*options)
            for options in itertools.product((True, False), repeat=2)
        ),
    )

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: Any = 0.9,
        weight_decay_rate: Any = 0.0,
        eeta: Any = 0.001,
        nesterov: bool = False,
        classic_momentum: bool = True,
        exclude_from_weight_decay: Selection = None,
        exclude_from_layer_adaptation: Selection = None,
        name: str | None = "LARS",
        learning_rate_factors: Factors = None,
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          momentum: number, tensor or callable.
          weight_decay_rate: number, tensor, callable or schedule.
          eeta: number, tensor or callable, how far a step may go.
          nesterov: whether to apply Nesterov momentum.
          classic_momentum: whether the momentum holds steps, not gradients.
          exclude_from_weight_decay: see `LAMB`.
          exclude_from_layer_adaptation: see `LAMB`.
          name: name of the optimizer's variables.
          learning_rate_factors: see `DecoupledWeightDecayExtension`.
          **kwargs: see `keras_legacy_opt.Optimizer`.

        Raises:
          TypeError: if a selection, the decay or the factors are none.
          ValueError: for a negative decay or factor, or a pattern that is no
            regular expression.
        """
        selections = self._checked_selections(
            exclude_from_weight_decay, exclude_from_layer_adaptation
        )
        super().__init__(name, **kwargs)
        self.learning_rate_factors = learning_rate_factors
        declare(
            self,
            learning_rate=kwargs.get("lr", learning_rate),
            momentum=momentum,
            weight_decay_rate=weight_decay_rate,
            eeta=eeta,
            nesterov=nesterov,
            classic_momentum=classic_momentum,
            **selections,
        )
