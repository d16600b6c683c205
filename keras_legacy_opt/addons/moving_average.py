"""Exponential moving averages of the variables."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, originals
from keras_legacy_opt.addons import wrapper
from keras_legacy_opt.addons.average_wrapper import AveragedOptimizerWrapper
from keras_legacy_opt.state import reads
from keras_legacy_opt.step.around import Around
from keras_legacy_opt.step.clipping import GradsAndVars


@hosts.public
class MovingAverage(AveragedOptimizerWrapper):
    """Keeps exponential moving averages of the variables that it trains.

    They are the slot `average`, which starts as the variable `w`, and after a
    step of the optimizer inside becomes

        average = average - (1 - average_decay) * (average - w)

    Native ops do this together with the update, in one pass.

    With `dynamic_decay`, the decay of step `t` (0, 1, ...) is at most
    `(1 + t - start_step) / (10 + t - start_step)`; before `start_step`, it is
    0.  With `num_updates`, it is at most `(1 + n) / (10 + n)`.

    >>> opt = keras_legacy_opt.addons.MovingAverage(
    ...     keras_legacy_opt.SGD(1.0), average_decay=0.5)
    >>> var = tf.Variable(0.0)
    >>> for _ in range(2):
    ...     _ = opt.apply_gradients([(tf.constant(1.0), var)])
    >>> float(var), float(opt.get_slot(var, "average"))
    (-2.0, -1.25)

    Evaluate the averages, and go on:

    >>> opt.swap_weights()
    >>> float(var)
    -1.25
    >>> opt.swap_weights()
    >>> float(var)
    -2.0
    """

    _COPIES = ("average",)

    def __init__(
        self,
        optimizer: Any,
        average_decay: Any = 0.99,
        num_updates: int | tf.Variable | None = None,
        start_step: int = 0,
        dynamic_decay: bool = False,
        name: str = "MovingAverage",
        **kwargs: Any,
    ):
        """Wraps an optimizer.

        Args:
          optimizer: see `keras_legacy_opt.addons.wrapper.Wrapper`.
          average_decay: the decay of the averages, in [0, 1].
          num_updates: a number of updates that limits it; an integer variable
            is read in each step.
          start_step: the first step after which the averages are no copies.
          dynamic_decay: whether the decay grows with the steps.
          name: name of the optimizer.
          **kwargs: see `keras_legacy_opt.addons.wrapper.Wrapper`.

        Raises:
          TypeError: if `optimizer` is none of this package, or a number is no
            integer.
          ValueError: if a number is out of its range.
        """
        if isinstance(num_updates, tf.Variable):
            if not num_updates.dtype.is_integer:
                raise TypeError(
                    "`num_updates` must be an integer variable. Received one"
                    f" of dtype {num_updates.dtype.name}."
                )
        elif num_updates is not None:
            wrapper.check_integer("num_updates", num_updates, 0)
        wrapper.check_integer("start_step", start_step, 0)
        super().__init__(optimizer, name, **kwargs)
        self._num_updates = num_updates
        self._start_step = start_step
        self._dynamic_decay = dynamic_decay
        self._set_hyper("average_decay", average_decay)

    def _check_hyper(self, name: str, value: Any) -> None:
        super()._check_hyper(name, value)
        is_number = isinstance(value, (int, float))
        if name == "average_decay" and is_number and not 0 <= value <= 1:
            raise ValueError(
                "`average_decay` must be in [0, 1]. Received:"
                f" average_decay={value}."
            )

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        for var in var_list:
            self._add_copy(var, "average")

    # One step.

    def _decay(self) -> tf.Tensor:
        """float32 scalar: the decay of the averages in the next step."""
        decay = self._get_hyper("average_decay", tf.float32)
        if self._num_updates is not None:
            count = reads.cast(self._num_updates, tf.float32)
            decay = tf.minimum(decay, _growing(count))
        start = int(self._start_step)
        if not (self._dynamic_decay or start):
            return decay
        since_start = reads.count(self.iterations, -start, tf.float32)
        if self._dynamic_decay:
            decay = tf.minimum(decay, _growing(since_start))
        if start:
            has_started = tf.greater_equal(since_start, 0.0)
            decay = tf.where(has_started, decay, 0.0)
        return decay

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        apply_state[var_device, var_dtype]["tfa_ma_decay"] = self._decay()

    def average_op(
        self, var: Any, average_var: Any, local_apply_state: dict[str, Any]
    ) -> Any:
        """See `AveragedOptimizerWrapper`."""
        decay = local_apply_state["tfa_ma_decay"]
        weight = _weight(decay, var.dtype.base_dtype)
        difference = average_var.read_value() - var.read_value()
        return average_var.assign_sub(difference * weight, read_value=False)

    def _is_folded(self) -> bool:
        """Whether the steps of the optimizer inside move the averages, too."""
        inner = self._optimizer
        return (
            not isinstance(inner, wrapper.Holder)
            and originals.is_own(inner, ("_distributed_apply",))
            and originals.is_own(self, ("average_op", "_begin", "_is_due"))
        )

    def _around_planned(self) -> Around | None:
        """See `Optimizer`."""
        if not self._is_folded():
            return None
        return Around(
            self._optimizer,
            self._SLOTS,
            average="average",
            weight=lambda dtype: _weight(self._decay(), dtype),
            moving=functools.partial(self._moving, self._optimizer),
        )

    def _adds_itself(self, variable: Any, takes_own: bool) -> str:
        constraint = self._known_variables.constraint(variable)
        if self._is_folded() and takes_own and constraint is None:
            return " moves the average in the same pass"
        return super()._adds_itself(variable, takes_own)

    def _begin(self, variables: Sequence[Any]) -> wrapper.Afterwards | None:
        return None if self._is_folded() else super()._begin(variables)

    def _hand_over(
        self, optimizer: Any, pairs: GradsAndVars, *args: Any
    ) -> Any:
        if not self._is_folded():
            return super()._hand_over(optimizer, pairs, *args)
        decay = self._decay()
        dtypes = {v.dtype.base_dtype for _, v in pairs}
        weights = {dtype: _weight(decay, dtype) for dtype in dtypes}
        with self._moving(optimizer, weights):
            return super()._hand_over(optimizer, pairs, *args)

    @contextlib.contextmanager
    def _moving(
        self, optimizer: Any, weights: Mapping[tf.DType, tf.Tensor]
    ) -> Iterator[None]:
        """Has the steps of one inside move the averages, by these weights."""
        before = optimizer._averaging
        optimizer._averaging = lambda variable: (
            self.get_slot(variable, "average"),
            weights[variable.dtype.base_dtype],
        )
        try:
            yield
        finally:
            optimizer._averaging = before

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        count = self._num_updates
        return {
            **super().get_config(),
            "average_decay": self._serialize_hyperparameter("average_decay"),
            "num_updates": None if count is None else int(count),
            "start_step": self._start_step,
            "dynamic_decay": self._dynamic_decay,
        }


def _growing(count: tf.Tensor) -> tf.Tensor:
    # Operators would take several times as long, eagerly.
    more, much_more = (tf.raw_ops.AddV2(x=count, y=n) for n in (1.0, 10.0))
    return tf.raw_ops.RealDiv(x=more, y=much_more)


def _weight(decay: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    one = reads.constant(1.0, dtype)
    return tf.raw_ops.Sub(x=one, y=reads.cast(decay, dtype))
