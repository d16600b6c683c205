"""Stochastic weight averaging: the mean of some of the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.addons import wrapper
from keras_legacy_opt.addons.average_wrapper import AveragedOptimizerWrapper
from keras_legacy_opt.state import reads
from keras_legacy_opt.step.around import Around


@hosts.public
class SWA(AveragedOptimizerWrapper):
    """Stochastic weight averaging: the mean of some of the steps.

    The slot `average` is the mean of the variable after step `start_averaging`
    (the first is step 0), and after each `average_period` steps more.  Of a
    variable that is trained from later on, earlier snapshots count as what it
    was then.

    >>> opt = keras_legacy_opt.addons.SWA(
    ...     keras_legacy_opt.SGD(1.0), start_averaging=1, average_period=2)
    >>> var = tf.Variable(0.0)
    >>> for _ in range(4):
    ...     _ = opt.apply_gradients([(tf.constant(1.0), var)])
    >>> opt.assign_average_vars([var])
    >>> float(var)
    -3.0

    Reference: [Izmailov et al., 2018](https://arxiv.org/abs/1803.05407).
    """

    _COPIES = ("average",)

    def __init__(
        self,
        optimizer: Any,
        start_averaging: int = 0,
        average_period: int = 10,
        name: str = "SWA",
        **kwargs: Any,
    ):
        """Wraps an optimizer.

        Args:
          optimizer: see `keras_legacy_opt.addons.wrapper.Wrapper`.
          start_averaging: the first step that counts.
          average_period: after how many steps the next one counts.
          name: name of the optimizer.
          **kwargs: see `keras_legacy_opt.addons.wrapper.Wrapper`.

        Raises:
          TypeError: if `optimizer` is none of this package, or a number is no
            integer.
          ValueError: if a number is out of its range.
        """
        super().__init__(optimizer, name, **kwargs)
        self._set_hyper("average_period", average_period)
        self._set_hyper("start_averaging", start_averaging)

    def _check_hyper(self, name: str, value: Any) -> None:
        super()._check_hyper(name, value)
        least = {"average_period": 1, "start_averaging": 0}
        if name in least:
            wrapper.check_integer(name, value, least[name])

    def _adds_itself(self, variable: Any, takes_own: bool) -> str:
        return " averages after every `average_period` steps, by plain ops"

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        if not any("average" in slots for slots in self._slots.values()):
            super()._create_slots(var_list)
            return
        for var in var_list:
            # Snapshots before a variable was trained are of what it was.
            self._add_copy(var, "average")

    def _since_start(self) -> tuple[tf.Tensor, tf.Tensor]:
        """How many steps come after the first that counts; the period."""
        start = self._get_hyper("start_averaging", tf.int64)
        period = self._get_hyper("average_period", tf.int64)
        return reads.cast(self.iterations, tf.int64) - start, period

    def _is_due(self) -> tf.Tensor:
        steps, period = self._since_start()
        is_last = tf.equal(tf.math.floormod(steps, period), 0)
        return tf.logical_and(steps >= 0, is_last)

    def _around_planned(self) -> Around:
        """See `Optimizer`."""
        return Around(self._optimizer, self._SLOTS, self._is_due)

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        steps, period = self._since_start()
        count = tf.cast(tf.maximum(steps // period, 0), var_dtype)
        apply_state[var_device, var_dtype]["snapshots"] = count

    def average_op(
        self, var: Any, average_var: Any, local_apply_state: dict[str, Any]
    ) -> Any:
        """See `AveragedOptimizerWrapper`."""
        count = local_apply_state["snapshots"]
        total = average_var.read_value() * count + var.read_value()
        return average_var.assign(total / (count + 1), read_value=False)

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return {
            **super().get_config(),
            "average_period": self._serialize_hyperparameter("average_period"),
            "start_averaging": self._serialize_hyperparameter(
                "start_averaging"
            ),
        }
