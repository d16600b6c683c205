"""A learning rate that rises before another schedule takes over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, serialization
from keras_legacy_opt.schedules import LearningRateSchedule


@hosts.public
class WarmUp(LearningRateSchedule):
    """Rises to a learning rate, from which another schedule goes on.

        rate(step) = initial_learning_rate * (step / warmup_steps) ** power
                     if step < warmup_steps
                     else decay_schedule_fn(step - warmup_steps)

    as in transformers.  In tf-models-official, the other schedule has been
    counting since step 0: set `decay_from_start` for that.

    >>> schedule = keras_legacy_opt.addons.WarmUp(
    ...     1.0, lambda step: 1.0 - step / 10, warmup_steps=2)
    >>> [round(float(schedule(step)), 2) for step in range(5)]
    [0.0, 0.5, 1.0, 0.9, 0.8]

    Args:
      initial_learning_rate: A number: the rate that it rises to.
      decay_schedule_fn: A schedule, or a function of a float32 step.
      warmup_steps: A number: after how many steps.
      power: A number: 1 for a straight line.
      name: Optional name of the operations.
      decay_from_start: Whether `decay_schedule_fn` is given the step itself.
    """

    def __init__(
        self,
        initial_learning_rate: Any,
        decay_schedule_fn: Callable[[Any], Any],
        warmup_steps: Any,
        power: Any = 1.0,
        name: str | None = None,
        decay_from_start: bool = False,
    ):
        if not callable(decay_schedule_fn):
            raise TypeError(
                "`decay_schedule_fn` must be a schedule, or a function of the"
                f" step. Received: decay_schedule_fn={decay_schedule_fn!r}."
            )
        self.initial_learning_rate = initial_learning_rate
        self.decay_schedule_fn: Callable[..., Any] = decay_schedule_fn
        self.warmup_steps = warmup_steps
        self.power = power
        self.name = name
        self.decay_from_start = decay_from_start

    def __call__(self, step: Any) -> tf.Tensor:
        """Computes the learning rate of `step`; see the class."""
        with tf.name_scope(self.name or "WarmUp"):
            step = tf.cast(step, tf.float32)
            warm_up = tf.cast(self.warmup_steps, tf.float32)
            rising = self.initial_learning_rate * tf.pow(
                step / warm_up, tf.cast(self.power, tf.float32)
            )
            later = step if self.decay_from_start else step - warm_up
            return tf.cond(
                step < warm_up,
                lambda: rising,
                lambda: tf.cast(self.decay_schedule_fn(later), tf.float32),
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, by name."""
        config = {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_schedule_fn": serialization.serialize_schedule(
                self.decay_schedule_fn
            ),
            "warmup_steps": self.warmup_steps,
            "power": self.power,
            "name": self.name,
        }
        if self.decay_from_start:
            config["decay_from_start"] = True
        return config

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Any:
        """Makes a schedule from what `get_config` returned.

        Args:
          config: The constructor arguments, by name; of transformers and
            tf-models-official, too.
          custom_objects: maps names to classes that it names.
        """
        config = dict(config)
        if isinstance(config["decay_schedule_fn"], Mapping):
            config["decay_schedule_fn"] = serialization.deserialize_schedule(
                config["decay_schedule_fn"], custom_objects
            )
        return cls(**config)
