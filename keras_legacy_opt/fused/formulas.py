"""Which native op updates an optimizer's variables, and what it is handed.

One row per optimizer, and no other mention of one in this package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Formula(NamedTuple):
    """An op of `tf_custom_ops/ops`, and its inputs.

    Attributes:
      op: the name of the dense op; `sparse_<op>` is the sparse one.
      slots: names of slots, in the op's order.
      coefficients: keys of `apply_state`, in the op's order.
      also: attributes that are variables which a step changes besides.
    """

    op: str
    slots: tuple[str, ...]
    coefficients: tuple[str, ...]
    also: tuple[str, ...] = ()


def _sgd(optimizer: Any) -> Formula:
    if not optimizer._momentum:
        return Formula("sgd", (), ("lr_t",))
    op = "nesterov" if optimizer.nesterov else "momentum"
    return Formula(op, ("momentum",), ("lr_t", "momentum"))


def _rmsprop(optimizer: Any) -> Formula:
    op, slots = "rms_prop", ["rms"]
    if optimizer.centered:
        op += "_centered"
    if optimizer._momentum:
        op += "_momentum"
        slots.append("momentum")
    if optimizer.centered:
        slots.append("mg")
    return Formula(op, tuple(slots), ("lr_t", "rho", "momentum", "epsilon"))


def _adam(optimizer: Any) -> Formula:
    amsgrad = optimizer.amsgrad
    return Formula(
        "adam_amsgrad" if amsgrad else "adam",
        ("m", "v", "vhat") if amsgrad else ("m", "v"),
        (
            "lr_t",
            "beta_1_power",
            "beta_2_power",
            "beta_1_t",
            "beta_2_t",
            "epsilon",
        ),
    )


def _adadelta(optimizer: Any) -> Formula:
    return Formula(
        "adadelta", ("accum_grad", "accum_var"), ("lr_t", "rho", "epsilon")
    )


def _adagrad(optimizer: Any) -> Formula:
    return Formula("adagrad", ("accumulator",), ("lr_t", "epsilon"))


def _adamax(optimizer: Any) -> Formula:
    return Formula(
        "adamax",
        ("m", "v"),
        ("lr_t", "beta_1_power", "beta_1_t", "beta_2_t", "epsilon"),
    )


def _nadam(optimizer: Any) -> Formula:
    return Formula(
        "nadam",
        ("m", "v"),
        (
            "lr_t",
            "beta_1_t",
            "beta_2_t",
            "one_minus_m_t",
            "m_t_1",
            "one_minus_m_schedule_new",
            "one_minus_m_schedule_next",
            "v_t_prime_denominator",
            "epsilon",
        ),
        also=("_m_cache",),
    )


def _ftrl(optimizer: Any) -> Formula:
    shrinkage = optimizer._l2_shrinkage_regularization_strength > 0.0
    return Formula(
        "ftrl_shrinkage" if shrinkage else "ftrl",
        ("accumulator", "linear"),
        (
            "lr_t",
            "learning_rate_power",
            "l1_regularization_strength",
            "l2_regularization_strength",
            "beta",
            "l2_shrinkage_regularization_strength",
        ),
    )


FORMULAS: dict[str, Callable[[Any], Formula]] = {
    "SGD": _sgd,
    "RMSprop": _rmsprop,
    "Adam": _adam,
    "Adadelta": _adadelta,
    "Adagrad": _adagrad,
    "Adamax": _adamax,
    "Nadam": _nadam,
    "Ftrl": _ftrl,
}
