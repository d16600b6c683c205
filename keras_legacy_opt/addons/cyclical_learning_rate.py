"""Learning rates that rise and fall again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.schedules import LearningRateSchedule

_MODES = ("cycle", "iterations")


class _Cyclical(LearningRateSchedule):
    """A triangle, whose height a function of the step or the cycle scales."""

    _ARGUMENTS: tuple[str, ...] = (
        "initial_learning_rate",
        "maximal_learning_rate",
        "step_size",
        "scale_mode",
    )

    def __init__(
        self,
        initial_learning_rate: Any,
        maximal_learning_rate: Any,
        step_size: Any,
        scale_mode: str,
        name: str,
    ):
        if isinstance(step_size, (int, float)) and step_size <= 0:
            raise ValueError(
                "`step_size` must be positive: it is half of a cycle. Received:"
                f" step_size={step_size}."
            )
        if scale_mode not in _MODES:
            raise ValueError(
                f"`scale_mode` must be one of {_MODES}. Received:"
                f" scale_mode={scale_mode!r}."
            )
        self.initial_learning_rate = initial_learning_rate
        self.maximal_learning_rate = maximal_learning_rate
        self.step_size = step_size
        self.scale_mode = scale_mode
        self.name = name

    def _scale(self, x: tf.Tensor) -> Any:
        """The factor of the height in cycle, or step, `x`."""
        raise NotImplementedError

    def __call__(self, step: Any) -> tf.Tensor:
        """Computes the learning rate of `step`; see the class."""
        with tf.name_scope(self.name):
            low = tf.convert_to_tensor(_value(self.initial_learning_rate))
            low = tf.cast(low, tf.float32) if low.dtype.is_integer else low
            dtype = low.dtype
            high = tf.cast(_value(self.maximal_learning_rate), dtype)
            size = tf.cast(self.step_size, dtype)
            step = tf.cast(step, dtype)
            cycle = tf.floor(1 + step / (2 * size))
            distance = tf.abs(step / size - 2 * cycle + 1)
            height = tf.maximum(tf.cast(0, dtype), 1 - distance)
            scale = self._scale(cycle if self.scale_mode == "cycle" else step)
            return low + (high - low) * height * tf.cast(scale, dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, by name."""
        return {name: getattr(self, name) for name in self._ARGUMENTS}


def _value(rate: Any) -> Any:
    return rate() if callable(rate) else rate


@hosts.public
class CyclicalLearningRate(_Cyclical):
    """Rises from a learning rate to another, falls back, and so on.

        cycle = floor(1 + step / (2 * step_size))
        x = abs(step / step_size - 2 * cycle + 1)
        rate = initial_learning_rate
               + (maximal_learning_rate - initial_learning_rate)
               * max(0, 1 - x) * scale_fn(cycle)

    >>> schedule = keras_legacy_opt.addons.CyclicalLearningRate(
    ...     0.0, 1.0, step_size=2, scale_fn=lambda cycle: 1 / cycle)
    >>> [float(schedule(step)) for step in range(7)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5]

    A configuration has `scale_fn`, too.  It can be loaded if Keras has that
    registered (`keras.saving.register_keras_serializable`), or where it is
    given among the `custom_objects`.

    Args:
      initial_learning_rate: A number or scalar tensor, or a function without
        arguments that returns it: the lowest rate.
      maximal_learning_rate: Likewise, the highest.
      step_size: A number or scalar tensor, positive: half of a cycle.
      scale_fn: A function from the number of the cycle (1, 2, ...), or from the
        step, to a factor of the height.
      scale_mode: "cycle" or "iterations", what `scale_fn` is given.
      name: Name of the operations.

    Reference: [Smith, 2015](https://arxiv.org/abs/1506.01186).
    """

    _ARGUMENTS = (*_Cyclical._ARGUMENTS, "scale_fn")

    def __init__(
        self,
        initial_learning_rate: Any,
        maximal_learning_rate: Any,
        step_size: Any,
        scale_fn: Callable[[Any], Any],
        scale_mode: str = "cycle",
        name: str = "CyclicalLearningRate",
    ):
        if not callable(scale_fn):
            raise TypeError(
                "`scale_fn` must be a function of the cycle or step. Received:"
                f" scale_fn={scale_fn!r}."
            )
        super().__init__(
            initial_learning_rate,
            maximal_learning_rate,
            step_size,
            scale_mode,
            name,
        )
        self.scale_fn = scale_fn

    def _scale(self, x: tf.Tensor) -> Any:
        return self.scale_fn(x)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Any:
        """Makes a schedule from what `get_config` returned.

        Args:
          config: The constructor arguments, by name.
          custom_objects: maps names to functions that it names.

        Raises:
          ValueError: if `scale_fn` is a name that nobody knows.
        """
        config = dict(config)
        if not callable(config["scale_fn"]):
            config["scale_fn"] = _function(
                config["scale_fn"], custom_objects or {}
            )
        return cls(**config)


