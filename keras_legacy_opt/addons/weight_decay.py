"""Decoupled weight decay, for any optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, originals
from keras_legacy_opt.addons import selection
from keras_legacy_opt.addons.per_variable import (
    Factors,
    PerVariableMixin,
    selection_attribute,
)
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.state import reads
from keras_legacy_opt.state.variables import var_key
from keras_legacy_opt.step.own import NOTHING, Own
from keras_legacy_opt.step.update import coefficients


@originals.recorded
class DecoupledWeightDecayExtension(PerVariableMixin):
    """Weight decay that is no part of the gradient, for any optimizer.

    It comes first among the bases of a class, an optimizer of this package
    second. Before its update, every variable with a gradient becomes

        w = w - weight_decay * w

    which, unlike L2 regularization, adaptive step sizes do not change. Neither
    does the learning rate: where that is scheduled, give the decay a schedule,
    too. A sparse gradient decays the rows that it has, each once. What is
    excluded, and the factors of learning rates, may be set later, but are part
    of a trace: a `tf.function` that was traced before goes on as it was.

    >>> class DecayingRMSprop(
    ...     keras_legacy_opt.addons.DecoupledWeightDecayExtension,
    ...     keras_legacy_opt.RMSprop,
    ... ):
    ...     pass
    >>> opt = DecayingRMSprop(weight_decay=0.5, learning_rate=0.25)
    >>> var = tf.Variable(2.0)
    >>> _ = opt.apply_gradients([(tf.constant(0.0), var)])
    >>> float(var)
    1.0

    Reference: [Loshchilov and Hutter, 2019](
    https://arxiv.org/abs/1711.05101).
    """

    exclude_from_weight_decay = selection_attribute()
    _decay_var_list: frozenset[str] | None = None

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        for base in cls.__bases__:
            if hosts.is_kind_of(base, hosts.OptimizerHost):
                _check_base(base)

    def __init__(
        self,
        weight_decay: Any,
        exclude_from_weight_decay: selection.Selection = None,
        learning_rate_factors: Factors = None,
        **kwargs: Any,
    ):
        """Creates the optimizer.

        Args:
          weight_decay: number, tensor, callable or schedule, the fraction of a
            variable that each step takes away.
          exclude_from_weight_decay: what does not decay: patterns of which one
            is found in a variable's name or path, or variables and layers, or
            a function of the variable.
          learning_rate_factors: what learns at a rate of its own: a dictionary
            of patterns and factors, or (selection, factor) pairs, where a
            selection is as in `exclude_from_weight_decay`; the first counts.
          **kwargs: of the optimizer that is extended.

        Raises:
          TypeError: if a selection, the decay or the factors are none.
          ValueError: for a negative decay or factor, or a pattern that is no
            regular expression.
        """
        super().__init__(**kwargs)
        self.learning_rate_factors = learning_rate_factors
        self._set_hyper("weight_decay", weight_decay)
        self.exclude_from_weight_decay = exclude_from_weight_decay

    def minimize(
        self,
        loss: Any,
        var_list: Any,
        grad_loss: Any = None,
        name: str | None = None,
        decay_var_list: Iterable[Any] | None = None,
        tape: tf.GradientTape | None = None,
    ) -> Any:
        """As `keras_legacy_opt.Optimizer.minimize`.

        Args:
          loss: see there.
          var_list: see there.
          grad_loss: see there.
          name: see there.
          decay_var_list: the variables to decay, whatever is excluded.
          tape: see there.
        """
        with self._decaying_only(decay_var_list):
            return super().minimize(loss, var_list, grad_loss, name, tape)

    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[Any, Any]],
        name: str | None = None,
        decay_var_list: Iterable[Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As `keras_legacy_opt.Optimizer.apply_gradients`.

        Args:
          grads_and_vars: see there.
          name: see there.
          decay_var_list: the variables to decay, whatever is excluded.
          **kwargs: see there.
        """
        with self._decaying_only(decay_var_list):
            return super().apply_gradients(grads_and_vars, name, **kwargs)

    @contextlib.contextmanager
    def _decaying_only(self, variables: Iterable[Any] | None) -> Iterator[None]:
        """Lets these variables decay and no others, if there are any."""
        if variables is None:
            yield
            return
        before = self._decay_var_list
        self._decay_var_list = frozenset(
            var_key(self._known_variables.unwrap(v)) for v in variables
        )
        try:
            yield
        finally:
            self._decay_var_list = before

    def _do_use_weight_decay(self, var: Any) -> bool:
        """Whether a variable decays; to override."""
        if self._decay_var_list is not None:
            return var_key(var) in self._decay_var_list
        return not self._selects(self.exclude_from_weight_decay, var)

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        wd_t = reads.once(self._weight_decay(var_dtype))
        apply_state[var_device, var_dtype]["wd_t"] = wd_t

    def _own_of(self, variable: Any, apply_state: Any) -> Own | None:
        """See `Optimizer`."""
        own = super()._own_of(variable, apply_state)
        if not self._do_use_weight_decay(variable):
            return own
        decay = coefficients(self, variable, apply_state)["wd_t"]
        return (own or NOTHING)._replace(decay=decay)

    def _own_depends_on(self) -> list[Any] | None:
        """See `Optimizer`."""
        if self._decay_var_list is not None:
            return None
        return super()._own_depends_on()

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return {
            **super().get_config(),
            "weight_decay": self._serialize_hyperparameter("weight_decay"),
        }


def extend_with_decoupled_weight_decay(base_optimizer: Any) -> Any:
    """A class: an optimizer with decoupled weight decay.

    Args:
      base_optimizer: a class of this package, or derived from one.

    Returns:
      A class whose constructor takes `weight_decay` first, then what
      `DecoupledWeightDecayExtension` and the optimizer take, by keyword.

    Raises:
      TypeError: if it is no such class.

    >>> AdadeltaW = keras_legacy_opt.addons.extend_with_decoupled_weight_decay(
    ...     keras_legacy_opt.Adadelta)
    >>> AdadeltaW(0.01, learning_rate=1.0).get_config()["weight_decay"]
    0.01
    """
    _check_base(base_optimizer)

    class OptimizerWithDecoupledWeightDecay(
        DecoupledWeightDecayExtension, base_optimizer
    ):
        """An optimizer with decoupled weight decay."""

        def __init__(self, weight_decay: Any, *args: Any, **kwargs: Any):
            super().__init__(weight_decay, *args, **kwargs)

    return OptimizerWithDecoupledWeightDecay


def _check_base(base: Any) -> None:
    if isinstance(base, type) and issubclass(base, Optimizer):
        return
    hint = "use an optimizer of this package"
    if not isinstance(base, type):
        hint = "pass a class"
    elif hosts.public_class(base.__name__, Optimizer) is not None:
        hint = f"use keras_legacy_opt.{base.__name__}"
    raise TypeError(
        "Decoupled weight decay is for classes of keras_legacy_opt, and those"
        f" derived from them. Received: {base!r}: {hint}."
    )
