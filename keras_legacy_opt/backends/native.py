"""The native library on the CPU: one op for all variables of a group."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.backends.base import Backend
from keras_legacy_opt.fused import groups, loader, places, switch
from keras_legacy_opt.rules.formula import Coefficients, Native
from keras_legacy_opt.step.own import Own
from keras_legacy_opt.step.update import Step, Update


class NativeCPU(Backend):
    """Dense gradients by device and dtype, sparse ones by variable."""

    name = "native ops"
    folds = True

    def refuses(self, step: Step, update: Update) -> str | None:
        """See `Backend`."""
        refusal = step.once(refuses_kind, update.is_sparse)
        if refusal is None and not update.is_sparse:
            if update.constraint is not None:
                refusal = "it has a constraint"
            elif update.repeats:
                refusal = "the step updates it several times"
        return refusal or places.refuses(update.variable)

    def group(self, update: Update) -> Hashable:
        """See `Backend`."""
        if update.is_sparse:
            return None
        variable = update.variable
        return private_api.devices_of(variable), variable.dtype.base_dtype

    def run(self, step: Step, updates: Sequence[Update]) -> Any:
        """See `Backend`."""
        if updates[0].is_sparse:
            (update,) = updates
            return update_sparse(step, update)
        parts = collections.defaultdict(list)
        for update in updates:
            parts[_kind(update.own)].append(update)
        ops = [update_dense(step, part) for part in parts.values()]
        return ops[0] if len(ops) == 1 else tf.group(*ops)


def _kind(own: Own) -> Hashable:
    """What variables have in common that one op updates."""
    coefficients = ((k, id(value)) for k, value in own.coefficients.items())
    return id(own.lr_factor), *coefficients


def refuses_kind(step: Step, is_sparse: bool) -> str | None:
    """Why native ops take no sparse, or dense, gradients in a step."""
    if step.formula is None or step.formula.native is None:
        return f"{type(step.optimizer).__name__} declares no native op"
    return step.overridden(is_sparse) or switch.refuses()


def update_sparse(step: Step, update: Update) -> Any:
    """Updates a variable by a sparse gradient, on one device."""
    optimizer, variable = step.optimizer, update.variable
    native = step.formula.native
    slots = {
        name: optimizer.get_slot(variable, slot).handle
        for name, slot in native.slots.items()
    }
    return getattr(loader.load(), f"sparse_{native.op}")(
        var=variable.handle,
        grad=update.gradient.values,
        indices=update.gradient.indices,
        **slots,
        **scalars(native, variable, step.coefficients(variable)),
        transform=_joined([update.transform]),
        condition=_joined([update.condition]),
        use_locking=optimizer._use_locking,
        variable_name=optimizer._known_variables.name(variable),
    )


def update_dense(step: Step, updates: Sequence[Update]) -> Any:
    """Updates variables by dense gradients, all on one device."""
    optimizer, native = step.optimizer, step.formula.native
    variables = [update.variable for update in updates]
    slots = {
        name: [optimizer.get_slot(variable, slot) for variable in variables]
        for name, slot in native.slots.items()
    }
    inputs = {
        "grad": [update.gradient for update in updates],
        **scalars(native, variables[0], step.coefficients(variables[0])),
        "transform": _joined([update.transform for update in updates]),
        "condition": _joined([update.condition for update in updates]),
    }
    if tf.inside_function():
        group = group_of(native, variables, slots)
        if group is not None:
            return update_group(optimizer, native, group, inputs)
    members = {"var": variables, **slots}
    return getattr(loader.load(), native.op)(
        **{name: [v.handle for v in each] for name, each in members.items()},
        **inputs,
        use_locking=optimizer._use_locking,
    )


def group_of(
    native: Native, variables: Sequence[Any], slots: Mapping[str, Sequence[Any]]
) -> tf.Tensor | None:
    """The group of variables and slots, in the order that its op wants."""
    ops = loader.load()
    names = ops.inputs(native.op)[1 : 1 + len(slots)]
    return groups.group_of(ops, variables, *(slots[name] for name in names))


def update_group(
    optimizer: Any, native: Native, group: tf.Tensor, inputs: Mapping[str, Any]
) -> Any:
    """Updates the variables of a group; `inputs` are all other inputs."""
    return getattr(loader.load(), f"group_{native.op}")(
        group=group, **inputs, use_locking=optimizer._use_locking
    )


def scalars(
    native: Native, variable: Any, c: Coefficients
) -> dict[str, tf.Tensor]:
    """The scalars of an op: as legacy rounds them, in the op's precision."""
    values = {name: c[key] for name, key in native.coefficients.items()}
    if variable.dtype.base_dtype in (tf.bfloat16, tf.float16):
        return {k: tf.cast(value, tf.float32) for k, value in values.items()}
    return values


def _joined(transforms: list[Any]) -> list[tf.Tensor]:
    """The transforms (or conditions) of a group as its op takes them."""
    if transforms[0] is None:
        return []
    if all(transform is transforms[0] for transform in transforms):
        return transforms[:1]
    return [tf.stack(transforms)]
