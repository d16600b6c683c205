"""Keras 3's trainer under MultiWorkerMirroredStrategy.

Keras distributes batches, losses and gradients as TensorFlow wants it, but
stumbles over small things before it comes to any optimizer:

* To build the model, it takes the mean of the first batch over the replicas;
  `strategy.reduce` takes no structure.  Only shapes and dtypes are wanted, and
  the part of one replica has them.
* It takes the mean of each value that a step logs over `axis=0`, which scalars
  do not have.  The mean over the replicas, as under MirroredStrategy, is
  `axis=None`.
* It takes a batch and a step in one function.  At the end of the data, what
  does not depend on the batch may be executed before that is known, such as
  counting the step; and for `steps_per_execution`, TensorFlow loses batches of
  several replicas in a loop.  Here the batch is there before the step begins.
* The results of metrics in a step are means of the workers' results.  What
  `*_on_batch` returns is made of the summed states, as at the end of an epoch.
  A result that is a variable is read.
* It joins the predictions of one batch, though each worker has given its own.
* Early releases reduce what was predicted as if that were logged, and leave to
  each replica its own metrics.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.clusters import switch


def is_multi_worker(strategy: Any) -> bool:
    """Whether `strategy` has replicas in several processes, in step."""
    return (
        isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        and strategy.extended._in_multi_worker_mode()
    )


def is_wanted(strategy: Any) -> TypeGuard[tf.distribute.Strategy]:
    """Whether Keras is to be corrected under `strategy`."""
    return is_multi_worker(strategy) and switch.is_on()


def correct(trainer: Any, metric: Any, variable: Any) -> list[switch.Fault]:
    """Corrects what Keras does on several workers.

    Args:
      trainer: the module of its trainer.
      metric: the base of its metrics.
      variable: its class of variables.

    Returns:
      What may be wrong there.
    """
    faults = [_correct_reduction(trainer, variable)]
    if hasattr(trainer.TensorFlowTrainer, "_maybe_symbolic_build"):
        faults.append(_correct_building(trainer.TensorFlowTrainer))
    if hasattr(trainer.TensorFlowTrainer, "_make_function"):
        faults.append(_correct_steps(trainer.TensorFlowTrainer))
    faults.append(_correct_predictions(trainer.TensorFlowTrainer))
    faults.append(_correct_prediction_on_batch(trainer.TensorFlowTrainer))
    faults.append(_correct_metrics(metric))
    return faults


def _correct_building(cls: Any) -> switch.Fault:
    build = cls._maybe_symbolic_build
    fault = switch.Fault(
        "building a model from the batches of several workers",
        functools.partial(_fails_to_build, build),
    )

    @functools.wraps(build)
    def build_from_one_replica(
        self: Any, iterator: Any = None, data_batch: Any = None
    ) -> None:
        strategy = self._distribute_strategy
        if iterator is None or not is_wanted(strategy):
            return build(self, iterator=iterator, data_batch=data_batch)
        if not fault.is_present():
            return build(self, iterator=iterator)
        with strategy.scope():
            first = functools.partial(_first_batch, iterator, strategy)
            self._symbolic_build(iterator=_OneStep(lambda: [first()]))

    cls._maybe_symbolic_build = build_from_one_replica
    return fault


def _first_batch(epochs: Any, strategy: Any) -> Any:
    """One replica's part of it."""
    # What Keras has taken from a generator, which gives each batch only once.
    peeked = getattr(epochs.data_adapter, "_first_batches", None)
    if peeked:
        return peeked[0]
    # Workers agree on whether there is a batch: each of them asks.
    return tf.nest.map_structure(
        lambda part: strategy.experimental_local_results(part)[0],
        next(iter(epochs._distributed_dataset)),
    )


class _OneStep:
    """A step, as any Keras 3 asks for it, whose data are taken then."""

    def __init__(self, take_data: Callable[[], Any]):
        self._take_data = take_data

    def __iter__(self) -> Iterator[Any]:
        yield 0, 0, self._take_data()

    def enumerate_epoch(self) -> Iterator[Any]:
        yield 0, self._take_data()


