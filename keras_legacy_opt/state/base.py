"""What the parts of an optimizer may rely on of each other.

The public base class is made of parts, each of which keeps one thing:
hyperparameters, slots, own variables, limits.  They are one object, because
legacy's subclasses know all of it by its underscored names.  Of the others, a
part uses what is stated here, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.state.variables import KnownVariables


class OptimizerBase(private_api.Trackable):
    """The base of the parts; what is a method here is one of them, or above.

    Attributes:
      built: whether any variable has got its slots.
    """

    # That the optimizer was made in.
    _distribution_strategy: tf.distribute.Strategy | None
    # {name: number, tensor, variable, callable or schedule}
    _hyper: dict[str, Any]
    # None until they are first needed.
    _iterations: Any | None
    _known_variables: KnownVariables
    _name: str
    # {key of a variable: {slot name: slot}}
    _slots: dict[str, dict[str, Any]]
    # {name of an own variable: function that returns what it began with}
    _first_values: dict[str, Callable[[], Any]]
    # The iterations, then the slots as they were created.
    _weights: list[Any]
    built: bool

    @property
    def iterations(self) -> Any:
        """int64 scalar variable: the number of steps so far."""
        raise NotImplementedError

    def add_weight(self, name: str, shape: Any, **kwargs: Any) -> Any:
        """Adds a variable to the optimizer and to its checkpoints."""
        raise NotImplementedError

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Any]]) -> Any:
        """Takes a step."""
        raise NotImplementedError

    def build(self, var_list: Sequence[Any]) -> None:
        """Creates the iterations, hyperparameters, and slots of `var_list`."""
        raise NotImplementedError

    def _compute_gradients(
        self, loss: Any, var_list: Any, grad_loss: Any = None, tape: Any = None
    ) -> list[tuple[Any, Any]]:
        """The first half of `minimize`: (gradient, variable) pairs."""
        raise NotImplementedError

    def _create_all_weights(self, var_list: Sequence[Any]) -> None:
        """Creates the iterations, hyperparameters, and slots of `var_list`."""
        raise NotImplementedError

    def _create_hypers(self) -> None:
        """Makes variables of the hyperparameters that are numbers."""
        raise NotImplementedError

    def _first_slots(
        self, var_list: Sequence[Any]
    ) -> dict[str, dict[str, Any]]:
        """What new slots of `var_list` are made of: {key: {name: tensor}}."""
        raise NotImplementedError

    def _distribution_strategy_scope(self) -> Any:
        """The scope that the optimizer's variables are created in."""
        raise NotImplementedError

    def _init_process_state(self) -> None:
        """Sets up what is never pickled: variables, and what refers to them."""
        raise NotImplementedError
