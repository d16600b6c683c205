"""Hyperparameters: set by any value, read as tensors, overwritten at any time.

A number becomes a scalar variable when the optimizer is first used, so that
overwriting it needs no new trace.  Tensors, variables, callables and schedules
stay what they are.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import hosts, originals, private_api, serialization
from keras_legacy_opt.hosts import overrides
from keras_legacy_opt.schedules import LearningRateSchedule
from keras_legacy_opt.state import reads, saving
from keras_legacy_opt.state.base import OptimizerBase

# Attributes that Keras 3 reads from every optimizer, with the values that say
# "not used here".  No class attributes: a subclass may have a hyperparameter
# of the same name (`weight_decay`, say), which must win.
KERAS_3_DEFAULTS = {
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "gradient_accumulation_steps": None,
    "loss_scale_factor": None,
    "use_ema": False,
    "weight_decay": None,
}


def is_schedule(value: Any) -> bool:
    """Whether `value` is a learning rate schedule, of whichever Keras."""
    return isinstance(value, (LearningRateSchedule, *hosts.schedule_classes()))


class _HyperparameterAttribute:
    """Reads a hyperparameter whose name a host's base class has, too.

    It has no `__set__`, hence subclasses and instances may shadow it.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        return instance.__getattr__(self._name)


class HyperparameterMixin(OptimizerBase):
    """The part of an optimizer that keeps its hyperparameters."""

    _hypers_created: bool
    # Whether a trace, made while `decay` was 0, will not notice if it changes.
    _traced_without_decay: bool

    # Without these, attribute access would run a host's code: tf_keras' base
    # has a `__getattribute__`, Keras 3's a property `learning_rate`.
    __getattribute__ = object.__getattribute__
    learning_rate: Any = _HyperparameterAttribute()

    def __getattr__(self, name: str) -> Any:
        """Reads a hyperparameter; `lr` is the learning rate."""
        hyper = self.__dict__.get("_hyper", {})
        if name == "lr" and "learning_rate" in hyper:
            return self._get_hyper("learning_rate")
        if name in hyper:
            value = self._get_hyper(name)
            return _with_value(value, self) if is_schedule(value) else value
        if name in KERAS_3_DEFAULTS:
            return KERAS_3_DEFAULTS[name]
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """Overwrites a hyperparameter, or sets any other attribute."""
        if name == "lr":
            name = "learning_rate"
        if name in self.__dict__.get("_hyper", {}):
            self._set_hyper(name, value)
        else:
            value = overrides.guarded_on(self, name, value)
            object.__setattr__(self, name, value)

    def __dir__(self) -> list[str]:
        names = {*object.__dir__(self), *self.__dict__.get("_hyper", {})}
        if "learning_rate" in self.__dict__.get("_hyper", {}):
            names.add("lr")
        return sorted(names)

    def _check_hyper(self, name: str, value: Any) -> None:
        """Raises an error if a hyperparameter cannot have a value; to override.

        It is asked whenever one is set, in the constructor or later.
        """

    def _set_hyper(self, name: str, value: Any) -> None:
        """Sets the hyperparameter `name`.

        Args:
          name: String.  New names become readable as attributes.
          value: a number, tensor, variable, callable without arguments, or
            learning rate schedule.  Once the hyperparameter is a variable, a
            number, tensor or variable is assigned to it; anything else
            replaces it.
        """
        value = hosts.unwrap(value)
        self._check_hyper(name, value)
        previous = self._hyper.get(name)
        if isinstance(previous, tf.Variable) and not callable(value):
            _assign(previous, value, name)
        else:
            self._hyper[name] = value
            if isinstance(value, private_api.Trackable):
                self._track_trackable(value, name, overwrite=True)
        if name == "decay" and isinstance(value, (int, float)):
            self.__dict__["_initial_decay"] = value
            if self._traced_without_decay and value > 0:
                warnings.warn(
                    f"The decay is now {value}, but functions that were traced"
                    f" while it was 0 go on without: {type(self).__name__} has"
                    " updates of its own, whose traces are legacy's. Trace"
                    " them again, or make the optimizer with a decay above 0.",
                    stacklevel=3,
                )

    @property
    def _initial_decay(self) -> Any:
        """`decay`: what its variable holds, once there is one.

        A number that was set is remembered beside the variable, which has fewer
        digits; it counts as long as the variable holds it.
        """
        try:
            given = self.__dict__["_initial_decay"]
        except KeyError:
            raise AttributeError("_initial_decay") from None
        variable = self.__dict__.get("_hyper", {}).get("decay")
        if isinstance(variable, (int, float)):
            # Of a pickle: it was in a variable, and will be.
            return _with_digits(np.float32(variable), given)
        if not isinstance(variable, tf.Variable):
            return given
        if reads.is_plain(variable):
            value = reads.cast(variable, variable.dtype).numpy()
            return _with_digits(value, given)
        with tf.init_scope():
            if not tf.executing_eagerly():
                return given  # In a TF1 graph, whose sessions have the value.
            return _with_digits(variable.numpy(), given)

    @_initial_decay.setter
    def _initial_decay(self, value: Any) -> None:
        if "decay" in self.__dict__.get("_hyper", {}):
            self._set_hyper("decay", value)
        self.__dict__["_initial_decay"] = value

    def _get_hyper(self, name: str, dtype: tf.DType | None = None) -> Any:
        """The hyperparameter `name`, as `dtype` if given.

        Returns:
          A schedule as it is; otherwise a variable, tensor or number.
        """
        if not self._hypers_created:
            self._create_hypers()
        value = self._hyper[name]
        if is_schedule(value):
            return value
        if callable(value):
            value = value()
        return reads.cast(value, dtype) if dtype else value

    def _create_hypers(self) -> None:
        """Makes variables of the hyperparameters that are numbers.

        A variable takes its dtype from the Python value: float32, int32, bool.
        """
        if self._hypers_created:
            return
        with self._distribution_strategy_scope():
            for name, value in sorted(self._hyper.items()):
                if not callable(value) and not tf.is_tensor(value):
                    self._hyper[name] = self._make_hyper(name, value)
        self._hypers_created = True

    def _make_hyper(self, name: str, value: Any) -> Any:
        """The variable of a hyperparameter."""
        aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
        if self._is_checkpointed(name):
            return self.add_weight(
                name,
                shape=[],
                trainable=False,
                initializer=value,
                aggregation=aggregation,
            )
        variable = tf.Variable(
            value, trainable=False, name=name, aggregation=aggregation
        )
        hosts.track(variable)
        return variable

    @classmethod
    def _is_checkpointed(cls, hyper: str) -> bool:
        """Whether checkpoints hold a hyperparameter that is a number."""
        del hyper
        return True

    def _decayed_lr(self, var_dtype: tf.DType) -> tf.Tensor:
        """The learning rate of this step: scheduled, then decayed.

        With `decay` it is `learning_rate / (1 + decay * iterations)`.
        """
        learning_rate = self._get_hyper("learning_rate", var_dtype)
        if is_schedule(learning_rate):
            step = tf.cast(self.iterations, var_dtype)
            learning_rate = tf.cast(learning_rate(step), var_dtype)
        return _inverse_time_decayed(self, learning_rate, var_dtype)

    def _serialize_hyperparameter(self, hyperparameter_name: str) -> Any:
        """The hyperparameter as `get_config` shows it, in Python's types."""
        value = self._hyper[hyperparameter_name]
        if is_schedule(value):
            return serialization.serialize_schedule(value)
        if callable(value):
            value = value()
        if tf.is_tensor(value):
            value = saving.fetch_all([value])[0]
            if hyperparameter_name == "decay":
                value = _with_digits(value, self.__dict__["_initial_decay"])
        if isinstance(value, (np.ndarray, np.generic)):
            return value.item() if value.ndim == 0 else value.tolist()
        return value

    def _call_if_callable(self, param: Any) -> Any:
        return param() if callable(param) else param


