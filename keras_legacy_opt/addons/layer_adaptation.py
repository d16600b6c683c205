"""What LAMB and LARS have in common: a step as long as its variable allows."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_legacy_opt.addons import selection
from keras_legacy_opt.addons.per_variable import (
    PerVariableMixin,
    selection_attribute,
)
from keras_legacy_opt.rules.declared import DeclaredOptimizer
from keras_legacy_opt.rules.formula import Coefficients
from keras_legacy_opt.step.own import NOTHING, Own
from keras_legacy_opt.step.update import coefficients


def trust_ratio(
    numerator: Any, variable: tf.Tensor, direction: tf.Tensor, c: Coefficients
) -> tf.Tensor:
    """`numerator * |variable| / |direction|`.

    It is 1 where one of the norms is 0, or the coefficient `adapt` is.
    """
    norm, other = tf.norm(variable), tf.norm(direction)
    # In TF1 graphs, `!=` asks whether two tensors are one object.
    counts = (norm > 0) & (other > 0) & tf.not_equal(c["adapt"], 0)
    one = tf.ones([], norm.dtype)
    divisor = tf.where(counts, other, one)
    return tf.where(counts, numerator * norm / divisor, one)


def switches(dtype: tf.DType) -> dict[str, tf.Tensor]:
    """Coefficients of variables that are excluded from nothing."""
    return {"adapt": tf.ones([], dtype), "zero": tf.zeros([], dtype)}


class LayerAdaptationMixin(PerVariableMixin, DeclaredOptimizer):
    """The part of an optimizer that adapts, and decays, some variables."""

    _selections = ("exclude_from_weight_decay", "exclude_from_layer_adaptation")
    exclude_from_weight_decay = selection_attribute()
    exclude_from_layer_adaptation = selection_attribute()

    def _checked_selections(
        self, decay: selection.Selection, adaptation: selection.Selection
    ) -> dict[str, selection.Selection]:
        """The two selections: by default, the second is the first."""
        decay, adaptation = (
            selection.check(given, name)
            for given, name in zip(
                (decay, adaptation), self._selections, strict=True
            )
        )
        values = (decay, adaptation or decay)
        return dict(zip(self._selections, values, strict=True))

    def _own_of(self, variable: Any, apply_state: Any) -> Own | None:
        """See `Optimizer`: what is excluded has other coefficients."""
        own = super()._own_of(variable, apply_state)
        excluded = {
            name
            for name, which in (
                (self._decay, self.exclude_from_weight_decay),
                ("adapt", self.exclude_from_layer_adaptation),
            )
            if self._selects(which, variable)
        }
        if not excluded:
            return own
        zero = coefficients(self, variable, apply_state)["zero"]
        return (own or NOTHING)._replace(
            coefficients=dict.fromkeys(sorted(excluded), zero)
        )