def _correct_reduction(trainer: Any, variable: Any) -> switch.Fault:
    reduce_per_replica = trainer.reduce_per_replica
    fault = switch.Fault(
        "the mean of what several workers log",
        functools.partial(_fails_to_reduce, reduce_per_replica),
    )

    @functools.wraps(reduce_per_replica)
    def reduce_over_workers(values: Any, strategy: Any, reduction: str) -> Any:
        if (
            reduction not in ("auto", "mean")
            or not is_wanted(strategy)
            or not fault.is_present()
        ):
            return reduce_per_replica(values, strategy, reduction)

        def reduce(value: Any) -> Any:
            if value is None:
                return None
            if isinstance(value, variable):  # Read for all workers.
                return tf.convert_to_tensor(value)
            return strategy.reduce("MEAN", value, axis=None)

        return tf.nest.map_structure(reduce, values)

    trainer.reduce_per_replica = reduce_over_workers
    return fault


def _correct_steps(cls: Any) -> switch.Fault:
    make_function = cls._make_function
    fault = switch.Fault(
        "steps on several workers whose data end",
        functools.partial(_fails_at_the_end, make_function),
    )

    @functools.wraps(make_function)
    def make_function_of_batches(self: Any, step_function: Any) -> Any:
        take_steps = make_function(self, step_function)
        next_batch = tf.function(lambda iterator: iterator.get_next())

        def batches(iterator: Any) -> Iterator[Any]:
            for _ in range(self.steps_per_execution):
                try:
                    yield next_batch(iterator)
                except tf.errors.OutOfRangeError:
                    return

        @functools.wraps(take_steps)
        def take_steps_of_batches(iterator: Any) -> Any:
            wanted = is_wanted(self.distribute_strategy)
            if not isinstance(iterator, tf.distribute.DistributedIterator):
                logs = take_steps(iterator)  # A single one, on_batch.
                if wanted:
                    logs = self._get_metrics_result_or_logs(logs)
                return logs
            if not wanted or not fault.is_present():
                return take_steps(iterator)
            several = batches(iterator)
            for first in several:
                return take_steps(itertools.chain([first], several))
            raise StopIteration

        return take_steps_of_batches

    cls._make_function = make_function_of_batches
    return fault


def _correct_predictions(cls: Any) -> switch.Fault:
    make_function = cls.make_predict_function
    fault = switch.Fault(
        "predictions of several workers",
        lambda: (
            "distribute_reduction_method" in private_api.names_in(make_function)
        ),
    )

    @functools.wraps(make_function)
    def make_function_that_joins(self: Any, force: bool = False) -> Any:
        before = self.predict_function
        result = make_function(self, force)
        predict = self.predict_function
        if (
            predict is before
            or not is_wanted(self.distribute_strategy)
            or not fault.is_present()
        ):
            return result

        @functools.wraps(predict)
        def predict_and_join(data: Any) -> Any:
            with _attribute(self, "distribute_reduction_method", "concat"):
                return predict(data)

        self.predict_function = predict_and_join
        return result

    cls.make_predict_function = make_function_that_joins
    return fault


def _correct_prediction_on_batch(cls: Any) -> switch.Fault:
    predict_on_batch = cls.predict_on_batch
    fault = switch.Fault(
        "predictions of one batch on several workers",
        functools.partial(_joins_what_it_predicts, predict_on_batch),
    )

    @functools.wraps(predict_on_batch)
    def predict_on_own_batch(self: Any, x: Any) -> Any:
        if not (is_wanted(self.distribute_strategy) and fault.is_present()):
            return predict_on_batch(self, x)
        self.make_predict_function()
        # `compile` forgets that function, and so the one that goes with it.
        joined, alone = getattr(self, "_functions_on_batch", (None, None))
        if joined is not self.predict_function:
            joined, alone = self.predict_function, None
        with (
            _attribute(self, "_distribute_strategy", None),
            _attribute(self, "predict_function", alone),
        ):
            self.make_predict_function()
            self._functions_on_batch = joined, self.predict_function
            return predict_on_batch(self, x)

    cls.predict_on_batch = predict_on_own_batch
    return fault


