"""Runs the native ops: one for the dense gradients of a device and dtype."""

from __future__ import annotations

import collections
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.fused import clip, formulas, groups, policy

GradsAndVars = Sequence[tuple[Any, Any]]


def update_dense(
    optimizer: Any,
    strategy: tf.distribute.Strategy,
    grads_and_vars: GradsAndVars,
    apply_state: Mapping,
) -> tuple[list[Any], GradsAndVars]:
    """Updates the variables that the native ops take.

    Returns:
      (update ops, the pairs that are left for the optimizer).
    """
    together, rest = _by_device_and_dtype(optimizer, grads_and_vars)
    updates = []
    for grads, variables in together:
        transforms, conditions = [], []
        if isinstance(grads[0], clip.Transformed):
            transforms = _joined([grad.transform for grad in grads])
            conditions = _joined([grad.condition for grad in grads])
            grads = [grad.gradient for grad in grads]
        update = functools.partial(
            call_dense, optimizer, apply_state, transforms, conditions
        )
        updates += tf.nest.flatten(
            strategy.extended.update(
                variables[0], update, args=(grads, variables), group=False
            )
        )
    return updates, rest


def takes_sparse(optimizer: Any, grad: Any, var: Any) -> bool:
    """Whether `update_sparse` can update `var` by `grad`."""
    if isinstance(grad, clip.Transformed):
        return True  # Else it had not been deferred.
    return (
        isinstance(grad, tf.IndexedSlices)
        and policy.ops() is not None
        and policy.sparse_formula(optimizer) is not None
        and policy.takes(var)
    )


def update_sparse(
    optimizer: Any,
    grad: tf.IndexedSlices | clip.Transformed,
    var: Any,
    apply_state: Mapping,
) -> Any:
    """Updates `var`, on one device; returns the op."""
    transforms, conditions = [], []
    if isinstance(grad, clip.Transformed):
        transforms = _joined([grad.transform])
        conditions = _joined([grad.condition])
        grad = grad.gradient
    formula = policy.sparse_formula(optimizer)
    handles = [var.handle]
    handles += [optimizer.get_slot(var, slot).handle for slot in formula.slots]
    return getattr(policy.ops(), f"sparse_{formula.op}")(
        *handles,
        grad.values,
        grad.indices,
        *coefficients(optimizer, formula, var, apply_state),
        transforms,
        conditions,
        use_locking=optimizer._use_locking,
        variable_name=optimizer._known_variables.name(var),
    )


def _by_device_and_dtype(
    optimizer: Any, grads_and_vars: GradsAndVars
) -> tuple[list[tuple[list[Any], list[Any]]], GradsAndVars]:
    """Pairs by devices and dtype, and those that no native op takes."""
    if policy.ops() is None or policy.dense_formula(optimizer) is None:
        return [], grads_and_vars
    times = collections.Counter(id(var) for _, var in grads_and_vars)
    together = collections.defaultdict(lambda: ([], []))
    rest = []
    for grad, var in grads_and_vars:
        if (
            _is_sparse(grad)
            or times[id(var)] > 1
            or optimizer._known_variables.constraint(var) is not None
            or not policy.takes(var)
        ):
            rest.append((grad, var))
        else:
            key = (private_api.devices_of(var), var.dtype.base_dtype)
            together[key][0].append(grad)
            together[key][1].append(var)
    return list(together.values()), rest


def _is_sparse(grad: Any) -> bool:
    if isinstance(grad, clip.Transformed):
        grad = grad.gradient
    # If the replicas' gradients are not of one kind, one by one then.
    local = tf.distribute.get_strategy().experimental_local_results(grad)
    return any(isinstance(each, tf.IndexedSlices) for each in local)


def _joined(transforms: list[Any]) -> list[tf.Tensor]:
    """The transforms (or conditions) of a group as its op takes them."""
    if transforms[0] is None:
        return []
    if all(transform is transforms[0] for transform in transforms):
        return transforms[:1]
    return [tf.stack(transforms)]


def call_dense(
    optimizer: Any,
    apply_state: Mapping,
    transforms: list[tf.Tensor],
    conditions: list[tf.Tensor],
    first: Any,
    grads: list[Any],
    variables: list[Any],
) -> Any:
    """Updates `variables`, all on one device."""
    formula = policy.dense_formula(optimizer)
    slots = [
        [optimizer.get_slot(variable, slot) for variable in variables]
        for slot in formula.slots
    ]
    group = None
    if tf.inside_function():
        group = groups.group_of(policy.ops(), variables, *slots)
    scalars = coefficients(optimizer, formula, first, apply_state)
    if group is not None:
        return call_group(
            optimizer, formula, group, grads, scalars, transforms, conditions
        )
    return getattr(policy.ops(), formula.op)(
        *([v.handle for v in members] for members in (variables, *slots)),
        grads,
        *scalars,
        transforms,
        conditions,
        use_locking=optimizer._use_locking,
    )


def call_group(
    optimizer: Any,
    formula: formulas.Formula,
    group: tf.Tensor,
    grads: Sequence[tf.Tensor],
    scalars: Sequence[tf.Tensor],
    transforms: list[tf.Tensor],
    conditions: list[tf.Tensor],
) -> Any:
    """Updates the variables of a group."""
    return getattr(policy.ops(), f"group_{formula.op}")(
        group,
        grads,
        *scalars,
        transforms,
        conditions,
        use_locking=optimizer._use_locking,
    )


def coefficients(
    optimizer: Any, formula: formulas.Formula, var: Any, apply_state: Mapping
) -> list[tf.Tensor]:
    """The scalars of an op: as legacy rounds them, in the op's precision."""
    key = (var.device, var.dtype.base_dtype)
    c = apply_state.get(key) or optimizer._fallback_apply_state(*key)
    values = [c[key] for key in formula.coefficients]
    if var.dtype.base_dtype in (tf.bfloat16, tf.float16):
        return [tf.cast(value, tf.float32) for value in values]
    return values
