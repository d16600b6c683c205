"""Nadam: Adam with Nesterov momentum."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, private_api
from keras_legacy_opt.rules.declared import (
    DEFAULT_EPSILON,
    DeclaredOptimizer,
    declare,
)
from keras_legacy_opt.rules.formula import (
    VARIABLE,
    Changes,
    Coefficients,
    Descended,
    Formula,
    Idle,
    Native,
    Rule,
    State,
    hyper,
    number_of_step,
    same,
)
from keras_legacy_opt.state.hyperparameters import (
    decay_may_change,
    is_schedule,
    traced_decay,
)


def _update(state: State, grad: tf.Tensor, c: Coefficients) -> Changes:
    m = state.average("m", grad, c["beta_1_t"], c["one_minus_beta_1_t"])
    v = state.average_of_squares(
        "v", grad, c["beta_2_t"], c["one_minus_beta_2_t"]
    )
    g_prime = grad / c["one_minus_m_schedule_new"]
    m_prime = m / c["one_minus_m_schedule_next"]
    ahead = c["one_minus_m_t"] * g_prime + c["m_t_1"] * m_prime
    root = tf.sqrt(v / c["v_t_prime_denominator"])
    change = Descended("lr_t", ahead, root + c["epsilon"])
    return {"m": m, "v": v, VARIABLE: change}


_FORMULA = Formula(
    slots=("m", "v"),
    update=_update,
    native=Native(
        "nadam",
        slots=same("m", "v"),
        coefficients={
            "lr": "lr_t",
            "beta_1": "beta_1_t",
            "beta_2": "beta_2_t",
            "one_minus_u": "one_minus_m_t",
            "next_u": "m_t_1",
            "one_minus_product": "one_minus_m_schedule_new",
            "one_minus_next_product": "one_minus_m_schedule_next",
            "one_minus_beta_2_power": "v_t_prime_denominator",
            **same("epsilon"),
        },
    ),
    idle=Idle.SLOTS,
)


def _coefficients(
    optimizer: Any, dtype: tf.DType, c: Coefficients
) -> Coefficients:
    beta_1 = hyper(optimizer, "beta_1", dtype)
    beta_2 = hyper(optimizer, "beta_2", dtype)
    step = number_of_step(optimizer, dtype)
    next_step = number_of_step(optimizer, dtype, 2)
    mu = _momentum_at(optimizer, step, beta_1)
    return {
        "epsilon": tf.convert_to_tensor(optimizer.epsilon, dtype),
        "beta_1_t": beta_1,
        "beta_2_t": beta_2,
        "m_t": mu,
        "m_t_1": _momentum_at(optimizer, next_step, beta_1),
        "m_cache": tf.cast(_last_cache(optimizer), dtype) * mu,
        "beta_2_power": tf.pow(beta_2, step),
    }


_DERIVED = {
    "neg_lr_t": lambda c: -c["lr_t"],
    "one_minus_beta_1_t": lambda c: 1 - c["beta_1_t"],
    "one_minus_beta_2_t": lambda c: 1 - c["beta_2_t"],
    "one_minus_m_t": lambda c: 1.0 - c["m_t"],
    "one_minus_m_schedule_new": lambda c: 1.0 - c["m_cache"],
    "one_minus_m_schedule_next": lambda c: 1.0 - c["m_cache"] * c["m_t_1"],
    "v_t_prime_denominator": lambda c: 1.0 - c["beta_2_power"],
}


# What each optimizer's momentum cache was before the step that it is taking.
_last_caches: weakref.WeakKeyDictionary[Any, weakref.ref[tf.Tensor]] = (
    weakref.WeakKeyDictionary()
)


def _last_cache(optimizer: Any) -> tf.Tensor:
    """The momentum cache before this step."""
    last = _last_caches.get(optimizer, lambda: None)()
    if last is None or not private_api.is_of_this_trace(last):
        last = tf.identity(optimizer._m_cache)
    return last


def _momentum_at(
    optimizer: Any, step: tf.Tensor, beta_1: tf.Tensor
) -> tf.Tensor:
    """The momentum of `step` in the momentum schedule."""
    base = tf.cast(0.96, step.dtype)
    decay = (
        traced_decay(optimizer, step.dtype, tf.convert_to_tensor)
        if decay_may_change(optimizer)
        else tf.convert_to_tensor(optimizer._initial_decay, step.dtype)
    )
    return beta_1 * (1.0 - 0.5 * tf.pow(base, decay * step))


@hosts.public
class Nadam(DeclaredOptimizer):
    """Nadam: Adam with Nesterov momentum, on a momentum schedule.

    A step, with the slots `m` and `v`, is

        t = iterations + 1
        mu(t) = beta_1 * (1 - 0.5 * 0.96**(schedule_decay * t))
        cache(t) = cache(t - 1) * mu(t), cache(0) = 1
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        step = ((1 - mu(t)) * g / (1 - cache(t))
                + mu(t + 1) * m / (1 - cache(t) * mu(t + 1)))
        w = w - learning_rate * step / (sqrt(v / (1 - beta_2**t)) + epsilon)

    where the cache is a variable of the optimizer, `momentum_cache`.  Sparse
    gradients update their rows of the variable only, while all rows of `m` and
    `v` decay.

    Learning rate schedules are not supported, and `decay` means
    `schedule_decay`.

    >>> opt = keras_legacy_opt.Nadam(learning_rate=0.2)
    >>> var = tf.Variable(10.0)
    >>> _ = opt.minimize(lambda: var**2 / 2.0, [var])
    >>> round(float(var), 3)
    9.789

    Reference: [Dozat, 2015](
    https://cs229.stanford.edu/proj2015/054_report.pdf).
    """

    _HAS_AGGREGATE_GRAD = True
    _declaration = Rule(
        hypers=("learning_rate", "decay", "beta_1", "beta_2"),
        options={"epsilon": "epsilon"},
        formula=lambda optimizer: _FORMULA,
        coefficients=_coefficients,
        derived=_DERIVED,
        also={"_m_cache": "m_cache"},
        # Nor has legacy's.
        has_schedule=False,
    )

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: float | None = 1e-7,
        name: str | None = "Nadam",
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: number, tensor or callable, but no schedule.
          beta_1: number, tensor or callable, the decay of the first moment.
          beta_2: number, tensor or callable, the decay of the second moment.
          epsilon: number, added to the denominator; 1e-7 if `None` or 0.
          name: name of the optimizer's variables.
          **kwargs: see `keras_legacy_opt.Optimizer`; `decay` is ignored, and
            `schedule_decay` (0.004) is the decay of the momentum schedule.

        Raises:
          ValueError: if `learning_rate` is a schedule.
        """
        # Legacy keeps the decay of the momentum schedule as its `decay`.
        kwargs["decay"] = kwargs.pop("schedule_decay", 0.004)
        learning_rate = kwargs.get("lr", learning_rate)
        if is_schedule(learning_rate):
            raise ValueError(
                "Nadam does not support a learning rate schedule, because its"
                " momentum has a schedule of its own: pass a number, or change"
                " `learning_rate` in a callback."
            )
        super().__init__(name, **kwargs)
        declare(
            self,
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon or DEFAULT_EPSILON,
        )
        self._m_cache = None

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        if self._m_cache is None:
            self._m_cache = self.add_weight(
                "momentum_cache",
                shape=[],
                dtype=var_list[0].dtype.base_dtype,
                initializer="ones",
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            self._weights.append(self._m_cache)
        super()._create_slots(var_list)

    def _prepare(self, var_list: Sequence[Any]) -> dict:
        # All devices and dtypes of a step start from the same cache, also those
        # whose coefficients `_fallback_apply_state` makes.
        last_cache = tf.identity(self._m_cache)
        _last_caches[self] = weakref.ref(last_cache)
        apply_state = super()._prepare(var_list)
        for state in apply_state.values():
            state["last_m_cache"] = last_cache  # It lives as long as these.
        return apply_state

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Any:
        """The optimizer of a configuration; see `keras_legacy_opt.Optimizer`.

        The `decay` of a configuration is the `schedule_decay` of the optimizer
        that it describes.
        """
        config = dict(config)
        if "decay" in config:
            config.setdefault("schedule_decay", config.pop("decay"))
        return super().from_config(config, custom_objects)
