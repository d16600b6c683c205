"""One step for several small batches, as if they were one large batch."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import distribution, hosts, private_api
from keras_legacy_opt.addons import wrapper
from keras_legacy_opt.fused import switch
from keras_legacy_opt.state import reads, saving
from keras_legacy_opt.state.variables import var_key
from keras_legacy_opt.step import gradients
from keras_legacy_opt.step.around import Around
from keras_legacy_opt.step.clipping import GradsAndVars

_SLOT = "accumulated_gradient"
_REDUCTIONS = ("mean", "sum")


@hosts.public
class GradientAccumulation(wrapper.Wrapper):
    """Takes one step for the gradients of several batches.

    Of `steps` calls of `apply_gradients`, all but the last only add to what is
    accumulated; the last has the optimizer inside apply the mean (or the sum)
    of the gradients.  It is that of one large batch: the mean, where losses are
    means over batches of one size, as in `fit`.

    >>> opt = keras_legacy_opt.addons.GradientAccumulation(
    ...     keras_legacy_opt.SGD(1.0), steps=2)
    >>> var = tf.Variable(0.0)
    >>> for gradient in (1.0, 3.0):
    ...     _ = opt.apply_gradients([(tf.constant(gradient), var)])
    ...     print(float(var), int(opt.iterations))
    0.0 0
    -2.0 1

    - `iterations` counts the steps of the optimizer inside, which are what
      schedules, `decay` and bias corrections go by: as with large batches.
    - Clipping, here or inside, and `gradient_transformers` are applied to the
      accumulated gradients.  (Of a sparse one, each row is there once, while in
      a large batch clipping sees rows as often as they occur.)
    - A variable without any gradient in all of the batches is left alone; a
      sparse gradient accumulates into one of all rows that any batch had.
    - What waits for a layer that Keras 3 freezes in between is dropped at the
      step.  Of any other variable that gets no gradients any more (tf_keras
      does not tell which layers are frozen), it is still applied: freeze layers
      when `accumulated` is 0.
    - Gradients are summed over the replicas of a strategy in each call.  What
      is accumulated is thus the same on all of them, a slot like others: saved
      and restored in between, under whatever strategy.
    - Under ParameterServerStrategy, workers accumulate one after the other, so
      that each batch counts once, whichever worker completes a step.
    - With a LossScaleOptimizer around it, a batch whose gradients are not
      finite does not count: it is left out, and another takes its place.

    What is accumulated is the slot `accumulated_gradient`.  It starts from -0.0
    (adding to that changes no bit), by which rows and variables are known that
    have got nothing yet.
    """

    _CHILD = "optimizer"
    _SLOTS = (_SLOT,)
    _SCALARS = ("accumulated",)
    _OUTERMOST = "only it knows which of its steps change the variables"

    def __init__(
        self,
        optimizer: Any,
        steps: int,
        reduction: str = "mean",
        name: str = "GradientAccumulation",
        **kwargs: Any,
    ):
        """Wraps an optimizer.

        Args:
          optimizer: see `keras_legacy_opt.addons.wrapper.Wrapper`.
          steps: the number of batches, at least 1.
          reduction: "mean" or "sum", of their gradients.
          name: name of the optimizer.
          **kwargs: see `keras_legacy_opt.addons.wrapper.Wrapper`.

        Raises:
          TypeError: if `optimizer` is none of this package, or `steps` is no
            integer.
          ValueError: if `steps` is less than 1, or `reduction` is unknown.
        """
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"`reduction` must be one of {_REDUCTIONS}. Received:"
                f" reduction={reduction!r}."
            )
        super().__init__(optimizer, name, **kwargs)
        self._set_hyper("steps", steps)
        self._reduction = reduction

    def _check_hyper(self, name: str, value: Any) -> None:
        super()._check_hyper(name, value)
        if name == "steps":
            wrapper.check_integer(name, value, 1)

    def _init_process_state(self) -> None:
        super()._init_process_state()
        self._accumulated: Any = None
        self._mutex = _Mutex()
        # Whether variables have had a sparse gradient, of those seen so far.
        self._have_sparse: dict[str, bool] = {}

    @property
    def accumulated(self) -> Any:
        """int64 scalar variable: how many batches are waiting for a step."""
        if self._accumulated is None:
            self._accumulated = self.add_weight(
                "accumulated",
                shape=[],
                dtype=tf.int64,
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            self._weights.append(self._accumulated)
        return self._accumulated

    def _create_hypers(self) -> None:
        super()._create_hypers()
        _ = self.iterations, self.accumulated
        if distribution.workers_are_out_of_step():
            self._mutex.make(self._name, self.accumulated.device)

    def _create_all_weights(self, var_list: Sequence[Any]) -> None:
        # A checkpoint brought what waits for a variable that has had no
        # gradient since: it takes part in the next step.
        known = self._known_variables
        var_list = [known.unwrap(v) for v in var_list]
        created = {*known.keys_with_slots, *map(var_key, var_list)}
        waiting = [
            variable
            for variable in map(hosts.unwrap, known.all())
            if var_key(variable) not in created
            and _SLOT in self._slots.get(var_key(variable), {})
        ]
        super()._create_all_weights([*var_list, *waiting])

    def _create_slots(self, var_list: Sequence[Any]) -> None:
        for var in var_list:
            self.add_slot(var, _SLOT, initializer=_nothing)

    def _adds_itself(self, variable: Any, takes_own: bool) -> str:
        return " adds up the gradients of `steps` batches first, by plain ops"

    # One step.

    def _around_planned(self) -> Around:
        """See `Optimizer`."""
        return Around(
            self._optimizer,
            self._SLOTS,
            self._completes,
            sum=_SLOT,
            count=self._accumulated,
            remembered=self._have_sparse,
        )

    def _completes(self) -> tf.Tensor:
        """Whether there are enough batches with the next one."""
        steps = self._get_hyper("steps", tf.int64)
        return reads.cast(self.accumulated, tf.int64) + 1 >= steps

    def _step(
        self, pairs: GradsAndVars, name: str | None, aggregate: bool
    ) -> Any:
        if aggregate:
            pairs = self._summed(pairs)
        variables = [v for _, v in pairs]
        for gradient, variable in pairs:
            is_sparse = isinstance(gradient, tf.IndexedSlices)
            seen = self._have_sparse.setdefault(var_key(variable), is_sparse)
            self._have_sparse[var_key(variable)] = seen or is_sparse
        with self._mutex.held() as finish:
            grads = [g for g, _ in pairs]
            op = _merged(self._add_and_step, variables, name, grads)
            op = finish(op)
        return self.iterations if tf.executing_eagerly() else op

    def _add_and_step(
        self,
        strategy: tf.distribute.Strategy,
        run: Callable[..., Any],
        variables: Sequence[Any],
        name: str | None,
        grads: Sequence[Any],
    ) -> Any:
        """Accumulates, and takes a step if that were enough batches.

        Args:
          strategy: the strategy.
          run: calls a function on all replicas.
          variables: those that have gradients now.
          name: of the operation.
          grads: the gradients, summed over the replicas.
        """
        added = [
            strategy.extended.update(
                self.get_slot(variable, _SLOT), _add, args=(grad,), group=False
            )
            for grad, variable in zip(grads, variables, strict=True)
        ]
        added.append(self.accumulated.assign_add(1, read_value=False))
        with tf.control_dependencies(_operations(added)):
            steps = self._get_hyper("steps", tf.int64)
            is_due = self.accumulated.read_value() >= steps
            return tf.cond(
                is_due,
                lambda: self._due(strategy, run, variables, name),
                tf.no_op,
            )

    def _due(
        self,
        strategy: tf.distribute.Strategy,
        run: Callable[..., Any],
        variables: Sequence[Any],
        name: str | None,
    ) -> Any:
        """Takes the step, and starts anew."""
        others = self._others(variables)
        trained = [v for v in others if not self._known_variables.is_frozen(v)]
        done = self._take_with(trained, strategy, run, variables, name)
        with tf.control_dependencies(_operations([done])):
            reset = [
                strategy.extended.update(
                    self.get_slot(variable, _SLOT), _reset, group=False
                )
                for variable in [*variables, *others]
            ]
            reset.append(self.accumulated.assign(0, read_value=False))
            return tf.group(*_operations(reset))

    def _others(self, variables: Sequence[Any]) -> list[Any]:
        """The variables that have no gradient now, but perhaps had before."""
        present = {var_key(variable) for variable in variables}
        known = map(hosts.unwrap, self._known_variables.with_slots())
        return [v for v in known if var_key(v) not in present]

    def _take_with(
        self,
        others: Sequence[Any],
        strategy: tf.distribute.Strategy,
        run: Callable[..., Any],
        variables: Sequence[Any],
        name: str | None,
    ) -> Any:
        """Takes the step, with those of the others that had a gradient."""
        had = [
            tf.reduce_any(_has_got(self.get_slot(v, _SLOT).read_value()))
            for v in others
        ]
        if tf.executing_eagerly():
            those = [v for v, h in zip(others, had, strict=True) if h]
            return run(self._take, [*variables, *those], name)
        if not others:
            return run(self._take, variables, name)
        return tf.cond(
            tf.reduce_any(had),
            lambda: self._take_and_put_back(
                others, had, strategy, run, variables, name
            ),
            lambda: run(self._take, variables, name),
        )

    def _take_and_put_back(
        self,
        others: Sequence[Any],
        had: Sequence[tf.Tensor],
        strategy: tf.distribute.Strategy,
        run: Callable[..., Any],
        variables: Sequence[Any],
        name: str | None,
    ) -> Any:
        """Takes the step with all others, and undoes it for some of them."""
        states = [
            (each, is_kept)
            for variable, is_kept in zip(others, had, strict=True)
            for each in self._states(variable)
        ]
        before = [each.read_value() for each, _ in states]
        with tf.control_dependencies(_operations(before)):
            done = run(self._take, [*variables, *others], name)
        with tf.control_dependencies(_operations([done])):
            ops = [
                strategy.extended.update(
                    each, _put_back, args=(value, is_kept), group=False
                )
                for value, (each, is_kept) in zip(before, states, strict=True)
            ]
            return tf.group(*_operations(ops))

    def _states(self, variable: Any) -> list[Any]:
        """A variable and all its slots, but what is accumulated."""
        slots = [
            slot
            for optimizer in saving.held(self)
            for slot in optimizer._slots.get(var_key(variable), {}).values()
        ]
        return [variable, *slots]

    def _take(self, variables: Sequence[Any], name: str | None) -> Any:
        """The step of the optimizer inside; on one replica."""
        pairs = [(self._gradient(v), v) for v in variables]
        pairs, _ = self._changed(pairs, False)
        with distribution.gradients_that_agree():
            return self._hand_over(self._optimizer, pairs, name, False)

    def _gradient(self, variable: Any) -> Any:
        """What is accumulated for a variable."""
        value = self.get_slot(variable, _SLOT).read_value()
        gradient = value
        # What a file brought may have been sparse: then its rows tell.
        is_sparse = self._have_sparse.get(var_key(variable), True)
        if is_sparse and value.shape.rank:
            gradient = _rows_with_any(value)
        if self._reduction == "sum":
            return gradient
        return gradients.divide(gradient, self.accumulated.read_value())

    def __getstate__(self) -> dict[str, Any]:
        # Who reads it has other variables.
        return {**super().__getstate__(), "_have_sparse": {}}

    def _count_skipped_step(self) -> Any:
        return tf.no_op()

    def get_config(self) -> dict[str, Any]:
        """The configuration; see `keras_legacy_opt.Optimizer.get_config`."""
        return {
            **super().get_config(),
            "steps": self._serialize_hyperparameter("steps"),
            "reduction": self._reduction,
        }


class _Mutex:
    """Lets only one worker at a time accumulate, once it is made.

    A copy has to be made anew.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._device = ""

    def make(self, name: str, device: str) -> None:
        """Makes it on a device, unless it is there; workers of TF1 share it."""
        if self._handle is not None:
            return
        if tf.compat.v1.executing_eagerly_outside_functions():
            name = uuid.uuid4().hex
        self._device = device
        with tf.device(device):
            self._handle = tf.raw_ops.MutexV2(shared_name=name)

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[Any], Any]]:
        """Waits for it.

        Yields:
          A function of the operation that is to be done before others may.
        """
        if self._handle is None or tf.executing_eagerly():
            yield lambda op: op
            return
        # A lock cannot be sent from one device to another.
        with tf.device(self._device):
            lock = tf.raw_ops.MutexLock(mutex=self._handle)

        def finish(op: Any) -> Any:
            with tf.control_dependencies([op]), tf.device(self._device):
                return tf.raw_ops.ConsumeMutexLock(mutex_lock=lock)

        with tf.control_dependencies([lock]):
            yield finish

    def __deepcopy__(self, memo: Any) -> _Mutex:
        return _Mutex()

    def __reduce__(self) -> Any:
        return _Mutex, ()


