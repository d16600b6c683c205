"""The native library: one op for all variables of a group."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.backends.base import Backend
from keras_legacy_opt.fused import groups, loader, norms, places, switch
from keras_legacy_opt.fused.gpu import devices, units
from keras_legacy_opt.rules.formula import (
    Coefficients,
    Formula,
    Native,
    arithmetic,
)
from keras_legacy_opt.state import reads
from keras_legacy_opt.step.own import Own
from keras_legacy_opt.step.update import Step, Update


class NativeCPU(Backend):
    """Dense gradients by device and dtype, sparse ones by variable."""

    name = "native ops"
    folds = True
    takes_own = True
    kind = "CPU"

    def concerns(self, update: Update) -> bool:
        """See `Backend`."""
        return not _is_on_gpu(update)

    def refuses(self, step: Step, update: Update) -> str | None:
        """See `Backend`."""
        refusal = step.once(refuses_kind, update.is_sparse)
        if refusal is None and not update.is_sparse:
            if update.constraint is not None:
                refusal = "it has a constraint"
            elif update.repeats:
                refusal = "the step updates it several times"
        if refusal is None and op_of(step.declared).needs_32_bits:
            dtype = update.variable.dtype.base_dtype
            if arithmetic(dtype) != dtype:
                refusal = f"its two passes need more digits than {dtype.name}"
        return refusal or places.refuses(update.variable, self.kind)

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
            parts[kind_of(update.own)].append(update)
        ops = [update_dense(step, part) for part in parts.values()]
        return ops[0] if len(ops) == 1 else tf.group(*ops)


class NativeGPU(NativeCPU):
    """The same ops, where the variables are on GPUs: a launch for each group.

    Their kernels are compiled when an update of their kind is first judged.
    """

    kind = "GPU"

    def concerns(self, update: Update) -> bool:
        """See `Backend`."""
        return _is_on_gpu(update)

    def refuses(self, step: Step, update: Update) -> str | None:
        """See `Backend`."""
        # First what is refused for every variable of a machine without GPUs.
        refusal = places.refuses(update.variable, self.kind)
        if refusal is None:
            refusal = super().refuses(step, update)
        if refusal is not None:
            return refusal
        return devices.refuses(
            private_api.devices_of(update.variable),
            *_units(step, update),
        )


def _is_on_gpu(update: Update) -> bool:
    return any("GPU:" in d for d in private_api.devices_of(update.variable))


def _units(step: Step, update: Update) -> list[str]:
    """The units of kernels that an update on a GPU needs."""
    # As the ops are called, formulas are: KerasLegacyOptAdamAmsgrad.
    words = op_of(step.declared).op.split("_")
    formula = "".join(word.capitalize() for word in words)
    dtype = units.NAMES[update.variable.dtype.base_dtype.name]
    if not update.is_sparse:
        return [f"Dense_{formula}_{dtype}"]
    needed = ["Rows", f"Sparse_{formula}_{dtype}"]
    if step.optimizer._averaging is not None:
        needed.append(f"Average_{dtype}")
    return needed


def kind_of(own: Own) -> Hashable:
    """What variables have in common that one op updates."""
    coefficients = ((k, id(value)) for k, value in own.coefficients.items())
    return own.average is None, id(own.average_weight), *coefficients


def refuses_kind(step: Step, is_sparse: bool) -> str | None:
    """Why native ops take no sparse, or dense, gradients in a step."""
    if step.formula is None or step.formula.native is None:
        return f"{type(step.optimizer).__name__} declares no native op"
    return step.overridden(is_sparse) or switch.refuses()


def op_of(formula: Formula) -> Native:
    """The op of a formula, where somebody has asked whether it has one.

    Raises:
      ValueError: if it has none.
    """
    if formula.native is None:
        raise ValueError("The formula declares no native op.")
    return formula.native


def update_sparse(step: Step, update: Update) -> Any:
    """Updates a variable by a sparse gradient, on one device."""
    optimizer, variable, own = step.optimizer, update.variable, update.own
    native = op_of(step.declared)
    slots = {
        name: optimizer.get_slot(variable, slot).handle
        for name, slot in native.slots.items()
    }
    return getattr(loader.ops(), f"sparse_{native.op}")(
        var=variable.handle,
        grad=update.gradient.values,
        indices=update.gradient.indices,
        **slots,
        **_scalars_of(step, update),
        transform=_joined([update.transform]),
        condition=_joined([update.condition]),
        **own_inputs([update.own], variable.dtype.base_dtype),
        average=[] if own.average is None else [own.average.handle],
        use_locking=optimizer._use_locking,
        variable_name=optimizer._known_variables.name(variable),
    )


def update_dense(step: Step, updates: Sequence[Update]) -> Any:
    """Updates variables by dense gradients, all on one device."""
    optimizer, native = step.optimizer, op_of(step.declared)
    variables = [update.variable for update in updates]
    slots = {
        name: [optimizer.get_slot(variable, slot) for variable in variables]
        for name, slot in native.slots.items()
    }
    inputs = {
        "grad": [update.gradient for update in updates],
        **_scalars_of(step, updates[0]),
        "transform": _joined([update.transform for update in updates]),
        "condition": _joined([update.condition for update in updates]),
        **own_inputs([u.own for u in updates], variables[0].dtype.base_dtype),
    }
    averages = [u.own.average for u in updates if u.own.average is not None]
    if tf.inside_function():
        group = group_of(native, variables, slots, averages)
        if group is not None:
            return update_group(optimizer, native, group, inputs)
    members = {"var": variables, **slots, "average": averages}
    return getattr(loader.ops(), native.op)(
        **{name: [v.handle for v in each] for name, each in members.items()},
        **inputs,
        use_locking=optimizer._use_locking,
    )


def group_of(
    native: Native,
    variables: Sequence[Any],
    slots: Mapping[str, Sequence[Any]],
    averages: Sequence[Any] = (),
) -> tf.Tensor | None:
    """The group of variables and slots, in the order that its op wants."""
    ops = loader.ops()
    names = ops.inputs(native.op)[1 : 1 + len(slots)]
    lists = [slots[name] for name in names]
    return groups.group_of(ops, variables, *lists, averages)


def update_group(
    optimizer: Any, native: Native, group: tf.Tensor, inputs: Mapping[str, Any]
) -> Any:
    """Updates the variables of a group; `inputs` are all other inputs."""
    inputs = {"per_variable": [], "average_weight": [], **inputs}
    return getattr(loader.ops(), f"group_{native.op}")(
        group=group, **inputs, use_locking=optimizer._use_locking
    )


# What adds gradients to slots: it subtracts them times -1, which is exact.
SUM = Native("sgd", slots={}, coefficients={})


def add_to_group(
    optimizer: Any, group: tf.Tensor, grads: Sequence[Any], dtype: tf.DType
) -> None:
    """Adds gradients to the variables of a group, which have that dtype."""
    inputs = {
        "grad": grads,
        "lr": reads.constant(-1.0, arithmetic(dtype)),
        "transform": [],
        "condition": [],
    }
    update_group(optimizer, SUM, group, inputs)


def scalars(
    native: Native, variable: Any, c: Coefficients
) -> dict[str, tf.Tensor]:
    """The scalars of an op: as legacy rounds them, in the op's precision."""
    values = {name: c[key] for name, key in native.coefficients.items()}
    dtype = variable.dtype.base_dtype
    if arithmetic(dtype) != dtype:
        return {k: tf.cast(v, arithmetic(dtype)) for k, v in values.items()}
    return values


