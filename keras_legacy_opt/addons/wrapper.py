"""Optimizers that hold others: what all of them have in common."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from keras_legacy_opt import (
    distribution,
    hosts,
    originals,
    private_api,
    serialization,
)
from keras_legacy_opt.fused import switch
from keras_legacy_opt.hosts.keras_3_api import (
    HALVES_OF_MINIMIZE,
    check_fit_calls_all,
)
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.state.variables import var_key
from keras_legacy_opt.state.weights import count_with
from keras_legacy_opt.step import chain as chains
from keras_legacy_opt.step import (
    function_arguments,
    gradients,
    plan,
    stepper,
)
from keras_legacy_opt.step.clipping import CLIPPING, GradsAndVars

# What a holder may have its own idea of: if none has, gradients pass untouched.
_SEE_GRADIENTS = (
    "_transform_unaggregated_gradients",
    "_aggregate_gradients",
    "_transform_gradients",
)
# What comes after a step: a function of the strategy, returns an operation.
Afterwards = Callable[[tf.distribute.Strategy], Any]


@originals.recorded
class Holder(Optimizer):
    """An optimizer that lets others update the variables.

    Each of those takes its steps by its own `apply_gradients`, with all that
    makes it fast, and all that it does to gradients.  What the holder itself
    does to gradients (clipping, `gradient_transformers`) comes before.
    """

    def __init__(self, name: str | None, **kwargs: Any):
        """Creates it; see `keras_legacy_opt.Optimizer`.

        Raises:
          TypeError: for `lr` or `decay`, which are no business of a holder.
        """
        for option in ("lr", "decay"):
            if option in kwargs:
                raise TypeError(
                    f"{type(self).__name__} has no learning rate of its own:"
                    f" give `{option}` to the optimizer inside. Received:"
                    f" {option}={kwargs[option]!r}."
                )
        super().__init__(name, **kwargs)

    def _inside(self) -> Sequence[Optimizer]:
        """The optimizers that it holds."""
        raise NotImplementedError

    def _shares(
        self, variables: Sequence[Any]
    ) -> list[tuple[Optimizer, list[Any]]]:
        raise NotImplementedError

    def _adds(self, variable: Any, takes_own: bool) -> str:
        """See `Optimizer`."""
        text = f"{type(self).__name__}{self._adds_itself(variable, takes_own)}"
        if self._changes_gradients():
            text += ", and clips or transforms gradients before, by plain ops"
        return text

    def _adds_itself(self, variable: Any, takes_own: bool) -> str:
        """What it does, beside what it does to gradients."""
        del variable, takes_own
        return " around it"

    def _step(
        self, pairs: GradsAndVars, name: str | None, aggregate: bool
    ) -> Any:
        """Takes a step, of pairs that are checked and have their weights.

        Args:
          pairs: of gradient and `tf.Variable`.
          name: of the operation.
          aggregate: whether the gradients are yet to be summed.

        Returns:
          See `Optimizer.apply_gradients`.
        """
        raise NotImplementedError

    def _init_process_state(self) -> None:
        super()._init_process_state()
        self._uncopied: set[tuple[str, str]] = set()

    # One step.

    @tf.autograph.experimental.do_not_convert
    def apply_gradients(
        self,
        grads_and_vars: Iterable[tuple[Any, Any]],
        name: str | None = None,
        experimental_aggregate_gradients: bool = True,
    ) -> Any:
        """Applies gradients; see `keras_legacy_opt.Optimizer`."""
        aggregate = experimental_aggregate_gradients
        distribution.check_context(aggregate)
        items = gradients.listed(grads_and_vars)
        rest = functools.partial(self._go_on, name, aggregate)
        iterations = plan.step(self, items, rest)
        if iterations is not None:
            return iterations
        pairs = stepper.given(self, items, aggregate)
        pairs = stepper.checked(self, pairs)
        variables = [v for _, v in pairs]
        # Some may be refused, before anything changes.
        for optimizer, share in self._shares(variables):
            optimizer._assert_valid_dtypes(share)
        with tf.name_scope(self._name), tf.init_scope():
            self._create_all_weights(variables)
        if not pairs:
            return tf.no_op()
        if self.loss_scale_factor is not None:
            link = chains.Divide(self.loss_scale_factor)
            pairs = [(link.applied(g), v) for g, v in pairs]
        checks = function_arguments.checks(self, variables)
        with tf.control_dependencies(checks):
            return self._step(pairs, name, aggregate)

    def _go_on(
        self,
        name: str | None,
        aggregate: bool,
        optimizer: Optimizer,
        pairs: GradsAndVars,
        apply_state: Any,
    ) -> Any:
        """Takes a step inside on, see `plan.Rest`."""
        if apply_state is None:
            return Holder._hand_over(self, optimizer, pairs, name, aggregate)
        return stepper.go_on(optimizer, pairs, apply_state, (), name, aggregate)

    def _changes_gradients(self) -> bool:
        """Whether this optimizer itself does something to gradients."""
        return (
            any(getattr(self, option) is not None for option in CLIPPING)
            or bool(self.gradient_transformers)
            or self.gradient_aggregator is not gradients.all_reduce_sum
            or not originals.is_own(self, _SEE_GRADIENTS)
        )

    def _summed(self, pairs: GradsAndVars) -> GradsAndVars:
        """The pairs, their gradients summed over the replicas."""
        pairs = self._transform_unaggregated_gradients(pairs)
        return self._aggregate_gradients(pairs)

    def _changed(
        self, pairs: GradsAndVars, aggregate: bool
    ) -> tuple[GradsAndVars, bool]:
        """The pairs for those inside, and whether they are yet to be summed."""
        if not self._changes_gradients():
            return pairs, aggregate
        if aggregate:
            pairs = self._summed(pairs)
        return self._transform_gradients(pairs), False

    def _hand_over(
        self,
        optimizer: Optimizer,
        pairs: GradsAndVars,
        name: str | None,
        aggregate: bool,
    ) -> Any:
        """Has one that it holds take a step."""
        # Others may have defined `apply_gradients` without that argument.
        kwargs = (
            {} if aggregate else {"experimental_aggregate_gradients": False}
        )
        given = self._known_variables.given
        return optimizer.apply_gradients(
            [(g, given(v)) for g, v in pairs], name=name, **kwargs
        )

    def scale_loss(self, loss: tf.Tensor) -> tf.Tensor:
        """The loss whose gradients `apply_gradients` takes.

        See `keras_legacy_opt.Optimizer.scale_loss`.
        """
        for each in self._inside():
            check_fit_calls_all(each, ("minimize", *HALVES_OF_MINIMIZE))
        return super().scale_loss(loss)

    # Variables.

    def _create_all_weights(self, var_list: Sequence[Any]) -> None:
        var_list = [self._known_variables.unwrap(v) for v in var_list]
        _ = self.iterations
        for optimizer, variables in self._shares(var_list):
            given = [self._known_variables.given(v) for v in variables]
            with self._scope_of(optimizer):
                optimizer._create_all_weights(given)
        are_given = self._pending_weights is not None or self._early_slots
        super()._create_all_weights(var_list)
        if are_given:
            self._uncopied.clear()

    def _scope_of(self, optimizer: Optimizer) -> AbstractContextManager[Any]:
        """The scope, in its own, that names the weights of one inside."""
        del optimizer
        return contextlib.nullcontext()

    def _add_copy(self, var: Any, slot_name: str) -> Any:
        """Adds a slot that starts as its variable, unless it is there.

        In the first trace of a function that makes the variable, this has no
        value yet.  The function is traced again, and then it has.
        """
        key = var_key(var), slot_name
        is_new = slot_name not in self._slots.get(key[0], {})
        waiting = self._deferred_slot_restorations.get(slot_name, {})
        if (is_new or key in self._uncopied) and not _has_value(var):
            if key[0] not in waiting:
                self._uncopied.add(key)
            return self.add_slot(var, slot_name)
        slot = self.add_slot(var, slot_name, initializer=_first_value(var))
        if key in self._uncopied:
            self._uncopied.remove(key)
            slot.assign(var.read_value())
        return slot

    @property
    def weights(self) -> list[Any]:
        """All variables: iterations and own slots, then those of others."""
        weights = {id(w): w for w in self._weights}
        for optimizer in self._inside():
            for weight in optimizer.weights:
                weights.setdefault(id(weight), weight)
        return list(weights.values())

    @classmethod
    def _is_checkpointed(cls, hyper: str) -> bool:
        # As in tensorflow_addons.
        return False


@originals.recorded
class Wrapper(Holder):
    """An optimizer around one other, which shares its iterations.

    It has that one's hyperparameters, as attributes, and slots of its own.
    """

    # What checkpoints call the optimizer inside.
    _CHILD: ClassVar[str] = "optimizer"
    # The names of its slots: no two wrappers around each other may share one.
    _SLOTS: ClassVar[tuple[str, ...]] = ()
    # Of these, the ones that begin as their variables.
    _COPIES: ClassVar[tuple[str, ...]] = ()
    # Of its own variables beside them and the iterations.
    _SCALARS: ClassVar[tuple[str, ...]] = ()
    # Why no other may be around it.
    _OUTERMOST: ClassVar[str | None] = None
    _HAS_AGGREGATE_GRAD = True

    def __init__(self, optimizer: Any, name: str | None, **kwargs: Any):
        """Wraps an optimizer.

        Args:
          optimizer: a `keras_legacy_opt` optimizer, the name of a built-in one
            ("adam"), or a configuration.
          name: see `keras_legacy_opt.Optimizer`.
          **kwargs: see there; `clipnorm` and its like clip gradients before the
            optimizer inside gets, and perhaps clips, them.

        Raises:
          TypeError: if it is no optimizer of this package.
          ValueError: if it cannot be inside this wrapper.
        """
        optimizer = _checked(optimizer, type(self))
        super().__init__(name, **kwargs)
        self._optimizer = optimizer
        self._hold()

    def _hold(self) -> None:
        """Makes the optimizer inside part of checkpoints, with one count."""
        self._track_trackable(self._optimizer, self._CHILD, overwrite=True)
        self._optimizer._known_variables.of_wrapper = True

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__(state)
        self._hold()

    def _inside(self) -> Sequence[Optimizer]:
        return (self._optimizer,)

    def _shares(
        self, variables: Sequence[Any]
    ) -> list[tuple[Optimizer, list[Any]]]:
        return [(self._optimizer, list(variables))]

    def _valid_dtypes(self) -> Iterable[tf.DType]:
        return self._optimizer._valid_dtypes()

    # One step.

    def _step(
        self, pairs: GradsAndVars, name: str | None, aggregate: bool
    ) -> Any:
        pairs, aggregate = self._changed(pairs, aggregate)
        variables = [v for _, v in pairs]
        with _before_what_follows() as before:
            afterwards = self._begin(variables)
        with tf.control_dependencies(before):
            op = self._hand_over(self._optimizer, pairs, name, aggregate)
        if afterwards is None:
            return op
        return self._finish(op, afterwards)

    def _begin(self, variables: Sequence[Any]) -> Afterwards | None:
        """What is to be done after a step that is about to be taken."""
        del variables

    def _finish(self, op: Any, afterwards: Afterwards) -> Any:
        """Does what comes after `op`; returns what `apply_gradients` does."""
        in_graph_v1 = not tf.compat.v1.executing_eagerly_outside_functions()

        @tf.autograph.experimental.do_not_convert
        def merged(strategy: tf.distribute.Strategy, *ops: Any) -> Any:
            # Functions keep the order of what they read and write themselves.
            before = [
                each
                for op in ops
                for each in strategy.experimental_local_results(op)
            ]
            with tf.control_dependencies(before):
                return tf.group(afterwards(strategy))

        done = private_api.maybe_merge_call(
            switch.as_here(merged),
            tf.distribute.get_strategy(),
            *([op] if in_graph_v1 else []),
        )
        if tf.executing_eagerly():
            return self.iterations
        return tf.group(op, done)

    # Gradients.

    def _compute_gradients(
        self,
        loss: Any,
        var_list: Any,
        grad_loss: Any = None,
        tape: tf.GradientTape | None = None,
    ) -> list[tuple[Any, Any]]:
        factor = self.loss_scale_factor
        if factor is not None and callable(loss):
            loss = functools.partial(lambda given: given() * factor, loss)
        elif factor is not None and tape is not None:
            with tape:
                loss = loss * factor
        return self._optimizer._compute_gradients(
            loss, var_list, grad_loss, tape=tape
        )

    def _transform_loss(self, loss: Any) -> Any:
        inner = self._optimizer
        loss = inner._transform_loss(loss)
        factor = inner.loss_scale_factor
        return loss if factor is None else loss * factor

    # Iterations: one variable, which both count with.

    @property
    def iterations(self) -> Any:
        """int64 scalar variable: the number of steps; those inside share it."""
        if self._iterations is None:
            existing = _iterations_of(self._optimizer)
            if existing is not None:
                count_with(self, existing)
                self._track_trackable(existing, "iter", overwrite=True)
        count = super().iterations
        _share_iterations(self._optimizer, count)
        return count

    @iterations.setter
    def iterations(self, variable: Any) -> None:
        count_with(self, variable)
        _share_iterations(self._optimizer, self._iterations)

    # Hyperparameters: its own, and those of the optimizer inside.

    def _is_inside(self, name: str) -> bool:
        """Whether `name` is a hyperparameter, but not one of its own."""
        inner = self.__dict__.get("_optimizer")
        return (
            inner is not None
            and name not in self._hyper
            and _has_hyper(inner, name)
        )

    def __getattr__(self, name: str) -> Any:
        """Reads a hyperparameter, its own or one of the optimizer inside."""
        if self._is_inside("learning_rate" if name == "lr" else name):
            return getattr(self._optimizer, name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Overwrites a hyperparameter, wherever it is, or an attribute."""
        if self._is_inside("learning_rate" if name == "lr" else name):
            setattr(self._optimizer, name, value)
        else:
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        inner = self.__dict__.get("_optimizer")
        hyper = [] if inner is None else _hypers(inner)
        lr = ["lr"] if "learning_rate" in hyper else []
        return sorted({*super().__dir__(), *hyper, *lr})

    def _get_hyper(self, name: str, dtype: tf.DType | None = None) -> Any:
        if self._is_inside(name):
            return self._optimizer._get_hyper(name, dtype)
        return super()._get_hyper(name, dtype)

    def _set_hyper(self, name: str, value: Any) -> None:
        if self._is_inside(name):
            self._optimizer._set_hyper(name, value)
        else:
            super()._set_hyper(name, value)

    def _serialize_hyperparameter(self, hyperparameter_name: str) -> Any:
        if self._is_inside(hyperparameter_name):
            return self._optimizer._serialize_hyperparameter(
                hyperparameter_name
            )
        return super()._serialize_hyperparameter(hyperparameter_name)

    def _create_hypers(self) -> None:
        self._optimizer._create_hypers()
        super()._create_hypers()

    def _decayed_lr(self, var_dtype: tf.DType) -> tf.Tensor:
        return self._optimizer._decayed_lr(var_dtype)

    def _prepare_local(
        self, var_device: str, var_dtype: tf.DType, apply_state: dict
    ) -> None:
        self._optimizer._prepare_local(var_device, var_dtype, apply_state)

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        """The configuration, with that of the optimizer inside."""
        return {
            **super().get_config(),
            "optimizer": serialization.serialize(self._optimizer),
        }

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Any:
        """The wrapper of a configuration, and the optimizer inside.

        Args:
          config: dictionary, as `get_config` returned it, here or in
            tensorflow_addons.
          custom_objects: maps names to classes that it names.
        """
        config = dict(config)
        optimizer = config.pop("optimizer")
        if not isinstance(optimizer, hosts.OptimizerHost):
            optimizer = serialization.deserialize(optimizer, custom_objects)
        return cls(optimizer, **config)


