"""Nadam: Adam with Nesterov momentum."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, private_api, slots
from keras_legacy_opt.adam import accumulate_moments
from keras_legacy_opt.hyperparameters import (
    decay_may_change,
    is_schedule,
    traced_decay,
)
from keras_legacy_opt.optimizer import DEFAULT_EPSILON, Optimizer, coefficients


def nadam_step(
    var: tf.Tensor, m: tf.Tensor, v: tf.Tensor, *, grad: tf.Tensor, c: dict
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """One step of Nadam with the coefficients `c`: the new (var, m, v)."""
    m = c["beta_1_t"] * m + c["one_minus_beta_1_t"] * grad
    v = c["beta_2_t"] * v + c["one_minus_beta_2_t"] * tf.square(grad)
    return var - c["lr_t"] * lookahead(grad, m, c) / denominator(v, c), m, v


def lookahead(grad: tf.Tensor, m: tf.Tensor, c: dict) -> tf.Tensor:
    """The gradient and the new momentum `m`, bias-corrected and blended."""
    g_prime = grad / c["one_minus_m_schedule_new"]
    m_prime = m / c["one_minus_m_schedule_next"]
    return c["one_minus_m_t"] * g_prime + c["m_t_1"] * m_prime


def denominator(v: tf.Tensor, c: dict) -> tf.Tensor:
    """The root of the bias-corrected second moment `v`."""
    return tf.sqrt(v / c["v_t_prime_denominator"]) + c["epsilon"]


@hosts.public
class Nadam(Optimizer):
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
        self._set_hyper("learning_rate", learning_rate)
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("beta_1", beta_1)
        self._set_hyper("beta_2", beta_2)
        self.epsilon = epsilon or DEFAULT_EPSILON
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
        for slot_name in ("m", "v"):
            for var in var_list:
                self.add_slot(var, slot_name)

    def _prepare(self, var_list: Sequence[Any]) -> dict:
        # All devices and dtypes of a step start from the same cache, also those
        # whose coefficients `_fallback_apply_state` makes.
        last_cache = tf.identity(self._m_cache)
        _last_caches[self] = weakref.ref(last_cache)
        apply_state = super()._prepare(var_list)
        for state in apply_state.values():
            state["last_m_cache"] = last_cache  # It lives as long as these.
        return apply_state

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        beta_1 = tf.identity(self._get_hyper("beta_1", var_dtype))
        beta_2 = tf.identity(self._get_hyper("beta_2", var_dtype))
        step = tf.cast(self.iterations + 1, var_dtype)
        next_step = tf.cast(self.iterations + 2, var_dtype)
        mu = _momentum_at(self, step, beta_1)
        next_mu = _momentum_at(self, next_step, beta_1)
        last_cache = _last_caches.get(self, lambda: None)()
        if last_cache is None or not private_api.is_of_this_trace(last_cache):
            last_cache = tf.identity(self._m_cache)
        cache = tf.cast(last_cache, var_dtype) * mu
        if var_dtype is self._m_cache.dtype:
            cache = tf.identity(
                tf.compat.v1.assign(
                    self._m_cache, cache, use_locking=self._use_locking
                )
            )
        lr_t = tf.identity(self._get_hyper("learning_rate", var_dtype))
        apply_state[var_device, var_dtype] = {
            "lr_t": lr_t,
            "neg_lr_t": -lr_t,
            "epsilon": tf.convert_to_tensor(self.epsilon, var_dtype),
            "beta_1_t": beta_1,
            "beta_2_t": beta_2,
            "m_t": mu,
            "m_t_1": next_mu,
            "one_minus_beta_1_t": 1 - beta_1,
            "one_minus_beta_2_t": 1 - beta_2,
            "one_minus_m_t": 1.0 - mu,
            "one_minus_m_schedule_new": 1.0 - cache,
            "one_minus_m_schedule_next": 1.0 - cache * next_mu,
            "v_t_prime_denominator": 1.0 - tf.pow(beta_2, step),
        }

    def _resource_apply_dense(
        self, grad: tf.Tensor, var: Any, apply_state: dict | None = None
    ) -> Any:
        c = coefficients(self, var, apply_state)
        step = functools.partial(nadam_step, grad=grad, c=c)
        m, v = self.get_slot(var, "m"), self.get_slot(var, "v")
        return slots.update_all((var, m, v), step)

    def _resource_apply_sparse(
        self,
        grad: tf.Tensor,
        var: Any,
        indices: tf.Tensor,
        apply_state: dict | None = None,
    ) -> Any:
        c = coefficients(self, var, apply_state)
        m, v = accumulate_moments(self, var, indices, grad, c)
        m_bar = lookahead(grad, tf.gather(m, indices), c)
        step = c["neg_lr_t"] * m_bar / denominator(tf.gather(v, indices), c)
        return tf.group(self._resource_scatter_add(var, indices, step), m, v)

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

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return {
            **super().get_config(),
            "learning_rate": self._serialize_hyperparameter("learning_rate"),
            "decay": self._serialize_hyperparameter("decay"),
            "beta_1": self._serialize_hyperparameter("beta_1"),
            "beta_2": self._serialize_hyperparameter("beta_2"),
            "epsilon": self.epsilon,
        }


# What each optimizer's momentum cache was before the step that it is taking.
_last_caches: weakref.WeakKeyDictionary[Nadam, weakref.ref[tf.Tensor]] = (
    weakref.WeakKeyDictionary()
)


def _momentum_at(
    optimizer: Nadam, step: tf.Tensor, beta_1: tf.Tensor
) -> tf.Tensor:
    """The momentum of `step` in the momentum schedule."""
    base = tf.cast(0.96, step.dtype)
    decay = (
        traced_decay(optimizer, step.dtype, tf.convert_to_tensor)
        if decay_may_change(optimizer)
        else tf.convert_to_tensor(optimizer._initial_decay, step.dtype)
    )
    return beta_1 * (1.0 - 0.5 * tf.pow(base, decay * step))
