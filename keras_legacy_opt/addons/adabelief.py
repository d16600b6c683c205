"""AdaBelief, which steps far where the gradient is as expected."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.addons import rectification
from keras_legacy_opt.addons.per_variable import WeightDecayMixin
from keras_legacy_opt.rules import formula as f
from keras_legacy_opt.rules.declared import DeclaredOptimizer


def _update(state: f.State, grad: tf.Tensor, c: f.Coefficients) -> f.Changes:
    m = state.average("m", grad, c["beta_1"], 1 - c["beta_1"])
    # A row that is not in a sparse gradient gets no epsilon.
    surprise = (1 - c["beta_2"]) * tf.square(grad - m) + c["epsilon"]
    v = state.average("v", surprise, c["beta_2"], tf.ones_like(c["beta_2"]))
    changes: dict[str, Any] = {"m": m, "v": v}
    if "vhat" in state:
        v = changes["vhat"] = tf.maximum(state["vhat"], v)
    changes[f.VARIABLE] = rectification.move(
        state, c, m / c["unbias_m"], v / c["unbias_v"]
    )
    return changes


@functools.cache
def _formula(amsgrad: bool) -> f.Formula:
    slots = ("m", "v", "vhat") if amsgrad else ("m", "v")
    op = "ada_belief_amsgrad" if amsgrad else "ada_belief"
    return f.Formula(
        slots=slots,
        is_real=True,
        update=_update,
        native=f.Native(op, f.same(*slots), rectification.INPUTS),
        idle=f.Idle.SLOTS,
    )


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: f.Coefficients
) -> f.Coefficients:
    c = rectification.coefficients(optimizer, f.arithmetic(dtype), c)
    longest = c["longest"]
    length = longest - c["lost"] / c["rest_2"]
    ratio = ((length - 4.0) * (length - 2.0) * longest) / (
        (longest - 4.0) * (longest - 2.0) * length
    )
    if optimizer.rectify:
        factor = tf.sqrt(ratio)
        is_adaptive = rectification.is_adaptive(length, c)
    else:
        factor = is_adaptive = tf.ones_like(ratio)
    numbers = {
        **c,
        "unbias_m": c["rest_1"],
        "unbias_v": c["rest_2"],
        "rectification": factor,
        "is_adaptive": is_adaptive,
    }
    return {name: tf.cast(number, dtype) for name, number in numbers.items()}


@hosts.public
class AdaBelief(WeightDecayMixin, DeclaredOptimizer):
    """AdaBelief: Adam with the variance of gradients around their average.

    A step, with the slots `m` and `v`, is

        t = iterations + 1
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * (g - m)**2 + epsilon
        s = m / (1 - beta_1**t) / (sqrt(v / (1 - beta_2**t)) + epsilon)
        w = w - learning_rate * (s + weight_decay * w)

    With `rectify`, s is rectified as in `RectifiedAdam`, which also tells what
    `amsgrad`, `sma_threshold`, `total_steps`, `warmup_proportion` and `min_lr`
    are.

    Sparse gradients decay the slots of all rows; of the variable, they move and
    decay their own.

    >>> opt = keras_legacy_opt.addons.AdaBelief(0.1, rectify=False)
    >>> var = tf.Variable(10.0)
    >>> _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> round(float(var), 4)  # 0.1 / 0.9: what was expected is 0.1 * g.
    9.8889

    Reference: [Zhuang et al., 2020](https://arxiv.org/abs/2010.07468).
    """

    _HAS_AGGREGATE_GRAD = True
    _declaration = f.Rule(
        hypers=rectification.HYPERS,
        options=f.same("epsilon", "amsgrad", "rectify"),
        formula=lambda optimizer: _formula(bool(optimizer.amsgrad)),
        coefficients=_coefficients,
        variants=(_formula(False), _formula(True)),
    )

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: float | None = 1e-14,
        weight_decay: Any = 0.0,
        amsgrad: bool = False,
        rectify: bool = True,
        sma_threshold: Any = 5.0,
        total_steps: int = 0,
        warmup_proportion: Any = 0.1,
        min_lr: Any = 0.0,
        name: str | None = "AdaBelief",
        **kwargs: Any,
    ):
        """Creates the optimizer; see also `RectifiedAdam`.

        Args:
          learning_rate: number, tensor, callable, schedule or its config.
          beta_1: number, tensor or callable, the decay of the average.
          beta_2: number, tensor or callable, the decay of the variance.
          epsilon: number, added to variances and denominators; 1e-7 if `None`
            or 0.
          weight_decay: as `learning_rate`; weights decay by it times that.
          amsgrad: whether to apply the AMSGrad variant.
          rectify: whether to rectify steps as RectifiedAdam does.
          sma_threshold: number, the length of the average that this wants.
          total_steps: of the training, for the warm-up; 0: there is none.
          warmup_proportion: number, how much of the steps the warm-up takes.
          min_lr: number, the learning rate after `total_steps`.
          name: name of the optimizer's variables.
          **kwargs: see `keras_legacy_opt.Optimizer`.
        """
        super().__init__(name, **kwargs)
        rectification.declare_options(
            self,
            learning_rate=kwargs.get("lr", learning_rate),
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            rectify=rectify,
            sma_threshold=sma_threshold,
            total_steps=total_steps,
            warmup_proportion=warmup_proportion,
            min_lr=min_lr,
        )

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return rectification.configuration(super().get_config())
