"""What some releases lacked, and what they computed with instead.

Files of theirs hold no value for it.  A release without a hyperparameter
computed as later ones do with its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_legacy_opt import hosts
from keras_legacy_opt.optimizer import Optimizer

# {class: hyperparameters that are not in checkpoints of all releases}
_CAME_LATER = {
    "Ftrl": ("beta",),  # With TensorFlow 2.4.
    # Checkpoints that were converted from HDF5 files of Keras 1 or TF1, whose
    # RMSprop had no momentum, and whose Nadam called it `schedule_decay`.
    "Nadam": ("decay",),
    "RMSprop": ("momentum",),
}
_BASE_OF_MOMENTUM_SCHEDULE = 0.96


def defaults(optimizer: Optimizer) -> dict[str, float]:
    """{hyperparameter that came later: what releases without it computed with}.

    Args:
      optimizer: an optimizer of this package, or of a subclass.
    """
    for cls in type(optimizer).__mro__:
        if cls.__name__ in _CAME_LATER and hosts.public_class(
            cls.__name__, Optimizer
        ):
            hyper = cls()._hyper
            return {name: hyper[name] for name in _CAME_LATER[cls.__name__]}
    return {}


def completed(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration with the hyperparameters that it lacks.

    They have today's names: Keras 1 wrote `lr`, and `schedule_decay` of Nadam.

    Args:
      class_name: of the optimizer; of other classes than ours, nothing is
        known.
      config: its configuration, of any release.
    """
    result = dict(config)
    if "lr" in result:
        result["learning_rate"] = result.pop("lr")
    for name, value in hyperparameters(class_name, result).items():
        if name != "learning_rate":  # There is none beside a schedule.
            result.setdefault(name, value)
    return result


def hyperparameters(
    class_name: str, config: Mapping[str, Any]
) -> dict[str, Any]:
    """What an optimizer makes variables of, as it keeps them.

    Args:
      class_name: of the optimizer; of other classes than ours, nothing is
        known.
      config: its configuration, of which numbers count.

    Returns:
      {name: value}, where some may be whole numbers or truth values.
    """
    cls = hosts.public_class(class_name, Optimizer)
    numbers = {
        name: value
        for name, value in config.items()
        if isinstance(value, (bool, int, float))
    }
    try:
        return {} if cls is None else cls.from_config(numbers)._hyper
    except (KeyError, TypeError, ValueError):  # Options of no release.
        return {}


def momentum_cache(
    iterations: int,
    beta_1: float | np.ndarray,
    decay: float | np.ndarray,
    dtype: Any,
) -> np.ndarray:
    """The slot of Nadam that Keras 1 and TF1 did not save at first.

    It is the product of the momentums of all steps.

    >>> from keras_legacy_opt.checkpoints import releases
    >>> var, opt = tf.Variable(1.0), keras_legacy_opt.Nadam()
    >>> for _ in range(3):
    ...     _ = opt.minimize(lambda: var**2, [var])
    >>> cache = releases.momentum_cache(3, 0.9, 0.004, "float32")
    >>> round(float(cache / opt.get_weights()[1]), 6)
    1.0
    """
    steps = np.arange(1, min(iterations, 100_000) + 1, dtype=np.float64)
    decayed = np.power(_BASE_OF_MOMENTUM_SCHEDULE, decay * steps)
    return np.prod(beta_1 * (1.0 - 0.5 * decayed)).astype(dtype)
