"""RectifiedAdam, which adapts to second moments once they can be known."""

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
    v = state.average_of_squares("v", grad, c["beta_2"], 1 - c["beta_2"])
    changes: dict[str, Any] = {"m": m, "v": v}
    if "vhat" in state:
        v = changes["vhat"] = tf.maximum(state["vhat"], v)
    changes[f.VARIABLE] = rectification.move(
        state, c, m * c["unbias_m"], v * c["unbias_v"]
    )
    return changes


@functools.cache
def _formula(amsgrad: bool) -> f.Formula:
    slots = ("m", "v", "vhat") if amsgrad else ("m", "v")
    op = "rectified_adam_amsgrad" if amsgrad else "rectified_adam"
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
    longest, unbias_v = c["longest"], 1.0 / c["rest_2"]
    length = longest - c["lost"] * unbias_v
    ratio = (length - 4.0) / (longest - 4.0) * (length - 2.0)
    numbers = {
        **c,
        "unbias_m": 1.0 / c["rest_1"],
        "unbias_v": unbias_v,
        "rectification": tf.sqrt(ratio / (longest - 2.0) * longest / length),
        "is_adaptive": rectification.is_adaptive(length, c),
    }
    return {name: tf.cast(number, dtype) for name, number in numbers.items()}


@hosts.public
class RectifiedAdam(WeightDecayMixin, DeclaredOptimizer):
    """RectifiedAdam: Adam that knows when its second moments are guesses.

    A step, with the slots `m` and `v`, is

        t = iterations + 1
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        s = m / (1 - beta_1**t)
        L = 2 / (1 - beta_2) - 1
        l = L - 2 * t * beta_2**t / (1 - beta_2**t)
        if l >= sma_threshold and l > 4:
            r = sqrt((l - 4) * (l - 2) * L / ((L - 4) * (L - 2) * l))
            s = r * s / (sqrt(v / (1 - beta_2**t)) + epsilon)
        w = w - learning_rate * (s + weight_decay * w)

    With `amsgrad`, the slot `vhat` keeps the maximum of all `v`, and replaces
    it in the step.  With `total_steps`, the learning rate grows linearly from 0
    in the first `warmup_proportion` of them, and then falls to `min_lr`.

    Sparse gradients decay the slots of all rows; of the variable, they move and
    decay their own.  With a beta_2 near 1, the first steps lose digits: in
    float32, l has some three.

    >>> opt = keras_legacy_opt.addons.RectifiedAdam(learning_rate=0.1)
    >>> var = tf.Variable(10.0)
    >>> _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> round(float(var), 4)  # The first steps are the momentum's.
    9.0

    Reference: [Liu et al., 2019](https://arxiv.org/abs/1908.03265).
    """

    _HAS_AGGREGATE_GRAD = True
    _declaration = f.Rule(
        hypers=rectification.HYPERS,
        options={"epsilon": "epsilon", "amsgrad": "amsgrad"},
        formula=lambda optimizer: _formula(bool(optimizer.amsgrad)),
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
        amsgrad: bool = False,
        sma_threshold: Any = 5.0,
        total_steps: int = 0,
        warmup_proportion: Any = 0.1,
        min_lr: Any = 0.0,
        name: str | None = "RectifiedAdam",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable, schedule or its config.
          beta_1: number, tensor or callable, the decay of the first moment.
          beta_2: number, tensor or callable, the decay of the second moment.
          epsilon: number, added to the denominator; 1e-7 if `None` or 0.
          weight_decay: as `learning_rate`; weights decay by it times that.
          amsgrad: whether to apply the AMSGrad variant.
          sma_threshold: number, the length of the average of squares that an
            adapted step wants; below 4, tensorflow_addons yields NaN.
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
            sma_threshold=sma_threshold,
            total_steps=total_steps,
            warmup_proportion=warmup_proportion,
            min_lr=min_lr,
        )

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return rectification.configuration(super().get_config())
