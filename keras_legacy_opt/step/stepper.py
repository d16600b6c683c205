"""The order of one step, once: check, create, prepare, sum, transform, run.

What can be refused is refused before anything changes.  In this order, legacy
calls the methods that subclasses override; they are called here, and nowhere
else.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import distribution, private_api
from keras_legacy_opt.distribution import name_scope_in_graph
from keras_legacy_opt.fused import switch
from keras_legacy_opt.state.variables import var_key
from keras_legacy_opt.step import chain as chains
from keras_legacy_opt.step import function_arguments, gradients, plan, running
from keras_legacy_opt.step.clipping import GradsAndVars
from keras_legacy_opt.step.update import Step, updates_of


def take(
    optimizer: Any,
    grads_and_vars: Iterable[tuple[Any, Any]],
    name: str | None,
    aggregate: bool,
    chain: chains.Chain = (),
) -> Any:
    """Takes a step: what `apply_gradients` does.

    Args:
      optimizer: whose step it is.
      grads_and_vars: as given by the caller.
      name: of the operation.
      aggregate: whether the gradients are yet to be summed over the replicas.
      chain: what is left to do with the gradients, and what the updates can do:
        `chains.scale` has left it.

    Returns:
      See `Optimizer.apply_gradients`.
    """
    distribution.check_context(aggregate)
    items = gradients.listed(grads_and_vars)
    rest = functools.partial(go_on, chain=chain, name=name, aggregate=aggregate)
    iterations = plan.step(optimizer, items, rest, chain)
    if iterations is not None:
        return iterations
    pairs = checked(optimizer, given(optimizer, items, aggregate))
    if optimizer.loss_scale_factor is not None:
        division = (chains.Divide(optimizer.loss_scale_factor),)
        if chain:
            pairs = chains.applied(optimizer, pairs, division)
        else:
            pairs, chain = chains.scale(optimizer, pairs, division)
    variables = [v for _, v in pairs]
    with tf.name_scope(optimizer._name):
        with tf.init_scope():
            optimizer._create_all_weights(variables)
        if not pairs:
            return tf.no_op()
        apply_state = optimizer._prepare(variables)
        return go_on(optimizer, pairs, apply_state, chain, name, aggregate)


def go_on(
    optimizer: Any,
    pairs: GradsAndVars,
    apply_state: Any,
    chain: chains.Chain,
    name: str | None,
    aggregate: bool,
) -> Any:
    """Takes a step on that has its coefficients.

    Args:
      optimizer: whose step it is.
      pairs: of gradient and `tf.Variable`, which fit each other.
      apply_state: what `_prepare` returned.
      chain: see `take`.
      name: see there.
      aggregate: see there.
    """
    if aggregate:
        pairs = optimizer._transform_unaggregated_gradients(pairs)
        pairs = optimizer._aggregate_gradients(pairs)
    if optimizer._watch is not None:
        optimizer._watch.see(pairs, chains.scales_of(chain))
    run = functools.partial(
        optimizer._distributed_apply, apply_state=apply_state
    )
    return private_api.maybe_merge_call(
        switch.as_here(run),
        tf.distribute.get_strategy(),
        chains.defer(optimizer, pairs, chain),
        name=name,
    )


def given(
    optimizer: Any, items: Sequence[Any], aggregate: bool
) -> Sequence[tuple[Any, Any]]:
    """The pairs that have a gradient, on some replica if they are to be summed.

    Their variables are as they were given.
    """
    known = optimizer._known_variables
    pairs = gradients.pairs(items)
    if aggregate:
        pairs = gradients.completed(pairs, lambda v: var_key(known.unwrap(v)))
    return gradients.filter_empty(pairs, lambda v: known.name(known.unwrap(v)))


def summed(
    optimizer: Any, pairs: Sequence[tuple[Any, Any]]
) -> list[tuple[Any, Any]]:
    """Pairs as given, whose gradients are summed over the replicas."""
    unwrap = optimizer._known_variables.unwrap
    # Keras 3's variables must not come where strategies look at them.
    before = {id(unwrap(v)): v for _, v in pairs}
    pairs = [(g, unwrap(v)) for g, v in pairs]
    pairs = optimizer._transform_unaggregated_gradients(pairs)
    pairs = optimizer._aggregate_gradients(pairs)
    return [(g, before.get(id(v), v)) for g, v in pairs]


def checked(
    optimizer: Any, pairs: Sequence[tuple[Any, Any]]
) -> list[tuple[Any, Any]]:
    """Pairs of gradient and `tf.Variable` that fit each other.

    A variable that takes its gradient for its value has got it.
    """
    known = optimizer._known_variables
    usable, overwriting = [], []
    for gradient, variable in pairs:
        variable = known.unwrap(variable)
        name = known.name(variable)
        if tf.distribute.has_strategy():
            distribution.check_created_in_scope(variable, name)
        gradient = gradients.fitted(gradient, variable, name)
        if known.is_overwritten(variable):
            overwriting.append((gradient, variable))
        else:
            usable.append((gradient, variable))
    optimizer._assert_valid_dtypes([v for _, v in usable])
    for gradient, variable in overwriting:
        variable.assign(gradient)
    return usable


def run(
    optimizer: Any,
    strategy: tf.distribute.Strategy,
    grads_and_vars: GradsAndVars,
    apply_state: dict,
    name: str | None,
) -> Any:
    """Runs the updates, then counts the iteration: `_distributed_apply`."""
    updates = updates_of(optimizer, grads_and_vars)
    variables = [update.variable for update in updates]
    checks = function_arguments.checks(optimizer, variables)
    with (
        name_scope_in_graph(name or optimizer._name),
        tf.control_dependencies(checks),
    ):
        ops = running.run(Step(optimizer, apply_state), strategy, updates)
        if tf.executing_eagerly():
            return optimizer.iterations.assign_add(1)
        with tf.control_dependencies([tf.group(ops)]):
            return optimizer.iterations.assign_add(1, read_value=False)
