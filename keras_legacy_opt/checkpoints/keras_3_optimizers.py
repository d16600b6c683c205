"""Legacy optimizers into Keras 3's of the same name, and back, with state.

The slots are the same quantities in both; what differs is told by
`_differences_of_formula`, and by the options that one side lacks.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

import keras_legacy_opt
from keras_legacy_opt import hosts, private_api
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.state import saving
from keras_legacy_opt.state.hyperparameters import is_schedule
from keras_legacy_opt.step import gradients

# {class: {our slot: Keras 3's attribute, a list with one per variable}}
_SLOTS = {
    "Adadelta": {
        "accum_grad": "_accumulated_grads",
        "accum_var": "_accumulated_delta_vars",
    },
    "Adagrad": {"accumulator": "_accumulators"},
    "Adam": {
        "m": "_momentums",
        "v": "_velocities",
        "vhat": "_velocity_hats",
    },
    "Adamax": {"m": "_m", "v": "_u"},
    "Ftrl": {"accumulator": "_accumulators", "linear": "_linears"},
    "Nadam": {"m": "_momentums", "v": "_velocities"},
    "RMSprop": {
        "rms": "_velocities",
        "momentum": "_momentums",
        "mg": "_average_gradients",
    },
    "SGD": {"momentum": "momentums"},
}
_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")
# What a legacy optimizer has not, with the value that means "not used".
_ONLY_IN_KERAS_3 = {
    "weight_decay": None,
    "use_ema": False,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}
_NOT_IN_CONFIG = ("ema_momentum", "ema_overwrite_frequency")


class ConversionError(ValueError):
    """The converted optimizer would not go on as the original does."""


def to_keras_3(
    optimizer: Any,
    variables: Iterable[Any] | None = None,
    *,
    strict: bool = True,
) -> Any:
    """Keras 3's optimizer of the same name, with the same state.

    Its next steps are those of the original, up to rounding and for dense
    gradients, except:

    * `RMSprop` without momentum and `Adagrad`: Keras 3 adds `epsilon` inside
      the square root, legacy optimizers outside;
    * `Nadam`: Keras 3's momentum schedule is legacy's with
      `schedule_decay=1.0`;
    * options that Keras 3 lacks: several ways of clipping at once,
      `gradient_transformers`, hyperparameters that are callables.

    `decay` becomes an `InverseTimeDecay`, which is the same.

    Args:
      optimizer: one of the eight optimizers of `keras_legacy_opt`.
      variables: the variables to train, in the order in which Keras 3 will
        have them: `model.trainable_variables`.  If `None`, those that the
        optimizer has slots for.
      strict: whether to raise an error where the next steps would differ, or to
        warn of it.

    Returns:
      A built optimizer of `keras.optimizers`.

    Raises:
      ConversionError: if `strict` and the next steps would differ.
      TypeError: for an optimizer without a counterpart.

    >>> import keras
    >>> var = keras.Variable(1.0)
    >>> opt = keras_legacy_opt.Adam(0.1)
    >>> _ = opt.apply_gradients([(tf.constant(0.5), var)])
    >>> new = keras_legacy_opt.checkpoints.to_keras_3(opt)
    >>> type(new).__module__.partition(".")[0], int(new.iterations)
    ('keras', 1)
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"Expected a legacy optimizer, received: {optimizer}.")
    name = _class_name(
        optimizer, hosts.public_class(type(optimizer).__name__, Optimizer)
    )
    keras = _keras_3()
    config, differences = _config_of_keras_3(optimizer, name, keras)
    _settle(differences, strict, f"{name} of Keras 3")
    new = getattr(private_api.own_optimizers(keras), name)(**config)
    if variables is None:
        variables = optimizer._known_variables.with_slots()
    variables = list(variables)
    optimizer.build(variables)
    new.build(variables)
    for ours, theirs in _pairs(name, optimizer, new, variables):
        theirs.assign(_value(ours))
    return new


def from_keras_3(
    optimizer: Any,
    variables: Sequence[Any] | None = None,
    *,
    strict: bool = True,
) -> Any:
    """The legacy optimizer of the same name, with the same state.

    The inverse of `to_keras_3`, with the same exceptions; `Nadam` gets
    `schedule_decay=1.0` and is exact.  What legacy optimizers lack are
    `weight_decay`, `use_ema`, `loss_scale_factor` and
    `gradient_accumulation_steps`.

    Args:
      optimizer: a built optimizer of `keras.optimizers`.
      variables: the variables it was built with, in that order; those that it
        remembers if `None`.
      strict: whether to raise an error where the next steps would differ, or to
        warn of it.

    Returns:
      A built optimizer of `keras_legacy_opt`.

    Raises:
      ConversionError: if `strict` and the next steps would differ.
      TypeError: for an optimizer without a counterpart.
    """
    keras = _keras_3()
    theirs = private_api.own_optimizers(keras)
    name = _class_name(
        optimizer, getattr(theirs, type(optimizer).__name__, None)
    )
    config, differences = _config_of_legacy(optimizer, name)
    new = getattr(keras_legacy_opt, name)(**config)
    differences += _differences_of_formula(new, name)
    _settle(differences, strict, f"{name} of keras_legacy_opt")
    variables = list(
        optimizer._trainable_variables if variables is None else variables
    )
    new.build(variables)
    pairs = list(_pairs(name, new, optimizer, variables))
    saving.assign_all(
        [ours for ours, _ in pairs], [_value(theirs) for _, theirs in pairs]
    )
    return new


