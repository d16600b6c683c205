"""A callback that writes what an optimizer does, while a model trains."""

from __future__ import annotations

import os
import time
import warnings
import weakref
from typing import Any

import tensorflow as tf

from keras_legacy_opt import distribution, hosts, originals, private_api
from keras_legacy_opt.addons import selection
from keras_legacy_opt.addons.wrapper import Holder, check_integer
from keras_legacy_opt.hosts.callbacks import HostCallback
from keras_legacy_opt.step.watch import Watch
from keras_legacy_opt.summaries import events, measures

_now = time.perf_counter
# Training functions that compute norms of gradients when they are asked to.
_asking: weakref.WeakSet[Any] = weakref.WeakSet()
# Whether others draw random numbers from a state of their own.
_random: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


class SlotSummaries(HostCallback):
    """Shows slots and steps of a model's optimizer in TensorBoard.

    Every so many steps it writes, of each variable, what
    `keras_legacy_opt.summaries.measure` measures: histograms and norms of its
    slots, the norm of its gradient, the ratio of its update to its weights, and
    the effective learning rate; of embeddings, too, how many rows are dead.

    >>> import tempfile
    >>> model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    >>> model.compile(keras_legacy_opt.Adam(), "mse")
    >>> callback = keras_legacy_opt.summaries.SlotSummaries(
    ...     tempfile.mkdtemp(), every=2)
    >>> _ = model.fit(tf.ones((8, 3)), tf.ones((8, 1)), batch_size=2,
    ...     callbacks=[callback], verbose=0)
    >>> sorted(callback.last.variables[0].slots), callback.last.step
    (['m', 'v'], 4)

    The gradients are those that reach the optimizer which updates the
    variables, summed over the replicas, before this clips them: of wrappers,
    the one inside.  With `steps_per_execution`, an update is what all steps of
    one execution have added.  All steps train as they do without this callback.

    The steps that are looked at run a training function of their own, which is
    traced once.  Where layers draw random numbers from a state that each traced
    function has of its own, as `Dropout` of tf_keras does, this would train
    otherwise: there, one function asks in each step whether it is looked at.
    If the model was trained before without this callback, it has one that does
    not ask, and there are no norms of gradients; a warning says so.

    Works under strategies that keep a copy of each variable on each replica.
    Of several workers one writes, without norms of gradients.  A `train_step`
    that calls the optimizer in a `tf.function` of its own has none, either.

    Attributes:
      last: the `Measures` that were written last; None at first.
    """

    _KIND = "callback of Keras"

    def __init__(
        self,
        log_dir: Any,
        every: int = 100,
        at_most: float | None = 0.005,
        gradients: bool = True,
        embeddings: selection.Selection = None,
        threshold: float = events.THRESHOLD,
    ):
        """Creates the callback.

        Args:
          log_dir: the folder to write to, or a `tf.summary.SummaryWriter`.
          every: the number of steps from one measuring to the next.
          at_most: the fraction of the time that measuring may take: where it
            would take more, it is done less often.  `None` for no limit.
          gradients: whether norms of gradients are measured.  For that, the
            model's training function is traced once more.
          embeddings: see `measure`.
          threshold: see `write`.

        Raises:
          TypeError: if an argument is of a wrong type.
          ValueError: if one is out of its range.

        `fit` raises OSError at once if `log_dir` cannot be written to.
        """
        if not isinstance(log_dir, tf.summary.SummaryWriter):
            log_dir = os.fspath(log_dir)
        check_integer("every", every, 1)
        if at_most is not None and not (
            isinstance(at_most, (int, float)) and 0 < at_most <= 1
        ):
            raise ValueError(
                "`at_most` must be a fraction of the time, more than 0 and not"
                " more than 1, or None for no limit. Received:"
                f" at_most={at_most!r}."
            )
        events.check_threshold(threshold)
        self._embeddings = selection.check(embeddings, "embeddings")
        self._log_dir = log_dir
        self._every = every
        self._gradients = bool(gradients)
        self._threshold = threshold
        self._budget = _Budget(at_most)
        self._steps = 0  # Since the last measuring.
        self._first = 0  # The number of the first step of this execution.
        self._before: list[Any] | None = None  # While a step is looked at.
        self._optimizers: list[Any] = []
        self._model: Any = None
        # The model's training function, and its like that computes norms.
        self._functions: tuple[Any, Any] = None, None
        self._function: Any = None  # The last that was looked at.
        self._is_watching = False
        self._has_warned = False
        self._writer: Any = None
        self.last: measures.Measures | None = None

    def _made(self, callbacks: Any) -> Any:
        return callbacks.LambdaCallback(
            on_train_begin=self._begin,
            on_train_batch_begin=self.on_train_batch_begin,
            on_train_batch_end=self.on_train_batch_end,
            on_train_end=self._finish,
            # What a step returns is not looked at, and may stay on its device.
            _supports_tf_logs=True,
        )

    def _shown(self, model: Any) -> Any:
        optimizers = measures.checked(model.optimizer)
        strategy = getattr(model, "distribute_strategy", None)
        if isinstance(strategy, distribution.WITHOUT_OWN_VARIABLES):
            raise ValueError(
                "SlotSummaries is for strategies where each replica has a copy"
                " of every variable, such as MirroredStrategy. Received:"
                f" strategy={strategy}."
            )
        self._unwatch()  # Training may have been interrupted.
        self._before = None
        self._model, self._optimizers = model, optimizers
        self._writes = strategy is None or strategy.extended.should_save_summary
        # All workers have to run the same function, and one of them measures.
        self._watches = not isinstance(strategy, distribution.OF_WORKERS)
        return model

    def _all_watches(self) -> list[Watch]:
        """Those of the optimizers that update variables."""
        updating = [o for o in self._optimizers if not isinstance(o, Holder)]
        for each in updating:
            if each._watch is None:
                each._watch = Watch(each._distribution_strategy)
        return [each._watch for each in updating]

    def _watch(self) -> None:
        """Has the model's next step compute norms of its gradients."""
        if not (self._gradients and self._watches):
            return
        if self._model.train_function not in _asking:
            if self._has_random_state():
                self._warn_of_random_state()
                return
            self._use_other_function()
        for watch in self._all_watches():
            watch.switch(True)
        self._is_watching = True

    def _has_random_state(self) -> bool:
        """Whether another training function would train otherwise."""
        function = self._model.train_function
        if not _is_traced(function):
            return False
        if function not in _random:
            _random[function] = private_api.has_random_state(function)
        return _random[function]

    def _use_other_function(self) -> None:
        """Has the model train with a function that computes norms."""
        model, (usual, watched) = self._model, self._functions
        if watched is None or usual is not model.train_function:
            usual = model.train_function
            model.train_function = None
            model.make_train_function()
            watched = model.train_function
        model.train_function = watched
        self._functions = usual, watched

    def _warn_of_random_state(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "SlotSummaries writes no norms of gradients: layers of the"
                " model draw random numbers from a state of the training"
                " function, which was traced without this callback; another"
                " function would draw others. In tf_keras, compile the model"
                " anew before `fit`; in Keras 3, have the layers use"
                " keras.random.SeedGenerator.",
                stacklevel=2,
            )

    def _unwatch(self) -> tuple[dict[str, float], set[str]]:
        """Ends that.

        Returns:
          The norms by the keys of variables, and the keys of those that have
          sparse gradients.
        """
        norms, sparse = {}, set()
        if not self._is_watching:
            return norms, sparse
        self._is_watching = False
        for watch in self._all_watches():
            watch.switch(False)
            norms |= watch.seen()
            sparse |= watch.sparse
        usual, watched = self._functions
        if watched is not None and self._model.train_function is watched:
            self._model.train_function = usual
        return norms, sparse

    # What the Kerases call.

    def _begin(self, logs: Any = None) -> None:
        del logs
        if self._writes:
            self._opened()
        self._arm()

    def _arm(self) -> None:
        """Has the model's training function ask, if it has to and still can."""
        self._function = function = self._model.train_function
        if (
            self._gradients
            and self._watches
            and hasattr(function, "experimental_get_tracing_count")
            and not _is_traced(function)
            and _may_have_random_state(self._model)
        ):
            for watch in self._all_watches():
                watch.arm()
            _asking.add(function)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Called by `fit`."""
        del logs
        self._first = batch
        if self._model.train_function is not self._function:
            self._arm()  # The model was compiled anew.
        if self._steps + 2 < self._every:  # The step before is timed, too.
            return
        self._budget.step_begins()
        model = self._model
        if (
            self._steps + 1 < self._every
            or not self._writes
            or not self._budget.allows()
            or not getattr(model, "built", True)
        ):
            return
        self._budget.measuring_begins()
        self._before = [
            tf.convert_to_tensor(hosts.unwrap(variable))
            for variable in model.trainable_variables
        ]
        self._watch()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Called by `fit`."""
        del logs
        self._steps += batch - self._first + 1
        before, self._before = self._before, None
        if before is not None:
            self._measure(before)
        elif self._steps + 1 >= self._every:
            self._budget.step_ends()

    def _measure(self, before: list[Any]) -> None:
        """Measures the step that was looked at, and writes that."""
        self._steps = 0
        norms, sparse = self._unwatch()
        variables = measures.listed(
            self._optimizers[0], self._model.trainable_variables, "variables"
        )
        self.last = measures.measured(
            self._optimizers,
            variables,
            norms,
            sparse,
            before if len(before) == len(variables) else None,
            self._embeddings,
        )
        with self._opened().as_default():
            events.put(self.last)
        events.warn(self._optimizers[0], self.last, self._threshold)
        self._budget.measuring_ends()

    def _finish(self, logs: Any = None) -> None:
        del logs
        if self._writer is not None:
            self._writer.flush()

    def _opened(self) -> Any:
        if self._writer is None:
            self._writer = _writer_to(self._log_dir)
        return self._writer