def _scalars_of(step: Step, update: Update) -> dict[str, tf.Tensor]:
    """Those of an update, whose learning rate the op multiplies itself."""
    variable = update.variable
    c = step.common_coefficients(variable)
    if update.own.coefficients:
        c = {**c, **update.own.coefficients}
    return scalars(op_of(step.declared), variable, c)


def own_inputs(
    owns: Sequence[Own], dtype: tf.DType
) -> dict[str, list[tf.Tensor]]:
    """What variables of a dtype have of their own, as their op takes it."""
    return {
        "per_variable": _per_variable(owns, arithmetic(dtype)),
        **averaging(owns[0].average_weight, dtype),
    }


def averaging(weight: Any, dtype: tf.DType) -> dict[str, list[tf.Tensor]]:
    """The weight of new values in averages, as an op takes it."""
    numbers = [] if weight is None else [tf.cast(weight, arithmetic(dtype))]
    return {"average_weight": numbers}


def _per_variable(owns: Sequence[Own], dtype: tf.DType) -> list[tf.Tensor]:
    """Learning rate factors and decays: one row, or one for each variable."""
    if all(own.lr_factor is own.decay is None for own in owns):
        return []
    one, zero = reads.constant(1.0, dtype), reads.constant(0.0, dtype)
    pairs = [
        (
            one if own.lr_factor is None else own.lr_factor,
            zero if own.decay is None else own.decay,
        )
        for own in owns
    ]
    # Few are distinct, mostly: each costs some ops.
    keys = [tuple(id(x) if tf.is_tensor(x) else x for x in p) for p in pairs]
    rows = dict(zip(keys, pairs, strict=True))
    places = {key: i for i, key in enumerate(rows)}
    table = [
        reads.stack([reads.cast(number, dtype) for number in row])
        for row in rows.values()
    ]
    if len(table) == 1:
        return table
    return [tf.gather(tf.stack(table), [places[key] for key in keys])]


def _joined(transforms: list[Any]) -> list[tf.Tensor]:
    """The transforms (or conditions) of a group as its op takes them."""
    if transforms[0] is None:
        return []
    if isinstance(transforms[0], norms.Row):
        return [norms.joined(transforms)]
    if all(transform is transforms[0] for transform in transforms):
        return transforms[:1]
    return [tf.stack(transforms)]