def _merged(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function of the strategy, of what runs replicas, and of `args`.

    Where replicas leave their context to update variables, which they cannot in
    a branch, they have left it when it is called.
    """
    if not tf.distribute.has_strategy() or (
        private_api.strategy_supports_no_merge_call()
    ):
        strategy = tf.distribute.get_strategy()
        return function(strategy, lambda f, *args: f(*args), *args)

    *fixed, grads = args

    @tf.autograph.experimental.do_not_convert
    def merged(strategy: tf.distribute.Strategy, grads: Any) -> Any:
        def run(function: Callable[..., Any], *args: Any) -> Any:
            # The variables are those of all replicas: no values to choose from.
            here = switch.as_here(lambda: function(*args))
            results = strategy.extended.call_for_each_replica(here)
            return tf.group(
                *_operations(strategy.experimental_local_results(results))
            )

        return function(strategy, run, *fixed, grads)

    context = tf.distribute.get_replica_context()
    return context.merge_call(switch.as_here(merged), args=(grads,))


def _operations(results: Sequence[Any]) -> list[Any]:
    """What can be waited for; eager execution has no need to."""
    if tf.executing_eagerly():
        return []
    return [op for op in tf.nest.flatten(results) if op is not None]


def _nothing(shape: Any, dtype: tf.DType) -> tf.Tensor:
    # As a number, TensorFlow takes -0.0 and 0.0 for each other.
    return -tf.zeros(shape, dtype)


def _has_got(value: tf.Tensor) -> tf.Tensor:
    """Which elements are not -0.0, and thus have been added to."""
    if value.dtype.is_complex:
        return _has_got(tf.math.real(value))
    bits = _BITS[value.dtype.size]
    return tf.not_equal(tf.bitcast(value, bits), bits.min)


def _rows_with_any(value: tf.Tensor) -> tf.IndexedSlices:
    """The rows of a slot that have got something."""
    axes = list(range(1, value.shape.rank))
    got = tf.reduce_any(_has_got(value), axes)
    return gradients.rows_where(got, value)


_BITS = {2: tf.int16, 4: tf.int32, 8: tf.int64}


@tf.autograph.experimental.do_not_convert
def _add(slot: Any, grad: Any) -> Any:
    if not isinstance(grad, tf.IndexedSlices):
        return slot.assign_add(grad, read_value=False)
    values = grad.values
    values = tf.where(tf.equal(values, 0), tf.zeros_like(values), values)
    return tf.raw_ops.ResourceScatterAdd(
        resource=slot.handle, indices=grad.indices, updates=values
    )


@tf.autograph.experimental.do_not_convert
def _reset(slot: Any) -> Any:
    return slot.assign(_nothing(slot.shape, slot.dtype), read_value=False)


@tf.autograph.experimental.do_not_convert
def _put_back(variable: Any, value: tf.Tensor, is_kept: tf.Tensor) -> Any:
    value = tf.where(is_kept, variable.read_value(), value)
    return variable.assign(value, read_value=False)
