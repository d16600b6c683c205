"""Adam, and its AMSGrad variant."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.rules.declared import (
    DEFAULT_EPSILON,
    DeclaredOptimizer,
    declare,
    without_surplus,
)
from keras_legacy_opt.rules.formula import (
    VARIABLE,
    Changes,
    Coefficients,
    Descended,
    Formula,
    Idle,
    Kernel,
    Native,
    Rule,
    State,
    hyper,
    number_of_step,
    same,
)


def update(state: State, grad: tf.Tensor, c: Coefficients) -> Changes:
    """One step of Adam, or of AMSGrad where there is a slot `vhat`."""
    m = state.average("m", grad, c["beta_1_t"], c["one_minus_beta_1_t"])
    v = state.average_of_squares(
        "v", grad, c["beta_2_t"], c["one_minus_beta_2_t"]
    )
    changes: dict[str, Any] = {"m": m, "v": v}
    if "vhat" in state:
        v = changes["vhat"] = tf.maximum(state["vhat"], v)
    changes[VARIABLE] = Descended("lr", m, tf.sqrt(v) + c["epsilon"])
    return changes


@functools.cache
def formula(amsgrad: bool) -> Formula:
    """That of Adam, or of AMSGrad."""
    slots = ("m", "v", "vhat") if amsgrad else ("m", "v")
    return Formula(
        slots=slots,
        is_real=amsgrad,
        update=update,
        kernel=Kernel(
            "AdamWithAmsgrad" if amsgrad else "Adam",
            slots=same(*slots),
            coefficients={
                "lr": "lr_t",
                "beta1": "beta_1_t",
                "beta2": "beta_2_t",
                "beta1_power": "beta_1_power",
                "beta2_power": "beta_2_power",
                "epsilon": "epsilon",
            },
            is_sparse=False,
            in_xla=not amsgrad,
        ),
        native=Native(
            "adam_amsgrad" if amsgrad else "adam",
            slots=same(*slots),
            coefficients={
                "lr": "lr_t",
                "beta_1": "beta_1_t",
                "beta_2": "beta_2_t",
                **same("beta_1_power", "beta_2_power", "epsilon"),
            },
        ),
        idle=Idle.EVERYTHING,
    )


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: Coefficients
) -> Coefficients:
    step = number_of_step(optimizer, dtype)
    beta_1 = hyper(optimizer, "beta_1", dtype)
    beta_2 = hyper(optimizer, "beta_2", dtype)
    return {
        "epsilon": tf.convert_to_tensor(optimizer.epsilon, dtype),
        "beta_1_t": beta_1,
        "beta_1_power": tf.pow(beta_1, step),
        "beta_2_t": beta_2,
        "beta_2_power": tf.pow(beta_2, step),
    }


def _bias_corrected(c: Coefficients) -> tf.Tensor:
    """The learning rate that corrects the bias of both moments."""
    correction = tf.sqrt(1 - c["beta_2_power"]) / (1 - c["beta_1_power"])
    return c["lr_t"] * correction


DERIVED = {
    "lr": _bias_corrected,
    "one_minus_beta_1_t": lambda c: 1 - c["beta_1_t"],
    "one_minus_beta_2_t": lambda c: 1 - c["beta_2_t"],
}


@hosts.public
class Adam(DeclaredOptimizer):
    """Adam: steps scaled by estimates of the gradient's first two moments.

    A step, with the slots `m` and `v`, is

        t = iterations + 1
        alpha = learning_rate * sqrt(1 - beta_2**t) / (1 - beta_1**t)
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        w = w - alpha * m / (sqrt(v) + epsilon)

    which is the formulation before section 2.1 of the paper: `epsilon` is the
    paper's "epsilon hat".  With `amsgrad`, the slot `vhat` keeps the maximum of
    all `v`, and replaces it in the last line.

    Sparse gradients are not applied lazily: all rows of `m` and `v` decay, and
    all rows of the variable move, as if the missing gradients were zeros.

    >>> opt = keras_legacy_opt.Adam(learning_rate=0.1)
    >>> var = tf.Variable(10.0)
    >>> _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> round(float(var), 4)  # The first step is learning_rate * sign(g).
    9.9

    References: [Kingma and Ba, 2014](https://arxiv.org/abs/1412.6980);
    [Reddi et al., 2018](https://openreview.net/forum?id=ryQu7f-RZ) for AMSGrad.
    """

    _HAS_AGGREGATE_GRAD = True
    _declaration = Rule(
        hypers=("learning_rate", "decay", "beta_1", "beta_2"),
        options={"epsilon": "epsilon", "amsgrad": "amsgrad"},
        formula=lambda optimizer: formula(bool(optimizer.amsgrad)),
        coefficients=_coefficients,
        derived=DERIVED,
        variants=(formula(False), formula(True)),
    )

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: float | None = 1e-7,
        amsgrad: bool = False,
        name: str | None = "Adam",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          beta_1: number, tensor or callable, the decay of the first moment.
          beta_2: number, tensor or callable, the decay of the second moment.
          epsilon: number, added to the denominator; 1e-7 if `None` or 0.
          amsgrad: whether to apply the AMSGrad variant.
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
            amsgrad=amsgrad,
        )

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets the values of `weights`; see `keras_legacy_opt.Optimizer`.

        Files of Keras 1 hold the slots of AMSGrad even where it was not used:
        the surplus third of the slots is then left out.
        """
        super().set_weights(without_surplus(self, weights))