def _inverse_time_decayed(
    optimizer: HyperparameterMixin, learning_rate: tf.Tensor, dtype: tf.DType
) -> tf.Tensor:
    decay, scope = optimizer._initial_decay, contextlib.nullcontext()
    decays = not isinstance(decay, (int, float)) or decay > 0
    if decay_may_change(optimizer):
        if not decays:
            if not _is_built_in(optimizer):
                # Grappler rearranges what it finds, and sorts it by name: the
                # numbers are legacy's if the ops are, and their names.
                optimizer._traced_without_decay = True
                return learning_rate
            scope = tf.name_scope("without_decay")
        decay = traced_decay(optimizer, dtype)
        with tf.name_scope("decay"):
            decay = tf.where(
                tf.math.real(decay) > 0, decay, tf.zeros_like(decay)
            )
    elif not decays:
        return learning_rate
    with scope:
        step = tf.cast(optimizer.iterations, dtype)
        decay = tf.cast(decay, dtype)
        # In float16 the step may be infinite, which times 0 were NaN.
        decay = tf.raw_ops.MulNoNan(x=step, y=decay, name="mul")
        return learning_rate / (1.0 + decay)


def decay_may_change(optimizer: HyperparameterMixin) -> bool:
    """Whether this is traced, so that `decay` must be read from its variable.

    In eager execution, `_initial_decay` has what it is now.
    """
    return not tf.executing_eagerly() and isinstance(
        optimizer._hyper.get("decay"), tf.Variable
    )


