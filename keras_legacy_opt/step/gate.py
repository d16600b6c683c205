"""The gate of a loss scale: a step is taken if its gradients are finite.

As in legacy, it stands before a whole step, whose `apply_gradients` somebody
may override.  Where the updates can be told to change nothing, it goes with
them as a link of their chain; else the step is a branch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, private_api
from keras_legacy_opt.backends import finite
from keras_legacy_opt.fused import switch
from keras_legacy_opt.step import chain as chains
from keras_legacy_opt.step import stepper

# Function of whether the gradients of a step were finite; returns an operation.
Afterwards = Callable[[tf.Tensor], Any]


class GatedStep:
    """A step of an optimizer, which may be taken or skipped.

    Attributes:
      optimizer: whose step it is.
      grads: the gradients, summed over the replicas.
      variables: as many, as they were given.
    """

    def __init__(
        self,
        optimizer: Any,
        grads_and_vars: Sequence[Any],
        name: str | None,
        chain: tuple[chains.Multiply, ...],
    ):
        self.optimizer = optimizer
        self.grads = [g for g, _ in grads_and_vars]
        self.variables = [v for _, v in grads_and_vars]
        self._name = name
        self._chain = chain

    def is_finite(self, grads: Sequence[Any]) -> tf.Tensor:
        """Whether all gradients are finite; call it in replica context."""
        variables = [hosts.unwrap(v) for v in self.variables]
        factors = [link.factor for link in self._chain]
        return finite.all_finite(grads, variables, *factors)

    def take(self, grads: Sequence[Any], condition: Any = None) -> Any:
        """Takes it, if `condition` holds; in replica context."""
        pairs = list(zip(grads, self.variables, strict=True))
        gate = () if condition is None else (chains.Gate(condition),)
        if not self._chain + gate:
            return self.optimizer.apply_gradients(
                pairs, name=self._name, experimental_aggregate_gradients=False
            )
        return stepper.take(
            self.optimizer, pairs, self._name, False, self._chain + gate
        )

    def take_if(self, condition: tf.Tensor) -> Any:
        """Takes it, or only counts it."""
        pairs = list(zip(self.grads, self.variables, strict=True))
        if not tf.executing_eagerly() and (
            chains.gate_refuses(self.optimizer, pairs) is None
        ):
            return self.take(self.grads, condition)
        return tf.cond(
            condition, lambda: tf.group(self.take(self.grads)), self.skip
        )

    def skip(self) -> Any:
        """Only counts it."""
        return tf.group(self.optimizer._count_skipped_step())


def enter(step: GatedStep, afterwards: Afterwards) -> Any:
    """Takes a step, or skips it, and does what comes after.

    Returns:
      See `Optimizer.apply_gradients`.
    """
    optimizer = step.optimizer
    # In no branch, and a skipped step counts on from the weights given.
    if optimizer._pending_weights is not None:
        optimizer.build(step.variables)
    elif optimizer._iterations is None:
        with tf.name_scope(optimizer._name), tf.init_scope():
            _ = optimizer.iterations
    if tf.distribute.has_strategy() and not (
        private_api.strategy_supports_no_merge_call()
    ):
        merged = functools.partial(_enter_of_all_replicas, step, afterwards)
        context = tf.distribute.get_replica_context()
        return context.merge_call(switch.as_here(merged), args=(step.grads,))
    is_finite = step.is_finite(step.grads)
    taken = step.take_if(is_finite)
    done = afterwards(is_finite)
    if tf.executing_eagerly():
        return optimizer.iterations
    return tf.group(taken, done)


@tf.autograph.experimental.do_not_convert
def _enter_of_all_replicas(
    step: GatedStep,
    afterwards: Afterwards,
    strategy: tf.distribute.Strategy,
    grads: Sequence[Any],
) -> Any:
    """The same for all replicas, in cross-replica context."""
    run = strategy.extended.call_for_each_replica
    results = strategy.experimental_local_results

    def take() -> Any:
        return tf.group(*results(run(step.take, args=(grads,))))

    # It is the same on every replica.
    is_finite = results(run(switch.as_here(step.is_finite), args=(grads,)))[0]
    # In this context, because a step leaves its replica by a `merge_call`,
    # which must not be inside a branch.
    taken = tf.cond(is_finite, take, step.skip)
    return tf.group(taken, afterwards(is_finite))
