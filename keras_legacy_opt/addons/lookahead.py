"""Lookahead, which every few steps goes part of the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.addons import wrapper
from keras_legacy_opt.state import reads
from keras_legacy_opt.step.around import Around


@hosts.public
class Lookahead(wrapper.Wrapper):
    """Lets an optimizer run ahead, and then goes part of the way back.

    With each variable `w` it keeps slow weights, the slot `slow`, which start
    as `w`.  After every `sync_period` steps of the optimizer inside,

        slow = w = slow + slow_step_size * (w - slow)

    In between, `slow` is neither read nor written.  A constraint of a variable
    is applied after both.

    Around `RectifiedAdam`, this is the optimizer known as Ranger.

    >>> opt = keras_legacy_opt.addons.Lookahead(
    ...     keras_legacy_opt.SGD(1.0), sync_period=2)
    >>> var = tf.Variable(0.0)
    >>> for _ in range(2):
    ...     _ = opt.apply_gradients([(tf.constant(1.0), var)])
    >>> float(var)
    -1.0

    Reference: [Zhang et al., 2019](https://arxiv.org/abs/1907.08610).
    """

    _CHILD = "lh_base_optimizer"
    _SLOTS = _COPIES = ("slow",)

    def __init__(
        self,
        optimizer: Any,
        sync_period: int = 6,
        slow_step_size: Any = 0.5,
        name: str = "Lookahead",
        **kwargs: Any,
    ):
        """Wraps an optimizer.

        Args:
          optimizer: see `keras_legacy_opt.addons.wrapper.Wrapper`.
          sync_period: after how many steps to go back, at least 1.
          slow_step_size: which part of the way to keep, in (0, 1].
          name: name of the optimizer.
          **kwargs: see `keras_legacy_opt.addons.wrapper.Wrapper`.

        Raises:
          TypeError: if `optimizer` is none of this package, or `sync_period` is
            no integer.
          ValueError: if a number is out of its range.
        """
        super().__init__(optimizer, name, **kwargs)
        self._set_hyper("sync_period", sync_period)
        self._set_hyper("slow_step_size", slow_step_size)

    def _check_hyper(self, name: str, value: Any) -> None:
        super()._check_hyper(name, value)
        if name == "sync_period":
            wrapper.check_integer(name, value, 1)
        if name == "slow_step_size" and isinstance(value, (int, float)):
            if not 0 < value <= 1:
                raise ValueError(
                    "`slow_step_size` must be in (0, 1]: it is the part of the"
                    f" way that is kept. Received: slow_step_size={value}."
                )

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        for var in var_list:
            self._add_copy(var, "slow")

    def _adds_itself(self, variable: Any, takes_own: bool) -> str:
        return " goes back after every `sync_period` steps, by plain ops"

    def _is_due(self) -> tf.Tensor:
        """Whether it goes back after this step: a bool scalar."""
        period = self._get_hyper("sync_period", tf.int64)
        step = reads.cast(self.iterations, tf.int64) + 1
        return tf.equal(step % period, 0)

    def _around_planned(self) -> Around:
        """See `Optimizer`."""
        return Around(self._optimizer, self._SLOTS, self._is_due)

    def _begin(self, variables: Sequence[Any]) -> wrapper.Afterwards:
        is_due = self._is_due()

        def go_back(variable: Any, slow: Any) -> Any:
            dtype = variable.dtype.base_dtype
            size = self._get_hyper("slow_step_size", dtype)
            value = slow.read_value()
            value = value + size * (variable.read_value() - value)
            set_slow = slow.assign(value, read_value=False)
            constraint = self._known_variables.constraint(variable)
            if constraint is not None:
                value = constraint(value)
            return wrapper.group(
                set_slow, variable.assign(value, read_value=False)
            )

        return wrapper.for_each(
            variables,
            [self.get_slot(v, "slow") for v in variables],
            go_back,
            is_due,
        )

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return {
            **super().get_config(),
            "sync_period": self._serialize_hyperparameter("sync_period"),
            "slow_step_size": self._serialize_hyperparameter("slow_step_size"),
        }