def _correct_metrics(metric: Any) -> switch.Fault:
    add_variable = metric.add_variable
    fault = switch.Fault(
        "metrics of several workers",
        lambda: "on_read" not in private_api.constants_in(add_variable),
    )

    def summed(create: Any, **kwargs: Any) -> Any:
        kwargs["synchronization"] = tf.VariableSynchronization.ON_READ
        kwargs["aggregation"] = tf.VariableAggregation.SUM
        return create(**kwargs)

    @functools.wraps(add_variable)
    def add_summed_variable(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not (is_wanted(tf.distribute.get_strategy()) and fault.is_present()):
            return add_variable(self, *args, **kwargs)
        with tf.variable_creator_scope(summed):
            variable = add_variable(self, *args, **kwargs)
        if variable._value is None:  # While Keras builds a model.
            initialize = variable._deferred_initialize

            def initialize_summed() -> None:
                with tf.variable_creator_scope(summed):
                    initialize()

            variable._deferred_initialize = initialize_summed
        return variable

    metric.add_variable = add_summed_variable
    return fault


@contextlib.contextmanager
def _attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class _NotedStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """Looks like a cluster, and notes what a Keras reduces."""

    def __init__(self) -> None:
        self.reduced = []
        self.extended = self

    # The strategy's own names are read-only.
    extended = None

    def _in_multi_worker_mode(self) -> bool:
        return True

    def scope(self) -> Any:
        return contextlib.nullcontext()

    def run(self, fn: Any, args: Any = (), **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    def experimental_local_results(self, value: Any) -> tuple[Any, ...]:
        return private_api.parts_of(value)

    def reduce(self, reduce_op: Any, value: Any, axis: Any = None) -> Any:
        del reduce_op
        self.reduced.append((value, axis))
        return private_api.parts_of(tf.nest.flatten(value)[0])[0]


def _fails_to_reduce(reduce_per_replica: Any) -> bool:
    strategy = _NotedStrategy()
    value = private_api.per_replica([tf.constant(1.0)])
    reduce_per_replica({"loss": value}, strategy, "auto")
    return any(axis is not None for _, axis in strategy.reduced)


def _joins_what_it_predicts(predict_on_batch: Any) -> bool:
    calls = []
    model = types.SimpleNamespace(
        make_predict_function=lambda: None,
        predict_function=lambda data: calls.append(data) or tf.zeros([1]),
    )
    predict_on_batch(model, tf.zeros([1]))
    return bool(calls)


class _Batches(tf.distribute.DistributedIterator):
    """Notes in which function a Keras takes a batch."""

    graph = None
    element_spec = tf.TensorSpec([1, 1])

    def get_next(self) -> Any:
        if not tf.executing_eagerly():
            self.graph = tf.compat.v1.get_default_graph()
        return tf.zeros([1, 1])

    def get_next_as_optional(self) -> Any:
        # The stubs take this class for `typing.Optional`.
        optional = tf.experimental.Optional
        return optional.from_value(  # pyright: ignore[reportAttributeAccessIssue]
            self.get_next()
        )

    def __iter__(self) -> Any:
        return self

    __next__ = get_next


def _fails_at_the_end(make_function: Any) -> bool:
    batches, surrounding = _Batches(), []

    def step(batch: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        while graph is not None:
            surrounding.append(graph)
            graph = getattr(graph, "outer_graph", None)
        return {"loss": private_api.per_replica([tf.reduce_sum(batch)])}

    model = types.SimpleNamespace(
        distribute_strategy=_NotedStrategy(),
        jit_compile=False,
        run_eagerly=False,
        steps_per_execution=1,
        _autoconvert_optionals=lambda function: function,
    )
    make_function(model, step)(batches)
    return any(graph is batches.graph for graph in surrounding)


def _fails_to_build(build: Any) -> bool:
    strategy = _NotedStrategy()
    model = types.SimpleNamespace(
        _distribute_strategy=strategy,
        distribute_strategy=strategy,
        _symbolic_build=lambda iterator=None, data_batch=None: None,
    )
    value = private_api.per_replica([tf.zeros([1, 1])])
    build(model, iterator=_OneStep(lambda: iter([(value, value)])))
    return any(tf.nest.is_nested(value) for value, _ in strategy.reduced)