def _function(given: Any, custom_objects: Mapping[str, Any]) -> Any:
    """The function that a configuration names, if it may be called."""
    names = [given]
    if isinstance(given, Mapping):
        names = [given.get("registered_name"), given.get("config")]
    for name in filter(lambda name: isinstance(name, str), names):
        found = custom_objects.get(name) or hosts.registered_object(name)
        if callable(found):
            return found
    raise ValueError(
        f"`scale_fn` of the schedule is {given!r}, which is not registered:"
        " pass the function in `custom_objects`, by its name."
    )


@hosts.public
class TriangularCyclicalLearningRate(_Cyclical):
    """Cycles between two learning rates, always alike.

    See `CyclicalLearningRate`; its `scale_fn` is 1.

    >>> schedule = keras_legacy_opt.addons.TriangularCyclicalLearningRate(
    ...     0.0, 1.0, step_size=2)
    >>> [float(schedule(step)) for step in range(7)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.5, 1.0]
    """

    def __init__(
        self,
        initial_learning_rate: Any,
        maximal_learning_rate: Any,
        step_size: Any,
        scale_mode: str = "cycle",
        name: str = "TriangularCyclicalLearningRate",
    ):
        super().__init__(
            initial_learning_rate,
            maximal_learning_rate,
            step_size,
            scale_mode,
            name,
        )

    def _scale(self, x: tf.Tensor) -> Any:
        return tf.ones_like(x)


@hosts.public
class Triangular2CyclicalLearningRate(TriangularCyclicalLearningRate):
    """Cycles between two learning rates; each cycle is half as high.

    See `CyclicalLearningRate`; its `scale_fn(x)` is `1 / 2 ** (x - 1)`.

    >>> schedule = keras_legacy_opt.addons.Triangular2CyclicalLearningRate(
    ...     0.0, 1.0, step_size=2)
    >>> [float(schedule(step)) for step in range(7)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5]
    """

    def __init__(
        self,
        initial_learning_rate: Any,
        maximal_learning_rate: Any,
        step_size: Any,
        scale_mode: str = "cycle",
        name: str = "Triangular2CyclicalLearningRate",
    ):
        super().__init__(
            initial_learning_rate,
            maximal_learning_rate,
            step_size,
            scale_mode,
            name,
        )

    def _scale(self, x: tf.Tensor) -> Any:
        return 1 / tf.pow(tf.cast(2, x.dtype), x - 1)


@hosts.public
class ExponentialCyclicalLearningRate(_Cyclical):
    """Cycles between two learning rates, lower with each step.

    See `CyclicalLearningRate`; its `scale_fn(x)` is `gamma ** x`, by default of
    the step.

    >>> schedule = keras_legacy_opt.addons.ExponentialCyclicalLearningRate(
    ...     0.0, 1.0, step_size=2, gamma=0.5)
    >>> [float(schedule(step)) for step in range(4)]
    [0.0, 0.25, 0.25, 0.0625]

    Args:
      initial_learning_rate: see `CyclicalLearningRate`.
      maximal_learning_rate: see there.
      step_size: see there.
      scale_mode: see there.
      gamma: A number or scalar tensor.
      name: Name of the operations.
    """

    _ARGUMENTS = (*_Cyclical._ARGUMENTS, "gamma")

    def __init__(
        self,
        initial_learning_rate: Any,
        maximal_learning_rate: Any,
        step_size: Any,
        scale_mode: str = "iterations",
        gamma: Any = 1.0,
        name: str = "ExponentialCyclicalLearningRate",
    ):
        super().__init__(
            initial_learning_rate,
            maximal_learning_rate,
            step_size,
            scale_mode,
            name,
        )
        self.gamma = gamma

    def _scale(self, x: tf.Tensor) -> Any:
        return tf.pow(tf.cast(self.gamma, x.dtype), x)
