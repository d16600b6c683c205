"""RMSprop, plain, centered and with momentum."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.rules.declared import (
    DEFAULT_EPSILON,
    DeclaredOptimizer,
    declare,
    uses_momentum,
)
from keras_legacy_opt.rules.formula import (
    VARIABLE,
    Added,
    Changes,
    Coefficients,
    Descended,
    Formula,
    Idle,
    Kernel,
    Native,
    Rule,
    State,
    hypers_of,
    same,
)


def _update(state: State, grad: tf.Tensor, c: Coefficients) -> Changes:
    """The slots say which of the four variants it is."""
    rho, one_minus_rho = c["rho"], c["one_minus_rho"]
    rms = state.average_of_squares("rms", grad, rho, one_minus_rho)
    changes: dict[str, Any] = {"rms": rms}
    variance = rms
    if "mg" in state:
        mg = changes["mg"] = state.average("mg", grad, rho, one_minus_rho)
        variance = rms - tf.square(mg)
    if "momentum" not in state:
        divisor = tf.sqrt(variance) + c["epsilon"]
        changes[VARIABLE] = Descended("lr_t", grad, divisor)
        return changes
    step = c["lr_t"] * grad / tf.sqrt(variance + c["epsilon"])
    momentum = state["momentum"] * c["momentum"] + step
    return {**changes, "momentum": momentum, VARIABLE: Added(-momentum)}


@functools.cache
def _formula(momentum: bool, centered: bool) -> Formula:
    inputs = {"ms": "rms"}
    inputs |= {"mom": "momentum"} if momentum else {}
    inputs |= {"mg": "mg"} if centered else {}
    coefficients = {"lr": "lr_t", **same("rho", "momentum", "epsilon")}
    kernel = "CenteredRMSProp" if centered else "RMSProp"
    op = "rms_prop"
    op += "_centered" if centered else ""
    op += "_momentum" if momentum else ""
    return Formula(
        slots=tuple(inputs.values()),
        update=_update,
        kernel=Kernel(kernel, inputs, coefficients) if momentum else None,
        native=Native(op, inputs, coefficients),
        idle=Idle.NOTHING if momentum else Idle.SLOTS,
    )


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: Coefficients
) -> Coefficients:
    return {
        "epsilon": tf.convert_to_tensor(optimizer.epsilon, dtype),
        **hypers_of(optimizer, dtype, "rho", "momentum"),
    }


_DERIVED = {
    "neg_lr_t": lambda c: -c["lr_t"],
    "one_minus_rho": lambda c: 1.0 - c["rho"],
}


@hosts.public
class RMSprop(DeclaredOptimizer):
    """RMSprop: steps divided by the root mean square of recent gradients.

    A step, with the slot `rms`, and `mg` if it is centered, is

        rms = rho * rms + (1 - rho) * g**2
        mg = rho * mg + (1 - rho) * g
        variance = rms - mg**2                        # centered, else rms
        w = w - learning_rate * g / (sqrt(variance) + epsilon)

    and with momentum, whose slot is `momentum`, the last line is

        momentum_slot = (momentum * momentum_slot
                         + learning_rate * g / sqrt(variance + epsilon))
        w = w - momentum_slot

    Note where `epsilon` is.  Sparse gradients update their rows only, except
    that without momentum all rows of `rms` and `mg` decay.

    >>> opt = keras_legacy_opt.RMSprop(learning_rate=0.1)
    >>> var = tf.Variable(10.0)
    >>> _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> round(float(var), 4)  # g / sqrt(0.1 * g**2) = 3.1623
    9.6838

    References: [Hinton, 2012](
    https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf);
    [Graves, 2013](https://arxiv.org/abs/1308.0850) for the centered variant.
    """

    _HAS_AGGREGATE_GRAD = True
    _takes_weights_without_iterations = True
    _declaration = Rule(
        hypers=("learning_rate", "decay", "rho", "momentum"),
        options={"epsilon": "epsilon", "centered": "centered"},
        formula=lambda optimizer: _formula(
            bool(optimizer._momentum), bool(optimizer.centered)
        ),
        coefficients=_coefficients,
        derived=_DERIVED,
        variants=tuple(
            _formula(*options)
            for options in itertools.product((False, True), repeat=2)
        ),
    )

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: Any = 0.9,
        momentum: Any = 0.0,
        epsilon: float | None = 1e-7,
        centered: bool = False,
        name: str | None = "RMSprop",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor, callable or schedule.
          rho: number, tensor or callable, the decay of the averages.
          momentum: number in [0, 1], tensor or callable.
          epsilon: number, added to the denominator; 1e-7 if `None` or 0.
          centered: whether to divide by the estimated variance instead.
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
            rho=rho,
            momentum=momentum,
            epsilon=epsilon or DEFAULT_EPSILON,
            centered=centered,
        )