def traced_decay(
    optimizer: HyperparameterMixin,
    dtype: tf.DType,
    convert: Callable[..., tf.Tensor] = tf.cast,
) -> tf.Tensor:
    """`decay` as its variable has it, or as `convert` yields it if unchanged.

    Of a number, legacy casts a float32 to float64; but Nadam multiplies by it.
    """
    traced = optimizer._initial_decay
    with tf.name_scope("decay"):
        current = tf.convert_to_tensor(optimizer._get_hyper("decay"))
        if not isinstance(traced, (int, float)):
            return tf.cast(current, dtype)
        return tf.where(
            tf.equal(current, tf.cast(traced, current.dtype)),
            convert(traced, dtype),
            tf.cast(current, dtype),
        )


def _is_built_in(optimizer: HyperparameterMixin) -> bool:
    """Whether all that a step of the optimizer calls is this package's."""
    overrides = set(vars(optimizer))
    for cls in type(optimizer).__mro__:
        if originals.package_of(cls) == hosts.PACKAGE:
            return overrides.isdisjoint(_methods(cls))
        overrides |= vars(cls).keys() - _BESIDE_THE_STEP
    return False


# What a subclass may override and remain the optimizer that it was.
_BESIDE_THE_STEP = {
    *vars(type("Empty", (), {})),
    "__abstractmethods__",
    "__annotations__",
    "__firstlineno__",
    "__init__",
    "__static_attributes__",
    "_abc_impl",
    "from_config",
    "get_config",
}


def _methods(cls: type) -> set[str]:
    return {name for name in dir(cls) if callable(getattr(cls, name, None))}


def _with_digits(value: np.ndarray | np.generic, given: Any) -> Any:
    """`given`, if that is what a variable that holds `value` was set to."""
    if isinstance(given, (int, float)) and value == np.asarray(
        given, value.dtype
    ):
        return given
    return value.item()


def _assign(variable: tf.Variable, value: Any, name: str) -> None:
    if isinstance(value, (bool, int, float, np.generic, np.ndarray)):
        converted = np.asarray(value, variable.dtype.as_numpy_dtype)
        if variable.dtype.is_integer and converted != value:
            warnings.warn(
                f"Hyperparameter {name!r} is an {variable.dtype.name} variable,"
                f" because it was first set to an integer: {value} becomes"
                f" {converted}. Set it to a float when the optimizer is made.",
                stacklevel=4,
            )
        value = converted
    else:
        value = tf.cast(value, variable.dtype)
    if tf.compat.v1.executing_eagerly_outside_functions():
        variable.assign(value)
    else:
        saving.assign_all([variable], [value])


def _with_value(schedule: Any, optimizer: HyperparameterMixin) -> Any:
    """`schedule`, which is at the same time the optimizer's learning rate.

    Keras 3's callbacks take `float(optimizer.learning_rate)`, legacy code takes
    `optimizer.learning_rate(step)`: the result does both.  It is an instance of
    the schedule's class, shares its attributes, and equals it.
    """
    cls = type(schedule)
    namespace = {
        "__array__": lambda self, dtype=None, copy=None: np.asarray(
            schedule(optimizer.iterations), dtype
        ),
        "__float__": lambda self: float(schedule(optimizer.iterations)),
        "__eq__": lambda self, other: other is schedule or other is self,
        "__hash__": lambda self: hash(schedule),
        "__reduce__": lambda self: (copy.copy, (schedule,)),
        "__class__": property(lambda self: cls),
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }
    bound = object.__new__(type(cls.__name__, (cls,), namespace))
    object.__setattr__(bound, "__dict__", schedule.__dict__)
    return bound