def wrappers(optimizer: Any) -> list[Any]:
    """An optimizer, and what is inside it, from outside to inside.

    A loss scale around them is left out.
    """
    if isinstance(optimizer, hosts.LossScaleHost):
        optimizer = optimizer.inner_optimizer
    found = [optimizer]
    while isinstance(found[-1], Wrapper):
        found.append(found[-1]._optimizer)
    return found


def all_inside(optimizer: Any) -> list[Any]:
    """An optimizer and all that it holds, from outside to inside.

    A loss scale around them is left out, whichever Keras it is of.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    found = [optimizer]
    for each in found:
        if isinstance(each, Holder):
            found.extend(each._inside())
    return found


def checked_optimizer(optimizer: Any, who: str) -> Optimizer:
    """The optimizer that is given to a holder.

    Raises:
      TypeError: if it is none of this package, or cannot be held.
    """
    if isinstance(optimizer, (str, Mapping)):
        optimizer = serialization.get(optimizer)
    if isinstance(optimizer, type):
        raise TypeError(
            f"{who} holds an optimizer, not a class: make one, as in"
            f" {optimizer.__name__}(). Received: {optimizer!r}."
        )
    if isinstance(optimizer, hosts.LossScaleHost):
        raise TypeError(
            "A LossScaleOptimizer has to be outermost, around the"
            f" {who}. Received: {optimizer!r}."
        )
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"{who} holds an optimizer of keras_legacy_opt, or one derived from"
            " them, not those of Keras 3 or tf_keras. Received:"
            f" {optimizer!r} of type {type(optimizer).__name__}."
        )
    if isinstance(optimizer, Wrapper) and optimizer._OUTERMOST:
        raise ValueError(
            f"{type(optimizer).__name__} has to be around the {who}, not inside"
            f" it: {optimizer._OUTERMOST}."
        )
    return optimizer


def _checked(optimizer: Any, cls: type[Wrapper]) -> Optimizer:
    optimizer = checked_optimizer(optimizer, cls.__name__)
    for each in all_inside(optimizer):
        shared = set(getattr(each, "_SLOTS", ())) & set(cls._SLOTS)
        if shared:
            raise ValueError(
                f"{cls.__name__} cannot be around {type(each).__name__}: both"
                f" keep slots called {sorted(shared)}, which files could not"
                " tell apart. Use one of the two."
            )
    return optimizer


def _iterations_of(optimizer: Any) -> Any | None:
    """The iterations of an optimizer or of what is inside, if they exist."""
    counts = [each._iterations for each in wrappers(optimizer)]
    return next((count for count in counts if count is not None), None)


def _share_iterations(optimizer: Any, count: Any) -> None:
    for each in wrappers(optimizer):
        if each._iterations is not count:
            each._iterations = count


def _hypers(optimizer: Any) -> list[str]:
    return [name for each in wrappers(optimizer) for name in each._hyper]


def _has_hyper(optimizer: Any, name: str) -> bool:
    return any(name in each._hyper for each in wrappers(optimizer))


def _has_value(variable: Any) -> bool:
    """Whether a variable has a value, as far as that can be known now."""
    return not tf.executing_eagerly() or bool(variable.is_initialized())


def _first_value(variable: Any) -> Any:
    """What a copy of a variable starts from.

    In a TF1 graph, one run may initialize both, in either order.
    """
    if tf.compat.v1.executing_eagerly_outside_functions() or isinstance(
        variable, tf.distribute.DistributedValues
    ):
        return variable
    return tf.cond(
        variable.is_initialized(),
        variable.read_value,
        lambda: tf.identity(variable.initial_value),
    )


@contextlib.contextmanager
def _before_what_follows() -> Iterator[list[Any]]:
    """A list of the operations that are made in it, in a TF1 graph.

    They read the iterations, for instance, which a step then counts up; all but
    such graphs keep that in order.
    """
    made: list[Any] = []
    if tf.compat.v1.executing_eagerly_outside_functions():
        yield made
        return
    graph = tf.compat.v1.get_default_graph()
    count = len(graph.get_operations())
    yield made
    made += graph.get_operations()[count:]


def for_each(
    variables: Sequence[Any],
    slots: Sequence[Any],
    change: Callable[[Any, Any], Any],
    condition: Any = None,
) -> Afterwards:
    """What changes variables and their slots after a step.

    Args:
      variables: `tf.Variable`s.
      slots: as many.
      change: function of a variable and its slot, on one device.
      condition: bool scalar, whether to do so; None: always.
    """
    change = tf.autograph.experimental.do_not_convert(change)

    def all_of_them(strategy: tf.distribute.Strategy) -> Any:
        ops = []
        for variable, slot in zip(variables, slots, strict=True):
            with strategy.extended.colocate_vars_with(variable):
                ops.append(
                    strategy.extended.update(
                        variable, change, args=(slot,), group=False
                    )
                )
        return group(*tf.nest.flatten(ops))

    def afterwards(strategy: tf.distribute.Strategy) -> Any:
        if condition is None:
            return all_of_them(strategy)
        return tf.cond(
            condition, lambda: all_of_them(strategy), lambda: tf.no_op()
        )

    return afterwards


def group(*ops: Any) -> Any:
    """One operation of some; None in eager execution, where all are done."""
    return tf.group(*(op for op in ops if op is not None))


def check_integer(name: str, value: Any, least: int) -> None:
    """Raises an error if `value` is an integer below, or no integer."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"`{name}` must be an integer. Received: {name}={value!r} of type"
            f" {type(value).__name__}."
        )
    if value < least:
        raise ValueError(
            f"`{name}` must be at least {least}. Received: {name}={value}."
        )
