"""BERT's Adam, with weight decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.addons import selection
from keras_legacy_opt.addons.per_variable import (
    Factors,
    PerVariableMixin,
    selection_attribute,
)
from keras_legacy_opt.rules.adam import Adam
from keras_legacy_opt.step.clipping import GradsAndVars
from keras_legacy_opt.step.own import NOTHING, Own
from keras_legacy_opt.step.update import coefficients


@hosts.public
class AdamWeightDecay(PerVariableMixin, Adam):
    """BERT's Adam with weight decay, of transformers and tf-models-official.

    Before its update by `keras_legacy_opt.Adam`, every variable with a gradient
    (all rows of it, if that is sparse) becomes

        w = w - learning_rate * weight_decay_rate * w

    unless it is excluded: what `include_in_weight_decay` selects is not.
    Selections and factors that are set later need a new trace, as those of
    `DecoupledWeightDecayExtension`.

    >>> opt = keras_legacy_opt.addons.AdamWeightDecay(
    ...     learning_rate=2e-5, weight_decay_rate=0.01,
    ...     exclude_from_weight_decay=["LayerNorm", "layer_norm", "bias"])
    >>> kernel = tf.Variable([1.0, 2.0], name="kernel")
    >>> _ = opt.minimize(lambda: tf.reduce_sum(kernel**2), [kernel])

    Unlike there, `gradient_clip_norm` is 0, no clipping, unless it is given:
    tf-models-official, whose configurations have it, clips to a norm of 1;
    transformers has no such argument.
    """

    _HAS_AGGREGATE_GRAD = True
    _decay = "weight_decay_rate"
    _selections = ("include_in_weight_decay", "exclude_from_weight_decay")
    include_in_weight_decay = selection_attribute()
    exclude_from_weight_decay = selection_attribute()

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: float | None = 1e-07,
        amsgrad: bool = False,
        weight_decay_rate: Any = 0.0,
        include_in_weight_decay: selection.Selection = None,
        exclude_from_weight_decay: selection.Selection = None,
        gradient_clip_norm: float = 0.0,
        name: str | None = "AdamWeightDecay",
        learning_rate_factors: Factors = None,
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          learning_rate: see `keras_legacy_opt.Adam`.
          beta_1: see there.
          beta_2: see there.
          epsilon: see there.
          amsgrad: see there.
          weight_decay_rate: number, tensor, callable or schedule.
          include_in_weight_decay: what decays, whatever is excluded: see
            `DecoupledWeightDecayExtension`.
          exclude_from_weight_decay: what does not.
          gradient_clip_norm: if above 0, limits the norm of all gradients of a
            replica, before they are summed over the replicas.
          name: name of the optimizer's variables.
          learning_rate_factors: see `DecoupledWeightDecayExtension`.
          **kwargs: see `keras_legacy_opt.Optimizer`.

        Raises:
          TypeError: if a selection, the decay or the factors are none.
          ValueError: for a negative number, or a pattern that is no regular
            expression.
        """
        _checked_norm(gradient_clip_norm)
        super().__init__(
            learning_rate, beta_1, beta_2, epsilon, amsgrad, name, **kwargs
        )
        self.learning_rate_factors = learning_rate_factors
        self._set_hyper("weight_decay_rate", weight_decay_rate)
        self.include_in_weight_decay = include_in_weight_decay
        self.exclude_from_weight_decay = exclude_from_weight_decay
        self._aggregator = self.gradient_aggregator
        self.gradient_clip_norm = gradient_clip_norm

    @property
    def gradient_clip_norm(self) -> float:
        """The limit of the norm of all gradients of a replica; 0 is none."""
        return self._gradient_clip_norm

    @gradient_clip_norm.setter
    def gradient_clip_norm(self, limit: float) -> None:
        self._gradient_clip_norm = _checked_norm(limit)
        # What is faster than calling this is not done then.
        aggregator: Callable[..., GradsAndVars] = self._aggregator
        self.gradient_aggregator = self._clip_and_sum if limit else aggregator

    def _clip_and_sum(self, grads_and_vars: GradsAndVars) -> GradsAndVars:
        grads, variables = zip(*grads_and_vars, strict=True)
        limit = self._gradient_clip_norm
        grads, _ = tf.clip_by_global_norm(list(grads), clip_norm=limit)
        return self._aggregator(list(zip(grads, variables, strict=True)))

    @classmethod
    def _is_checkpointed(cls, hyper: str) -> bool:
        # As in transformers and tf-models-official.
        return hyper != "weight_decay_rate"

    def _do_use_weight_decay(self, var: Any) -> bool:
        """Whether a variable decays; to override."""
        return self._selects(self.include_in_weight_decay, var) or (
            not self._selects(self.exclude_from_weight_decay, var)
        )

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        c = apply_state[var_device, var_dtype]
        c["wd_t"] = c["lr_t"] * self._weight_decay(var_dtype)

    def _own_of(self, variable: Any, apply_state: Any) -> Own | None:
        """See `Optimizer`."""
        own = super()._own_of(variable, apply_state)
        if not self._do_use_weight_decay(variable):
            return own
        own = own or NOTHING
        decay = coefficients(self, variable, apply_state)["wd_t"]
        if own.lr_factor is not None:
            decay *= tf.cast(own.lr_factor, decay.dtype)
        return own._replace(decay=decay, decays_all_rows=True)

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return {
            **super().get_config(),
            "weight_decay_rate": self._serialize_hyperparameter(
                "weight_decay_rate"
            ),
            "gradient_clip_norm": self.gradient_clip_norm,
        }


def _checked_norm(limit: float) -> float:
    if not isinstance(limit, (int, float)) or not limit >= 0:
        raise ValueError(
            "`gradient_clip_norm` must be a number, or 0 for no limit."
            f" Received: gradient_clip_norm={limit!r}."
        )
    return limit
