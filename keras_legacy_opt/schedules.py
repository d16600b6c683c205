"""Learning-rate schedules: the rate as a function of the step.

A schedule is a callable that takes the step and returns the learning rate as a
scalar tensor.  Give one to any optimizer as `learning_rate`; the optimizer then
calls it with its `iterations`.  Everything is plain TensorFlow and works in
eager code, in `tf.function` (XLA included) and in TF1 graphs.

The rate has the dtype of `initial_learning_rate`: float32 for a Python number,
an integer included.
"""

import math
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts
from keras_legacy_opt.serialization import deserialize_schedule as deserialize
from keras_legacy_opt.serialization import serialize_schedule as serialize

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
    "deserialize",
    "serialize",
]


class LearningRateSchedule(hosts.ScheduleHost):
    """Base of every schedule.

    To write one, define `__call__(self, step)`; define `get_config` too if it
    should be saved along with its optimizer.

    >>> class Halving(LearningRateSchedule):
    ...     def __init__(self, start):
    ...         self.start = start
    ...     def __call__(self, step):
    ...         return self.start * 0.5 ** tf.cast(step, tf.float32)
    ...     def get_config(self):
    ...         return {"start": self.start}
    >>> schedule = Halving.from_config(Halving(0.8).get_config())
    >>> [round(float(schedule(step)), 4) for step in range(4)]
    [0.8, 0.4, 0.2, 0.1]
    """

    def __call__(self, step: Any) -> tf.Tensor:
        """Computes the learning rate of one step.

        Args:
          step: A scalar number, tensor or variable: how many updates were made
            before this one.

        Returns:
          The learning rate, a scalar tensor.

        Raises:
          NotImplementedError: If the subclass does not define it.
        """
        raise NotImplementedError(
            f"The learning-rate schedule {type(self).__name__} must define "
            "`__call__(self, step)`."
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments that make an equal schedule.

        Returns:
          A dictionary for `from_config`.

        Raises:
          NotImplementedError: If the subclass does not define it.
        """
        raise NotImplementedError(
            f"The learning-rate schedule {type(self).__name__} must define "
            "`get_config(self)` to be serializable."
        )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LearningRateSchedule":
        """Makes a schedule from what `get_config` returned.

        Args:
          config: The constructor arguments, by name.

        Returns:
          A new schedule of this class.
        """
        return cls(**config)


def _initial_rate(value: Any) -> tf.Tensor:
    """Converts a rate to a tensor whose dtype can hold fractions."""
    rate = tf.convert_to_tensor(value, name="initial_learning_rate")
    return tf.cast(rate, tf.float32) if rate.dtype.is_integer else rate


class _BuiltIn(LearningRateSchedule):
    """The scope and the config of the schedules below."""

    _SCOPE: str
    _ARGUMENTS: tuple[str, ...]
    name: str | None

    def _rate(self, step: Any) -> tf.Tensor:
        raise NotImplementedError

    def __call__(self, step: Any) -> tf.Tensor:
        """Computes the learning rate of `step`; see the class."""
        with tf.name_scope(self.name or self._SCOPE):
            return self._rate(step)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, by name."""
        return {name: getattr(self, name) for name in self._ARGUMENTS}


@hosts.public
class ExponentialDecay(_BuiltIn):
    """Multiplies the rate by `decay_rate` every `decay_steps` steps.

        rate(step) = initial_learning_rate * decay_rate ** (step / decay_steps)

    >>> schedule = ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)
    >>> [f"{schedule(step):.4f}" for step in (0, 5, 10, 20)]
    ['0.1000', '0.0707', '0.0500', '0.0250']

    Args:
      initial_learning_rate: A number or scalar tensor.
      decay_steps: A number or scalar tensor, positive.
      decay_rate: A number or scalar tensor.
      staircase: Whether to round `step / decay_steps` down, so that the rate
        falls in steps instead of continuously.
      name: Optional name of the operations; `"ExponentialDecay"` by default.
    """

    _SCOPE = "ExponentialDecay"
    _ARGUMENTS = (
        "initial_learning_rate",
        "decay_steps",
        "decay_rate",
        "staircase",
        "name",
    )

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        decay_rate,
        staircase=False,
        name=None,
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = decay_steps
        self.decay_rate = decay_rate
        self.staircase = staircase
        self.name = name

    def _rate(self, step):
        initial_rate = _initial_rate(self.initial_learning_rate)
        dtype = initial_rate.dtype
        periods = tf.cast(step, dtype) / tf.cast(self.decay_steps, dtype)
        if self.staircase:
            periods = tf.floor(periods)
        factor = tf.pow(tf.cast(self.decay_rate, dtype), periods)
        return initial_rate * factor


@hosts.public
class PiecewiseConstantDecay(_BuiltIn):
    """Holds the rate constant between boundaries.

    `values[i]` is the rate of the steps after `boundaries[i - 1]`, up to and
    including `boundaries[i]`.

    >>> schedule = PiecewiseConstantDecay([2, 4], [1.0, 0.5, 0.25])
    >>> [float(schedule(step)) for step in range(6)]
    [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]

    Args:
      boundaries: A list of increasing numbers or scalar tensors; they are cast
        to the dtype of the step.
      values: A list of numbers or scalar tensors of one dtype, one more than
        boundaries.
      name: Optional name of the operations; `"PiecewiseConstant"` by default.

    Raises:
      ValueError: If there is not exactly one value more than boundaries, or if
        the boundaries decrease.
    """

    _SCOPE = "PiecewiseConstant"
    _ARGUMENTS = ("boundaries", "values", "name")

    def __init__(self, boundaries, values, name=None):
        if len(boundaries) != len(values) - 1:
            raise ValueError(
                "`values` must have exactly one element more than `boundaries`."
                f" Received: boundaries={boundaries} (length "
                f"{len(boundaries)}), values={values} (length {len(values)})."
            )
        # What symbolic tensors hold is not known here.
        if all(isinstance(b, (int, float)) for b in boundaries):
            if list(boundaries) != sorted(boundaries):
                raise ValueError(
                    "`boundaries` must increase. Received: "
                    f"boundaries={boundaries}."
                )
        self.boundaries = boundaries
        self.values = values
        self.name = name

    def _rate(self, step):
        step = tf.convert_to_tensor(step)
        passed = sum(
            tf.cast(step > tf.cast(boundary, step.dtype), tf.int32)
            for boundary in tf.nest.flatten(self.boundaries)
        )
        values = tf.convert_to_tensor(tf.nest.flatten(self.values))
        return tf.gather(values, passed)


@hosts.public
class PolynomialDecay(_BuiltIn):
    """Leads the rate to `end_learning_rate` along a polynomial.

        fraction = min(step, decay_steps) / decay_steps
        rate(step) = (initial_learning_rate - end_learning_rate)
                     * (1 - fraction) ** power + end_learning_rate

    With `cycle`, the step is not limited; instead `decay_steps` is replaced by
    its first multiple that is not below the step, so that the rate jumps up
    again after each multiple.

    >>> schedule = PolynomialDecay(0.1, decay_steps=4, end_learning_rate=0.02)
    >>> [f"{schedule(step):.2f}" for step in range(6)]
    ['0.10', '0.08', '0.06', '0.04', '0.02', '0.02']

    Args:
      initial_learning_rate: A number or scalar tensor.
      decay_steps: A number or scalar tensor, positive.
      end_learning_rate: A number or scalar tensor.
      power: A number or scalar tensor; 1 is a straight line, 0.5 a square root.
      cycle: Whether to go on beyond `decay_steps`.
      name: Optional name of the operations; `"PolynomialDecay"` by default.
    """

    _SCOPE = "PolynomialDecay"
    _ARGUMENTS = (
        "initial_learning_rate",
        "decay_steps",
        "end_learning_rate",
        "power",
        "cycle",
        "name",
    )

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        end_learning_rate=0.0001,
        power=1.0,
        cycle=False,
        name=None,
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = decay_steps
        self.end_learning_rate = end_learning_rate
        self.power = power
        self.cycle = cycle
        self.name = name

    def _rate(self, step):
        initial_rate = _initial_rate(self.initial_learning_rate)
        dtype = initial_rate.dtype
        end_rate = tf.cast(self.end_learning_rate, dtype)
        decay_steps = tf.cast(self.decay_steps, dtype)
        step = tf.cast(step, dtype)
        if self.cycle:
            cycles = tf.math.ceil(step / decay_steps)
            # Step 0 belongs to the first cycle.
            cycles = tf.where(tf.equal(step, 0), tf.ones_like(step), cycles)
            decay_steps = decay_steps * cycles
        else:
            step = tf.minimum(step, decay_steps)
        # XLA multiplies by the reciprocal, so that the quotient may exceed 1 by
        # a rounding, of which a broken power would be NaN.
        remaining = tf.maximum(1 - step / decay_steps, 0)
        above_end = (initial_rate - end_rate) * tf.pow(
            remaining, tf.cast(self.power, dtype)
        )
        return above_end + end_rate


@hosts.public
class InverseTimeDecay(_BuiltIn):
    """Divides the rate by a number that grows linearly with the step.

        rate(step) = initial_learning_rate
                     / (1 + decay_rate * step / decay_steps)

    >>> schedule = InverseTimeDecay(0.6, decay_steps=1, decay_rate=0.5)
    >>> [f"{schedule(step):.2f}" for step in (0, 2, 4)]
    ['0.60', '0.30', '0.20']

    Args:
      initial_learning_rate: A number or scalar tensor.
      decay_steps: A number or scalar tensor, positive.
      decay_rate: A number or scalar tensor.
      staircase: Whether to round `step / decay_steps` down, so that the rate
        falls in steps instead of continuously.
      name: Optional name of the operations; `"InverseTimeDecay"` by default.
    """

    _SCOPE = "InverseTimeDecay"
    _ARGUMENTS = (
        "initial_learning_rate",
        "decay_steps",
        "decay_rate",
        "staircase",
        "name",
    )

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        decay_rate,
        staircase=False,
        name=None,
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = decay_steps
        self.decay_rate = decay_rate
        self.staircase = staircase
        self.name = name

    def _rate(self, step):
        initial_rate = _initial_rate(self.initial_learning_rate)
        dtype = initial_rate.dtype
        periods = tf.cast(step, dtype) / tf.cast(self.decay_steps, dtype)
        if self.staircase:
            periods = tf.floor(periods)
        divisor = 1 + tf.cast(self.decay_rate, dtype) * periods
        return initial_rate / divisor


def _half_cosine(fraction: tf.Tensor, amplitude: Any = 0.5) -> tf.Tensor:
    """Falls from twice the amplitude to 0 while `fraction` goes from 0 to 1."""
    pi = tf.constant(math.pi, fraction.dtype)
    return amplitude * (1.0 + tf.cos(pi * fraction))


@hosts.public
class CosineDecay(_BuiltIn):
    """Leads the rate down half a period of a cosine, after an optional warmup.

        fraction = min(step, decay_steps) / decay_steps
        cosine = (1 + cos(pi * fraction)) / 2
        rate(step) = initial_learning_rate * ((1 - alpha) * cosine + alpha)

    With a `warmup_target`, the rate first rises linearly from
    `initial_learning_rate` to that target, within `warmup_steps`; the decay
    comes after these steps and starts from the target.

    >>> schedule = CosineDecay(0.1, decay_steps=4)
    >>> [f"{schedule(step):.4f}" for step in range(6)]
    ['0.1000', '0.0854', '0.0500', '0.0146', '0.0000', '0.0000']
    >>> schedule = CosineDecay(0.0, 4, warmup_target=0.1, warmup_steps=2)
    >>> [f"{schedule(step):.4f}" for step in range(7)]
    ['0.0000', '0.0500', '0.1000', '0.0854', '0.0500', '0.0146', '0.0000']

    Args:
      initial_learning_rate: A number or scalar tensor.
      decay_steps: A number or scalar tensor, positive; it does not include the
        warmup.
      alpha: A number or scalar tensor: the last rate, as a fraction of the rate
        from which the decay starts.
      name: Optional name of the operations; `"CosineDecay"` by default.
      warmup_target: None for no warmup, or a number or scalar tensor.
      warmup_steps: A number or scalar tensor.

    References:
      Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm
      Restarts", 2016, https://arxiv.org/abs/1608.03983.
      Goyal et al., "Accurate, Large Minibatch SGD", 2017,
      https://arxiv.org/abs/1706.02677 (the warmup).
    """

    _SCOPE = "CosineDecay"
    _ARGUMENTS = (
        "initial_learning_rate",
        "decay_steps",
        "alpha",
        "name",
        "warmup_target",
        "warmup_steps",
    )

    def __init__(
        self,
        initial_learning_rate,
        decay_steps,
        alpha=0.0,
        name=None,
        warmup_target=None,
        warmup_steps=0,
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = decay_steps
        self.alpha = alpha
        self.name = name
        self.warmup_target = warmup_target
        self.warmup_steps = warmup_steps

    def _rate(self, step):
        initial_rate = _initial_rate(self.initial_learning_rate)
        dtype = initial_rate.dtype
        decay_steps = tf.cast(self.decay_steps, dtype)
        step = tf.cast(step, dtype)

        def decay(step, start_rate):
            cosine = _half_cosine(step / decay_steps)
            return start_rate * ((1 - self.alpha) * cosine + self.alpha)

        if self.warmup_target is None:
            return decay(tf.minimum(step, decay_steps), initial_rate)

        target = tf.cast(self.warmup_target, dtype)
        warmup_steps = tf.cast(self.warmup_steps, dtype)
        step = tf.minimum(step, decay_steps + warmup_steps)

        def warm_up():
            rise = target - initial_rate
            return rise * (step / warmup_steps) + initial_rate

        return tf.cond(
            step < warmup_steps,
            warm_up,
            lambda: decay(step - warmup_steps, target),
        )


@hosts.public
class CosineDecayRestarts(_BuiltIn):
    """Repeats a cosine decay, each time over a longer period.

    Period `i` (0, 1, ...) takes `first_decay_steps * t_mul ** i` steps.  Where
    `fraction` is the part of its period that has passed:

        cosine = m_mul ** i * (1 + cos(pi * fraction)) / 2
        rate(step) = initial_learning_rate * ((1 - alpha) * cosine + alpha)

    >>> schedule = CosineDecayRestarts(0.1, first_decay_steps=2, m_mul=0.5)
    >>> [f"{schedule(step):.4f}" for step in range(7)]
    ['0.1000', '0.0500', '0.0500', '0.0427', '0.0250', '0.0073', '0.0250']

    Args:
      initial_learning_rate: A number or scalar tensor.
      first_decay_steps: A number or scalar tensor, positive.
      t_mul: A number or scalar tensor: how much longer each period is than the
        one before it.
      m_mul: A number or scalar tensor: the rate from which a period starts, as
        a fraction of that of the period before it.
      alpha: A number or scalar tensor: the lowest rate, as a fraction of
        `initial_learning_rate`.
      name: Optional name of the operations; `"SGDRDecay"` by default.

    References:
      Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm
      Restarts", 2016, https://arxiv.org/abs/1608.03983.
    """

    _SCOPE = "SGDRDecay"
    _ARGUMENTS = (
        "initial_learning_rate",
        "first_decay_steps",
        "t_mul",
        "m_mul",
        "alpha",
        "name",
    )

    def __init__(
        self,
        initial_learning_rate,
        first_decay_steps,
        t_mul=2.0,
        m_mul=1.0,
        alpha=0.0,
        name=None,
    ):
        self.initial_learning_rate = initial_learning_rate
        self.first_decay_steps = first_decay_steps
        self.t_mul = t_mul
        self.m_mul = m_mul
        self.alpha = alpha
        self.name = name

    def _rate(self, step):
        initial_rate = _initial_rate(self.initial_learning_rate)
        dtype = initial_rate.dtype
        alpha = tf.cast(self.alpha, dtype)
        t_mul = tf.cast(self.t_mul, dtype)
        m_mul = tf.cast(self.m_mul, dtype)
        # The step in units of the first period.
        time = tf.cast(step, dtype) / tf.cast(self.first_decay_steps, dtype)

        def equal_periods():
            period = tf.floor(time)
            return period, time - period

        def growing_periods():
            # Period i starts at the sum of t_mul ** k over k < i.
            period = tf.floor(
                tf.math.log(1.0 - time * (1.0 - t_mul)) / tf.math.log(t_mul)
            )
            length = t_mul**period
            start = (1.0 - length) / (1.0 - t_mul)
            return period, (time - start) / length

        period, fraction = tf.cond(
            tf.equal(t_mul, 1.0), equal_periods, growing_periods
        )
        cosine = _half_cosine(fraction, amplitude=0.5 * m_mul**period)
        return initial_rate * ((1 - alpha) * cosine + alpha)