def _pairs(
    name: str, legacy: Any, keras_3: Any, variables: Sequence[Any]
) -> Iterator[tuple[Any, Any]]:
    """(variable of the legacy one, the same of Keras 3's), both built."""
    yield legacy.iterations, keras_3.iterations
    for slot, attribute in _SLOTS[name].items():
        if slot in legacy.get_slot_names():
            theirs = getattr(keras_3, attribute)
            for variable, their in zip(variables, theirs, strict=True):
                yield legacy.get_slot(variable, slot), their
    if name == "Nadam" and legacy._m_cache is not None:
        yield legacy._m_cache, keras_3._u_product


def _config_of_keras_3(
    optimizer: Any, name: str, keras: Any
) -> tuple[dict[str, Any], list[str]]:
    """The configuration of Keras 3's optimizer, and what it cannot say."""
    config = optimizer.get_config()
    differences = _differences_of_formula(optimizer, name)
    differences += _unrepeatable(optimizer)
    clipping = [option for option in _CLIPPING if option in config]
    for option in clipping[1:]:
        differences.append(
            f"{option}={config.pop(option)}: Keras 3 clips in one way only,"
            f" here by {clipping[0]}"
        )
    decay = config.pop("decay", 0.0)
    rate = _keras_3_schedule(optimizer, keras, config)
    if name != "Nadam" and decay > 0:
        if is_schedule(optimizer._hyper["learning_rate"]):
            differences.append(f"decay={decay}, on top of a schedule")
        else:
            schedules = private_api.own_schedules(keras)
            rate = schedules.InverseTimeDecay(rate, 1, decay)
    return {**config, "learning_rate": rate}, differences


def _config_of_legacy(
    optimizer: Any, name: str
) -> tuple[dict[str, Any], list[str]]:
    """The configuration of a legacy optimizer, and what it cannot say."""
    config = optimizer.get_config()
    config.pop("is_legacy_optimizer", None)
    differences = []
    for option, unused in _ONLY_IN_KERAS_3.items():
        value = config.pop(option, unused)
        if value != unused:
            differences.append(f"{option}={value}: legacy optimizers have none")
    for option in _NOT_IN_CONFIG:
        config.pop(option, None)
    for option in _CLIPPING:
        if config.get(option) is None:
            config.pop(option, None)
    rate = optimizer._learning_rate
    config["learning_rate"] = (
        _our_schedule(rate) if is_schedule(rate) else float(_value(rate))
    )
    if name == "Nadam":
        config["schedule_decay"] = 1.0
    return config, differences


def _class_name(optimizer: Any, counterpart: type | None) -> str:
    name = type(optimizer).__name__
    if name not in _SLOTS or type(optimizer) is not counterpart:
        raise TypeError(
            f"{type(optimizer).__module__}.{name} cannot be converted: only"
            f" {', '.join(_SLOTS)} are in both, and a subclass may compute"
            " something else."
        )
    return name


def _differences_of_formula(optimizer: Any, name: str) -> list[str]:
    """How Keras 3's formula differs, given the options of a legacy one."""
    inside = (
        "epsilon: Keras 3 adds it inside the square root, legacy optimizers"
        " outside"
    )
    if name == "Adagrad":
        return [inside]
    if name == "RMSprop" and not optimizer._momentum:
        return [f"{inside} (unless there is momentum)"]
    if name == "Nadam" and optimizer._initial_decay != 1.0:
        return [
            f"schedule_decay={optimizer._initial_decay}: Keras 3's momentum"
            " schedule is that of 1.0"
        ]
    return []


def _unrepeatable(optimizer: Any) -> list[str]:
    differences = []
    if optimizer.gradient_transformers:
        differences.append("gradient_transformers: Keras 3 has none")
    if optimizer.gradient_aggregator is not gradients.all_reduce_sum:
        differences.append("gradient_aggregator: Keras 3 always sums")
    for option, value in optimizer._hyper.items():
        if callable(value) and not is_schedule(value):
            differences.append(
                f"{option} is a function; only its value is kept"
            )
    return differences


def _settle(differences: Sequence[str], strict: bool, target: str) -> None:
    if not differences:
        return
    message = f"Training would not go on the same with {target}:" + "".join(
        f"\n  {difference}" for difference in differences
    )
    if strict:
        raise ConversionError(
            f"{message}\nPass strict=False to convert nevertheless."
        )
    warnings.warn(message, stacklevel=3)


def _keras_3_schedule(optimizer: Any, keras: Any, config: dict) -> Any:
    schedule = optimizer._hyper["learning_rate"]
    if not is_schedule(schedule):
        return config["learning_rate"]
    schedules = private_api.own_schedules(keras)
    if isinstance(schedule, schedules.LearningRateSchedule) and not isinstance(
        schedule, keras_legacy_opt.schedules.LearningRateSchedule
    ):
        return schedule
    cls = getattr(schedules, type(schedule).__name__, None)
    # Ours is an instance of Keras 3's base already, and can serve as it is.
    return _like(schedule, cls)


def _our_schedule(schedule: Any) -> Any:
    cls = getattr(keras_legacy_opt.schedules, type(schedule).__name__, None)
    return _like(schedule, cls)


def _like(schedule: Any, cls: Any) -> Any:
    if cls is None:
        return schedule
    config = schedule.get_config()
    return cls.from_config({n: v for n, v in config.items() if v is not None})


def _value(variable: Any) -> np.ndarray:
    return saving.fetch_all([hosts.unwrap(variable)])[0]


def _keras_3() -> Any:
    if "keras" not in hosts.adopted():
        raise ImportError(
            "Converting an optimizer needs Keras 3: import keras first."
        )
    return sys.modules["keras"]
