"""What all optimizers have in common that keep averages of the variables."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, originals, private_api
from keras_legacy_opt.addons import wrapper


@originals.recorded
class AveragedOptimizerWrapper(wrapper.Wrapper, metaclass=abc.ABCMeta):
    """Base class of wrappers that average the variables of an optimizer.

    The averages are the slot `average`.  A subclass says in `average_op` how
    one moves, after a step of the optimizer inside and after constraints.

    >>> class Maximum(keras_legacy_opt.addons.AveragedOptimizerWrapper):
    ...     def average_op(self, var, average_var, local_apply_state):
    ...         return average_var.assign(tf.maximum(average_var, var))
    >>> opt, var = Maximum("sgd"), tf.Variable([1.0, -1.0])
    >>> _ = opt.apply_gradients([(tf.constant([1.0, 1.0]), var)])
    >>> opt.assign_average_vars([var])
    >>> [round(float(x), 2) for x in var]
    [0.99, 0.0]
    """

    _CHILD = "awg_optimizer"
    _SLOTS = ("average",)

    def __init__(
        self, optimizer: Any, name: str = "AverageOptimizer", **kwargs: Any
    ):
        """Wraps an optimizer; see `keras_legacy_opt.addons.wrapper.Wrapper`."""
        super().__init__(optimizer, name, **kwargs)

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        for var in var_list:
            self.add_slot(var, "average")

    def _adds_itself(self, variable: Any, takes_own: bool) -> str:
        return " moves the average after the step, by plain ops"

    @abc.abstractmethod
    def average_op(
        self, var: Any, average_var: Any, local_apply_state: dict[str, Any]
    ) -> Any:
        """Moves an average.

        Args:
          var: a variable, after its update, on one device.
          average_var: its average.
          local_apply_state: what `_prepare_local` has computed before the step.

        Returns:
          An operation; in eager execution, whatever it is.
        """
        raise NotImplementedError

    def _is_due(self) -> Any:
        """Whether the averages move in this step: a bool scalar.

        None: in each.
        """

    def _begin(self, variables: Sequence[Any]) -> wrapper.Afterwards | None:
        apply_state = self._prepare(variables)

        def move(variable: Any, average: Any) -> Any:
            key = (variable.device, variable.dtype.base_dtype)
            c = apply_state.get(key) or self._fallback_apply_state(*key)
            return self.average_op(variable, average, c)

        return wrapper.for_each(
            variables,
            [self.get_slot(variable, "average") for variable in variables],
            move,
            self._is_due(),
        )

    def assign_average_vars(self, var_list: Sequence[Any]) -> Any:
        """Sets variables to their averages; a warning names those without.

        Args:
          var_list: list of variables, such as `model.variables`.

        Returns:
          The operation; None in eager execution.

        Raises:
          ValueError: if none of the variables has an average.
        """
        variables = [self._known_variables.unwrap(v) for v in var_list]
        averages = [self._average_of(variable) for variable in variables]
        pairs = [
            (variable, average)
            for variable, average in zip(variables, averages, strict=True)
            if average is not None
        ]
        without = [
            self._known_variables.name(variable)
            for variable, average in zip(variables, averages, strict=True)
            if average is None
        ]
        if not pairs:
            raise ValueError(
                f"Optimizer {self._name!r} has no averages of {without}:"
                " averages are kept of the variables that it has trained."
            )
        if without:
            warnings.warn(
                f"Optimizer {self._name!r} has no averages of {without}, which"
                " stay as they are.",
                stacklevel=2,
            )
        return self._change(pairs, _assign)

    def shadow_copy(self, model_weights: Sequence[Any]) -> None:
        """Makes averages of variables before they are trained: zeros.

        Args:
          model_weights: list of variables.

        Raises:
          ValueError: if it is empty.
        """
        if not model_weights:
            raise ValueError(
                "`model_weights` is empty: there is nothing to average. Build"
                " the model first."
            )
        with tf.name_scope(self._name), tf.init_scope():
            for variable in model_weights:
                self.add_slot(variable, "average")

    def _averaged(self) -> list[tuple[Any, Any]]:
        """The variables that are trained, or else have a copy; with that."""
        known = self._known_variables
        variables = [hosts.unwrap(v) for v in known.with_slots() or known.all()]
        averages = [self._average_of(variable) for variable in variables]
        return [
            (variable, average)
            for variable, average in zip(variables, averages, strict=True)
            if average is not None
        ]

    @property
    def has_shadow_copy(self) -> bool:
        """Whether there are averages."""
        return bool(self._averaged())

    def swap_weights(self) -> None:
        """Swaps the variables and their averages; once more, swaps them back.

        Call it outside of `strategy.run`.

        Raises:
          ValueError: if there are no averages, or in replica context.
        """
        if tf.distribute.has_strategy() and (
            not tf.distribute.in_cross_replica_context()
        ):
            raise ValueError(
                "`swap_weights()` swaps the variables of all replicas: call it"
                " outside of `strategy.run`."
            )
        pairs = self._averaged()
        if not pairs:
            raise ValueError(
                f"Optimizer {self._name!r} has no averages to swap: train, or"
                " call `shadow_copy(model.trainable_variables)` first."
            )
        self._change(pairs, _swap)

    def _average_of(self, variable: Any) -> Any | None:
        try:
            return self.get_slot(variable, "average")
        except KeyError:
            return None

    def _change(self, pairs: Sequence[tuple[Any, Any]], change: Any) -> Any:
        """Changes variables and their averages, on all replicas."""
        variables, averages = zip(*pairs, strict=True)
        change = wrapper.for_each(variables, averages, change)
        with self._distribution_strategy_scope():
            strategy = tf.distribute.get_strategy()
            if tf.distribute.in_cross_replica_context():
                return change(strategy)
            return private_api.maybe_merge_call(change, strategy)


def _assign(variable: Any, average: Any) -> Any:
    return variable.assign(average.read_value(), read_value=False)


def _swap(variable: Any, average: Any) -> Any:
    value, mean = variable.read_value(), average.read_value()
    with tf.control_dependencies([value, mean]):
        return wrapper.group(
            variable.assign(mean, read_value=False),
            average.assign(value, read_value=False),
        )
