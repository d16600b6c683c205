"""Runs the updates of a step, each by the backend that takes it."""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt.backends import judge
from keras_legacy_opt.backends.base import Backend
from keras_legacy_opt.distribution import name_scope_in_graph
from keras_legacy_opt.step import own
from keras_legacy_opt.step.update import Step, Update


def run(
    step: Step, strategy: tf.distribute.Strategy, updates: Sequence[Update]
) -> list[Any]:
    """Runs updates: first those of groups, then the others as they come.

    Returns:
      The operations, of which each replica may have some.

    Raises:
      ValueError: if the learning rate of a variable has a factor, and nothing
        says what it changes.
    """
    if step.has_own:
        _check_factors(step, updates)
    groups = collections.defaultdict(list)
    alone = []
    for update in updates:
        backend = judge(step, update)
        group = backend.group(update)
        if group is None:
            alone.append((backend, update))
        else:
            groups[backend, group].append(update)
    ops = []
    for (backend, _), members in groups.items():
        run_here = functools.partial(_run_group, step, backend, members)
        gradients = [update.gradient for update in members]
        variables = [update.variable for update in members]
        ops += tf.nest.flatten(
            strategy.extended.update(
                variables[0],
                run_here,
                args=(gradients, variables),
                group=False,
            )
        )
    in_graph_v1 = not tf.compat.v1.executing_eagerly_outside_functions()
    for backend, update in alone:
        variable = update.variable
        scope = f"update_{variable.op.name}" if in_graph_v1 else "update"
        with (
            strategy.extended.colocate_vars_with(variable),
            name_scope_in_graph(scope),
        ):
            op = strategy.extended.update(
                variable,
                functools.partial(_run_alone, step, backend, update),
                args=(update.gradient,),
                group=False,
            )
        # In cross-replica context: a list, of one op per replica.
        ops += op if tf.distribute.in_cross_replica_context() else [op]
    return ops


@tf.autograph.experimental.do_not_convert
def _run_group(
    step: Step,
    backend: Backend,
    members: Sequence[Update],
    first: Any,
    gradients: Sequence[Any],
    variables: Sequence[Any],
) -> Any:
    """Runs a group where its variables are: on one device."""
    del first
    return _run_here(
        step,
        backend,
        [
            update._replace(variable=variable, gradient=gradient)
            for update, variable, gradient in zip(
                members, variables, gradients, strict=True
            )
        ],
    )


@tf.autograph.experimental.do_not_convert
def _run_alone(
    step: Step, backend: Backend, update: Update, variable: Any, gradient: Any
) -> Any:
    """Runs an update on one device, then applies the constraint."""
    is_sparse = isinstance(gradient, tf.IndexedSlices)
    here = update._replace(
        variable=variable, gradient=gradient, is_sparse=is_sparse
    )
    if is_sparse != update.is_sparse:  # Only on other replicas it is the other.
        backend = judge(step, here._replace(repeats=True))
    return _run_here(step, backend, [here])


def _run_here(step: Step, backend: Backend, updates: Sequence[Update]) -> Any:
    """Runs updates on one device, with all that comes before and after."""
    if step.has_own:
        updates = [u._replace(own=step.own(u.variable)) for u in updates]
    return own.run(
        updates, backend.takes_own, functools.partial(backend.run, step)
    )


def _check_factors(step: Step, updates: Sequence[Update]) -> None:
    if step.formula is not None:
        return
    for update in updates:
        if step.own(update.variable).scales():
            optimizer = step.optimizer
            name = optimizer._known_variables.name(update.variable)
            raise ValueError(
                f"Variable {name!r} has a learning rate of its own, but"
                f" {type(optimizer).__name__} declares no formula: its"
                " `_resource_apply_*` would not notice. Multiply the learning"
                " rate there, or give the variable no factor."
            )
