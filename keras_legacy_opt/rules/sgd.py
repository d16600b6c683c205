"""Gradient descent, with momentum."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.rules.declared import (
    DeclaredOptimizer,
    declare,
    uses_momentum,
)
from keras_legacy_opt.rules.formula import (
    VARIABLE,
    Added,
    Changes,
    Coefficients,
    Formula,
    Kernel,
    Native,
    Rule,
    State,
    same,
)


def _update(state: State, grad: tf.Tensor, c: Coefficients) -> Changes:
    return {VARIABLE: Added(-grad * c["lr_t"])}


def _update_with_momentum(
    state: State, grad: tf.Tensor, c: Coefficients, *, nesterov: bool
) -> Changes:
    velocity = state["momentum"] * c["momentum"] - grad * c["lr_t"]
    step = velocity * c["momentum"] - grad * c["lr_t"] if nesterov else velocity
    return {"momentum": velocity, VARIABLE: Added(step)}


@functools.cache
def _formula(momentum: bool, nesterov: bool) -> Formula:
    if not momentum:
        return Formula(
            slots=(),
            update=_update,
            kernel=Kernel(
                "GradientDescent",
                slots={},
                coefficients={"alpha": "lr_t"},
                gradient="delta",
                is_sparse=False,
            ),
            native=Native("sgd", slots={}, coefficients={"lr": "lr_t"}),
            sums_duplicates=False,
        )
    slots = {"accum": "momentum"}
    coefficients = {"lr": "lr_t", **same("momentum")}
    return Formula(
        slots=("momentum",),
        update=functools.partial(_update_with_momentum, nesterov=nesterov),
        kernel=Kernel(
            "KerasMomentum",
            slots,
            coefficients,
            attributes={"use_nesterov": nesterov},
        ),
        native=Native(
            "nesterov" if nesterov else "momentum", slots, coefficients
        ),
    )


@hosts.public
class SGD(DeclaredOptimizer):
    """Gradient descent, with momentum if wanted.

    Without momentum, a step is

        w = w - learning_rate * g

    and with momentum, whose slot is `velocity`,

        velocity = momentum * velocity - learning_rate * g
        w = w + velocity                                    # or, with Nesterov:
        w = w + momentum * velocity - learning_rate * g

    Sparse gradients update, and decay the velocity of, their rows only.

    >>> opt = keras_legacy_opt.SGD(learning_rate=0.1, momentum=0.9)
    >>> var = tf.Variable(1.0)
    >>> for _ in range(2):
    ...     _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> round(float(var), 4)  # First 1 - 0.1, then another 0.9 * 0.1 + 0.09.
    0.72

    Reference: [Sutskever et al., 2013](
    https://proceedings.mlr.press/v28/sutskever13.html).
    """

    _HAS_AGGREGATE_GRAD = True
    _declaration = Rule(
        hypers=("learning_rate", "decay", "momentum"),
        formula=lambda optimizer: _formula(
            bool(optimizer._momentum), bool(optimizer.nesterov)
        ),
        options={"nesterov": "nesterov"},
        variants=tuple(
            _formula(*options)
            for options in itertools.product((False, True), repeat=2)
        ),
    )

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: Any = 0.0,
        nesterov: bool = False,
        name: str | None = "SGD",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          momentum: number in [0, 1], tensor or callable.
          nesterov: whether to apply Nesterov momentum.
          name: name of the optimizer's variables.
          **kwargs: see `keras_legacy_opt.Optimizer`.

        Raises:
          ValueError: if `momentum` is outside [0, 1].
        """
        super().__init__(name, **kwargs)
        self._momentum = uses_momentum(momentum)
        declare(
            self,
            learning_rate=kwargs.get("lr", learning_rate),
            momentum=momentum,
            nesterov=nesterov,
        )
