"""Keras 3's trainer under ParameterServerStrategy, with a ClusterCoordinator.

`fit` and `evaluate` take a function that makes a dataset, as the DatasetCreator
of Keras 2 was.  Each worker makes its own; the steps are scheduled on the
workers, out of step; at the end of an epoch all of them are awaited.

Metrics of Keras 3 read a variable, add to it and write it back, which loses
what another worker has added meanwhile.  Here a step adds up from zero, and the
servers add that.  And what looks up rows of a Keras variable fetches all of it;
with a `sparse_read`, it fetches the rows.
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.clusters import switch

# {strategy: [what the last step has returned, and where it is to be put]}.
_last_steps: Any = weakref.WeakKeyDictionary()


def is_wanted(strategy: Any) -> bool:
    """Whether Keras is to be corrected under `strategy`."""
    return (
        isinstance(strategy, tf.distribute.ParameterServerStrategy)
        and switch.is_on()
    )


def correct(
    trainer: types.ModuleType,
    variable: Any,
    stateless_scope: Any,
    check: Callable[[Any], Any],
) -> list[switch.Fault]:
    """Corrects what Keras does on parameter servers.

    Args:
      trainer: the module of its trainer.
      variable: its class of variables.
      stateless_scope: its class of that name.
      check: raises for a variable that it cannot train.

    Returns:
      What may be wrong there.
    """
    model = trainer.TensorFlowTrainer
    fault = switch.Fault(
        "steps on the workers of parameter servers",
        functools.partial(_fails_to_schedule, trainer),
    )
    sums = _sums_in(stateless_scope)
    _correct_data(trainer.TFEpochIterator, fault)
    _correct_building(model, check, fault)
    for name in ("train", "test"):
        _correct_steps(model, name, sums, fault)
    return [fault, _correct_lookup(variable)]


def _correct_lookup(variable: Any) -> switch.Fault:
    has_lookup = hasattr(variable, "sparse_read")
    fault = switch.Fault(
        "rows of variables on parameter servers", lambda: not has_lookup
    )

    def sparse_read(self: Any) -> Any:
        """What tf.gather calls in place of reading all of a variable."""
        value = self.value  # That of a sharded variable takes no matrices.
        if is_wanted(tf.distribute.get_strategy()) and isinstance(
            value, tf.Variable
        ):
            return value.sparse_read
        raise AttributeError("sparse_read")

    if not has_lookup:
        variable.sparse_read = property(sparse_read)
    return fault


def _fails_to_schedule(trainer: types.ModuleType) -> bool:
    if not hasattr(trainer.TensorFlowTrainer, "_maybe_symbolic_build"):
        raise NotImplementedError("it builds models in their first step only")
    fit = inspect.unwrap(trainer.TensorFlowTrainer.fit)
    if "_pythonify_logs" in private_api.names_in(fit):
        raise NotImplementedError("it wants the logs of each step at once")
    names = private_api.names_in(trainer.TensorFlowTrainer.make_train_function)
    return "schedule" not in names


def _coordinator(strategy: Any) -> Any:
    # There is one for each strategy, whoever makes it first.
    return tf.distribute.coordinator.ClusterCoordinator(strategy)


def _correct_data(cls: Any, fault: switch.Fault) -> None:
    make, sync = cls.__init__, cls.tf_sync

    @functools.wraps(make)
    def make_per_worker(
        self: Any, distribute_strategy: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        strategy = distribute_strategy
        if args or not (is_wanted(strategy) and fault.is_present()):
            return make(self, strategy, *args, **kwargs)
        local = tf.distribute.get_strategy()
        if "y" not in kwargs:  # `predict` works where it is called.
            return make(self, local, **kwargs)
        dataset_fn = _dataset_function(**kwargs)
        # Endless, so that Keras counts no batches: each worker has its own.
        dataset = dataset_fn(tf.distribute.InputContext()).repeat()
        make(self, local, **{**kwargs, "x": dataset, "shuffle": False})
        adapter, class_weight = (
            type(self.data_adapter),
            kwargs.get("class_weight"),
        )

        def weighted(context: Any) -> Any:
            # The end of one worker's data must not end the steps of others.
            dataset = dataset_fn(context).repeat()
            return adapter(dataset, class_weight).get_tf_dataset()

        self._distribute_strategy = strategy
        self._distributed_dataset = _coordinator(
            strategy
        ).create_per_worker_dataset(
            lambda: strategy.distribute_datasets_from_function(weighted)
        )

    @functools.wraps(sync)
    def join_and_sync(self: Any) -> None:
        strategy = self._distribute_strategy
        if is_wanted(strategy):
            _coordinator(strategy).join()
            for logs, values in _last_steps.pop(strategy, ()):
                logs.update(values.fetch())
        sync(self)

    cls.__init__ = make_per_worker
    cls.tf_sync = join_and_sync


def _dataset_function(
    x: Any = None, y: Any = None, steps_per_epoch: Any = None, **others: Any
) -> Callable[[Any], Any]:
    del others
    if isinstance(x, tf.data.Dataset) or not callable(x) or y is not None:
        raise ValueError(
            "Under ParameterServerStrategy each worker makes its own dataset:"
            " give fit and evaluate a function of a tf.distribute.InputContext"
            " that returns a tf.data.Dataset of batches, which repeats, and no"
            f" targets. Received: x of type {type(x).__name__}, and y of type"
            f" {type(y).__name__}."
        )
    if not steps_per_epoch:
        raise ValueError(
            "Under ParameterServerStrategy, fit needs steps_per_epoch (and"
            " validation_steps), and evaluate needs steps: how many steps all"
            " workers take together. None was given."
        )
    return x


def _correct_building(
    cls: Any, check: Callable[[Any], Any], fault: switch.Fault
) -> None:
    build = getattr(cls, "_maybe_symbolic_build", None)
    if build is None:
        return

    @functools.wraps(build)
    def build_from_spec(
        self: Any, iterator: Any = None, data_batch: Any = None
    ) -> None:
        strategy = self._distribute_strategy
        if not (is_wanted(strategy) and fault.is_present()):
            return build(self, iterator=iterator, data_batch=data_batch)
        if iterator is not None:
            data_batch = iterator.data_adapter.get_tf_dataset().element_spec
        build(self, data_batch=data_batch)
        for variable in self.trainable_variables:
            check(variable)

    cls._maybe_symbolic_build = build_from_spec


def _correct_steps(cls: Any, name: str, sums: Any, fault: switch.Fault) -> None:
    make = getattr(cls, f"make_{name}_function")

    @functools.wraps(make)
    def make_scheduled(self: Any, force: bool = False) -> Any:
        strategy = self.distribute_strategy
        if not (is_wanted(strategy) and fault.is_present()):
            return make(self, force)
        present = getattr(self, f"{name}_function")
        if present is None or force:
            step = getattr(self, f"{name}_step")
            present = _scheduled(self, step, strategy, sums)
            setattr(self, f"{name}_function", present)
        return present

    setattr(cls, f"make_{name}_function", make_scheduled)


def _scheduled(
    model: Any, step: Callable[..., Any], strategy: Any, sums: Any
) -> Callable[..., Any]:
    """A function of an iterator that leaves a step to any worker."""

    @tf.autograph.experimental.do_not_convert
    def replica_step(data: Any) -> Any:
        with sums(model.metrics_variables) as scope:
            logs = step(data)
        scope.add_up()
        return logs

    def one_step(data: Any) -> Any:
        return strategy.run(replica_step, args=(data,))

    @tf.function(autograph=False)
    def step_on_worker(iterator: Any) -> Any:
        logs = {}
        for _ in range(model.steps_per_execution):
            logs = one_step(next(iterator))
        return logs

    step_on_data = tf.function(one_step, autograph=False)
    coordinator = _coordinator(strategy)

    def schedule(iterator: Any) -> dict[str, Any]:
        if not isinstance(iterator, types.GeneratorType):
            logs: dict[str, Any] = {}
            values = coordinator.schedule(step_on_worker, args=(iterator,))
            _last_steps[strategy] = [(logs, values)]
            return logs  # Empty, until the epoch is over.
        data = tf.nest.map_structure(
            lambda x: None if x is None else tf.convert_to_tensor(x),
            next(iterator),
        )
        return coordinator.schedule(step_on_data, args=(data,)).fetch()

    return schedule


def _sums_in(stateless_scope: Any) -> Any:
    """Keras' StatelessScope, for the variables of metrics only."""

    class Sums(stateless_scope):
        """What metrics add up inside, without touching their variables."""

        def __init__(self, variables: Any):
            self._variables = list(variables)
            super().__init__(
                state_mapping=[
                    (v, tf.zeros(v.shape, v.dtype)) for v in self._variables
                ],
                collect_losses=True,
            )

        def add_update(self, update: Any) -> None:
            variable, value = update
            if any(variable is each for each in self._variables):
                super().add_update(update)
            else:
                variable._direct_assign(value)

        def get_current_value(self, variable: Any) -> Any:
            value = super().get_current_value(variable)
            return variable._value if value is None else value

        def add_up(self) -> None:
            for variable in self._variables:
                part = self.get_current_value(variable)
                variable._value.assign_add(tf.cast(part, variable.dtype))

    return Sums
