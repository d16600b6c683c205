"""What RectifiedAdam and AdaBelief share: warm-up, rectification, the move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_legacy_opt import schedules
from keras_legacy_opt.rules import formula as f
from keras_legacy_opt.rules.declared import DEFAULT_EPSILON, declare

HYPERS = (
    *("learning_rate", "beta_1", "beta_2", "decay", "weight_decay"),
    *("sma_threshold", "total_steps", "warmup_proportion", "min_lr"),
)
# {input of a native op: coefficient}
INPUTS = {
    "lr": "lr_t",
    **f.same(
        *("beta_1", "beta_2", "unbias_m", "unbias_v", "rectification"),
        *("is_adaptive", "epsilon", "weight_decay"),
    ),
}


def declare_options(optimizer: Any, **values: Any) -> None:
    """As `declare`; rates may be dictionaries, as in a configuration."""
    for name in ("learning_rate", "weight_decay"):
        if isinstance(values[name], Mapping):
            values[name] = schedules.deserialize(values[name])
    optimizer._initial_total_steps = values["total_steps"]
    values["total_steps"] = float(values["total_steps"])
    values["epsilon"] = values["epsilon"] or DEFAULT_EPSILON
    declare(optimizer, **values)


def configuration(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration, in which a number of steps is whole."""
    return {**config, "total_steps": int(config["total_steps"])}


def coefficients(
    optimizer: Any, dtype: tf.DType, c: f.Coefficients
) -> dict[str, tf.Tensor]:
    """What both read, and what they make the rest of.

    The dtype is not that of 16-bit variables, in which beta_2**t has no digits.
    With t the number of the step, from 1, these are `rest_1`, 1 - beta_1**t;
    `rest_2`, likewise; `lost`, 2 * t * beta_2**t; `longest`, the length of the
    average of squares after infinitely many steps; and `threshold`, that from
    which steps are adapted to it.
    """
    beta_1, beta_2, threshold = (
        optimizer._get_hyper(name, dtype)
        for name in ("beta_1", "beta_2", "sma_threshold")
    )
    weight_decay = f.scheduled(optimizer, "weight_decay", dtype)
    step = f.number_of_step(optimizer, dtype)
    power = tf.pow(beta_2, step)
    return {
        "lr_t": _warmed_up(optimizer, tf.cast(c["lr_t"], dtype), step),
        "beta_1": tf.identity(beta_1),
        "beta_2": tf.identity(beta_2),
        "epsilon": tf.convert_to_tensor(optimizer.epsilon, dtype),
        "weight_decay": tf.identity(weight_decay),
        "rest_1": 1.0 - tf.pow(beta_1, step),
        "rest_2": 1.0 - power,
        "lost": 2.0 * step * power,
        "longest": 2.0 / (1.0 - beta_2) - 1.0,
        "threshold": threshold,
    }


def _warmed_up(optimizer: Any, lr: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """The rate, which grows from 0 and falls to `min_lr` in `total_steps`."""
    if optimizer._initial_total_steps <= 0:
        return lr
    total, proportion, least = (
        optimizer._get_hyper(name, lr.dtype)
        for name in ("total_steps", "warmup_proportion", "min_lr")
    )
    warmup = total * proportion
    falling = tf.maximum(total - warmup, 1)
    slope = (least - lr) / falling
    return tf.where(
        step <= warmup,
        lr * (step / warmup),
        lr + slope * tf.minimum(step - warmup, falling),
    )


def is_adaptive(length: tf.Tensor, c: f.Coefficients) -> tf.Tensor:
    """Whether steps are; up to a length of 4, the variance is infinite."""
    return tf.logical_and(length >= c["threshold"], length > 4.0)


def move(
    state: f.State, c: f.Coefficients, mean: tf.Tensor, square: tf.Tensor
) -> f.Added:
    """The step, of averages whose bias is corrected."""
    adapted = c["rectification"] * mean / (tf.sqrt(square) + c["epsilon"])
    # In TF1 graphs, `!=` asks whether two tensors are one object.
    step = tf.where(tf.not_equal(c["is_adaptive"], 0), adapted, mean)
    step += c["weight_decay"] * state[f.VARIABLE]
    return f.Added(-(c["lr_t"] * step))
