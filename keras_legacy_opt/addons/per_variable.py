"""What optimizers of this folder have for some of their variables only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from keras_legacy_opt import originals, serialization
from keras_legacy_opt.addons import selection
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.rules.formula import scheduled
from keras_legacy_opt.step.own import Own

# {pattern: factor}, or (selection, factor) pairs
Factors = Mapping[str, float] | Sequence[tuple[Any, float]] | None


class _Checked:
    """An attribute that is checked and listed whenever it is set.

    The instance has it as any other: so do its copies, and pickles.
    """

    def __init__(self, check: Callable[[Any, str], Any], default: Any):
        self._check = check
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        return vars(instance).get(self._name, self._default)

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self._name] = self._check(value, self._name)


def selection_attribute() -> Any:
    """An attribute of a class: a selection, checked whenever it is set."""
    return _Checked(selection.check, None)


def _checked_factors(
    factors: Factors, argument: str
) -> list[tuple[Any, float]]:
    if isinstance(factors, Mapping):
        factors = list(factors.items())
    try:
        pairs = [(which, factor) for which, factor in factors or ()]
    except (TypeError, ValueError):
        raise TypeError(
            f"`{argument}` must be a dictionary of patterns and numbers >= 0,"
            f" or a list of (selection, number) pairs. Received: {factors!r} of"
            f" type {type(factors).__name__}."
        ) from None
    return [
        (selection.check(which, argument), _checked_factor(factor))
        for which, factor in pairs
    ]


class WeightDecayMixin(Optimizer):
    """The part of an optimizer with a weight decay.

    Attributes:
      _decay: the name of the hyperparameter that is the weight decay.
    """

    _decay: ClassVar[str] = "weight_decay"

    def _check_hyper(self, name: str, value: Any) -> None:
        """See `Optimizer`."""
        super()._check_hyper(name, value)
        if name == self._decay:
            _check_decay(value, name)


class PerVariableMixin(WeightDecayMixin):
    """The part of an optimizer with a weight decay, and with selections.

    Attributes:
      _selections: the names of the attributes that are selections, each a
        `selection_attribute`.
      learning_rate_factors: (selection, factor) pairs; the first that selects a
        variable counts.
    """

    _selections: ClassVar[tuple[str, ...]] = ("exclude_from_weight_decay",)
    learning_rate_factors: Any = _Checked(_checked_factors, ())

    def _own_of(self, variable: Any, apply_state: Any) -> Own | None:
        """See `Optimizer`: the variable's factor, if it has one."""
        for which, factor in self.learning_rate_factors:
            if self._selects(which, variable):
                return Own(lr_factor=factor)
        return super()._own_of(variable, apply_state)

    def _own_depends_on(self) -> list[Any] | None:
        """See `Optimizer`: selections of patterns and variables."""
        hooks = [
            n for n in ("_do_use_weight_decay", "_selects") if hasattr(self, n)
        ]
        if not originals.is_own(self, tuple(hooks)):
            return None
        selections = [getattr(self, name) for name in self._selections]
        selections += [which for which, _ in self.learning_rate_factors]
        found = [*selections, *self.learning_rate_factors]
        for each in selections:
            # What a function answers may change, and what a layer has.
            if callable(each) or any(hasattr(x, "weights") for x in each or ()):
                return None
            found += each or ()
        return found

    def _selects(self, which: selection.Selection, variable: Any) -> bool:
        return selection.selects(which, self._known_variables, variable)

    def _weight_decay(self, dtype: tf.DType) -> tf.Tensor:
        """The weight decay of this step: a schedule's, of the iterations."""
        return scheduled(self, self._decay, dtype)

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        config = super().get_config()
        for name in self._selections:
            config[name] = selection.in_config(getattr(self, name))
        if self.learning_rate_factors:
            config["learning_rate_factors"] = [
                [selection.in_config(which), factor]
                for which, factor in self.learning_rate_factors
            ]
        return config

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Any:
        """The optimizer of a configuration, whose decay may be a schedule."""
        config = dict(config)
        if isinstance(config.get(cls._decay), Mapping):
            config[cls._decay] = serialization.deserialize_schedule(
                config[cls._decay], custom_objects
            )
        return super().from_config(config, custom_objects)


def _check_decay(value: Any, argument: str) -> None:
    """Raises an error if a weight decay is none, or a negative number."""
    if callable(value) or tf.is_tensor(value):
        return
    if np.ndim(value) or not np.issubdtype(np.asarray(value).dtype, np.number):
        raise TypeError(
            f"`{argument}` must be a number >= 0, a scalar tensor or variable,"
            " a function without arguments, or a schedule. Received:"
            f" {value!r} of type {type(value).__name__}."
        )
    if not value >= 0:
        raise ValueError(f"Expected {argument} >= 0, received: {value}.")


def _checked_factor(factor: Any) -> float:
    is_number = isinstance(factor, (int, float, np.integer, np.floating))
    if not is_number or not factor >= 0:
        raise ValueError(
            "`learning_rate_factors` must be numbers >= 0 of patterns, or"
            f" (selection, number) pairs. Received the factor {factor!r}."
        )
    return float(factor)
