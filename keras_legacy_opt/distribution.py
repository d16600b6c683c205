"""The replica context of `tf.distribute`, as an optimizer's step sees it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api

_CENTRAL_STORAGE = (
    tf.distribute.experimental.CentralStorageStrategy,
    tf.compat.v1.distribute.experimental.CentralStorageStrategy,
)
_PARAMETER_SERVER = (
    tf.distribute.experimental.ParameterServerStrategy,
    tf.compat.v1.distribute.experimental.ParameterServerStrategy,
)
# Whose processes all train.
OF_WORKERS = (
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.compat.v1.distribute.experimental.MultiWorkerMirroredStrategy,
)
# Where each replica has a copy of every variable.
WITH_OWN_VARIABLES = (
    tf.distribute.MirroredStrategy,
    tf.compat.v1.distribute.MirroredStrategy,
    *OF_WORKERS,
    tf.distribute.OneDeviceStrategy,
    tf.compat.v1.distribute.OneDeviceStrategy,
)
# Where some are elsewhere.
WITHOUT_OWN_VARIABLES = _PARAMETER_SERVER + _CENTRAL_STORAGE


def current_strategy() -> tf.distribute.Strategy | None:
    """The strategy whose scope this is called in, unless the default one."""
    if tf.distribute.has_strategy():
        return tf.distribute.get_strategy()
    return None


def workers_are_out_of_step() -> bool:
    """Whether other workers may take steps while one is taken here."""
    return isinstance(current_strategy(), _PARAMETER_SERVER)


@contextlib.contextmanager
def scope_of(strategy: tf.distribute.Strategy | None) -> Iterator[None]:
    """Enters the scope of `strategy`, unless a strategy's scope is entered."""
    if strategy is None or tf.distribute.has_strategy():
        yield
    else:
        with strategy.scope():
            yield


def once_for_all_replicas(function: Callable[[], None]) -> None:
    """Calls `function` in cross-replica context: assignments reach all copies.

    Every replica has to come here; one call of `function` is made for all.
    """

    @tf.autograph.experimental.do_not_convert
    def merged(strategy: tf.distribute.Strategy) -> None:
        del strategy
        function()

    if _in_replica_context():
        private_api.maybe_merge_call(merged, tf.distribute.get_strategy())
    else:
        function()


def copies(variable: Any) -> Sequence[Any]:
    """What to assign to, so that every replica's copy of `variable` changes."""
    if _in_replica_context():
        return tf.distribute.get_strategy().experimental_local_results(variable)
    return (variable,)


def _in_replica_context() -> bool:
    """Whether this is a replica of a strategy, unless the default one."""
    return tf.distribute.has_strategy() and (
        not tf.distribute.in_cross_replica_context()
    )


class _Here(threading.local):
    """What is known in a thread, and thus of one replica."""

    gradients_agree = False


_here = _Here()


@contextlib.contextmanager
def gradients_that_agree() -> Iterator[None]:
    """Says that gradients are summed, and every replica has the same."""
    before, _here.gradients_agree = _here.gradients_agree, True
    try:
        yield
    finally:
        _here.gradients_agree = before


def check_context(aggregate_gradients: bool) -> None:
    """Checks that gradients can be applied here.

    Raises:
      RuntimeError: in cross-replica context.
      NotImplementedError: if the strategy must aggregate, and shall not.
    """
    if tf.distribute.in_cross_replica_context():
        raise RuntimeError(
            "`apply_gradients()` cannot be called in cross-replica context:"
            " call it in a function that is passed to `strategy.run`."
        )
    strategy = tf.distribute.get_strategy()
    is_left_to_caller = not (aggregate_gradients or _here.gradients_agree)
    if is_left_to_caller and isinstance(strategy, WITHOUT_OWN_VARIABLES):
        raise NotImplementedError(
            "`experimental_aggregate_gradients=False` is not supported under"
            " ParameterServerStrategy and CentralStorageStrategy. Received:"
            f" strategy={strategy}."
        )


def check_created_in_scope(variable: Any, name: str) -> None:
    """Raises ValueError unless a variable belongs to the current strategy."""
    strategy = tf.distribute.get_strategy()
    if not strategy.extended.variable_created_in_scope(variable):
        raise ValueError(
            f"Variable {name!r} was created outside the scope of {strategy}: it"
            " can neither be updated nor get an optimizer slot variable under"
            " the scope. Create the model, or restore the checkpoint, in the"
            " same `strategy.scope()` as the optimizer."
        )


def check_clipping(option: str) -> None:
    """Raises ValueError where the strategy cannot clip by `option`."""
    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, _CENTRAL_STORAGE):
        raise ValueError(
            f"`{option}` is not supported with CentralStorageStrategy: clip in"
            f" `gradient_aggregator`. Received: strategy={strategy}."
        )


def name_scope_in_graph(name: str) -> contextlib.AbstractContextManager:
    """A name scope where ops have names; eager execution has none."""
    if tf.executing_eagerly():
        return contextlib.nullcontext()
    return tf.name_scope(name)