def _may_have_random_state(model: Any) -> bool:
    """Whether layers may draw random numbers from a state of the function.

    Those of Keras 3 do not; in tf_keras, some do.  Of others nobody knows.
    """
    _, is_keras_3 = hosts.model_class(model)
    if is_keras_3:
        return False
    keras = hosts.keras_of_model(model)
    return any(
        isinstance(part, keras.__internal__.layers.BaseRandomLayer)
        or originals.package_of(type(part)) != keras.__name__
        for part in (model, *model.submodules)
        if isinstance(part, keras.layers.Layer)
    )


def _is_traced(function: Any) -> bool:
    """Whether it is a `tf.function` that was called before."""
    count = getattr(function, "experimental_get_tracing_count", int)
    return count() > 0


def _writer_to(log_dir: Any) -> Any:
    """A writer to a folder, or the one that is given.

    Raises:
      OSError: if the folder cannot be written to.
    """
    if not isinstance(log_dir, (str, bytes)):
        return log_dir
    try:
        writer = tf.summary.create_file_writer(log_dir)
        writer.flush()
    except (OSError, tf.errors.OpError) as error:
        raise OSError(
            f"SlotSummaries cannot write to the folder {log_dir!r}: {error}"
        ) from error
    return writer


class _Budget:
    """Sees to it that measuring takes a fraction of the time only.

    What measuring costs is the time that its step takes longer than another,
    with all that comes after.  That of the first time, in which functions are
    traced, does not count.
    """

    def __init__(self, fraction: float | None):
        self._fraction = fraction
        self._usual = self._next = 0.0
        self._began: float | None = None  # Of a step that is timed.
        self._count = 0

    def allows(self) -> bool:
        return _now() >= self._next

    def step_begins(self) -> None:
        self._began = _now()

    def step_ends(self) -> None:
        if self._began is not None:
            self._usual = _now() - self._began
            self._began = None

    def measuring_begins(self) -> None:
        self._count += 1

    def measuring_ends(self) -> None:
        now, began, self._began = _now(), self._began, None
        if began is None or self._fraction is None:
            return
        cost = max(0.0, now - began - self._usual)
        if self._count > 1:
            self._next = now + cost * (1.0 / self._fraction - 1.0)
