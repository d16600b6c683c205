"""What a file holds, and the variables of a model and an optimizer.

The codec of the format finds the model's variables.  What belongs to the
optimizer goes by the names of its hyperparameters and slots, whatever the
format; or by its order, where names do not tell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_legacy_opt import serialization
from keras_legacy_opt.checkpoints import (
    contents,
    in_order,
    optimizers,
    releases,
)
from keras_legacy_opt.checkpoints.contents import Contents, Item
from keras_legacy_opt.checkpoints.plan import Plan
from keras_legacy_opt.checkpoints.report import Report
from keras_legacy_opt.checkpoints.targets import Targets
from keras_legacy_opt.checkpoints.values import constant, readable
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.state import saving

_Located = Mapping[tuple[str, ...], Any]
_STATE = (
    contents.ITERATIONS,
    contents.HYPERPARAMETER,
    contents.LOSS_SCALE,
    contents.SLOT,
)


def match(file: Contents, targets: Targets, names: Any = None) -> Plan:
    """What goes where.

    Args:
      file: what was read.
      targets: the variables that may get a value.
      names: of TF1's variables, see `restore`.
    """
    plan = Plan(Report(file.path, file.format), targets)
    file, located = file.codec.locate(file, targets, names)
    for item in file.of(contents.MODEL):
        if item.path in located:
            plan.assign(item.value, located[item.path])
        else:
            plan.unused(item.value, file.codec.NO_PLACE)
    for told in file.mismatches:
        plan.mismatch(*told)
    if not targets.has_optimizer:
        for item in _state(file):
            if not item.reason:
                plan.unused(item.value, "no optimizer was given")
    elif file.is_of_another_optimizer:
        plan.mismatch(
            "optimizer",
            "optimizer",
            "was written by Keras' later optimizers (tf.keras.optimizers of"
            " 2.11 and up), not by a legacy one: see from_keras_3",
        )
        for item in _state(file):
            plan.unused(item.value, "of another optimizer")
    else:
        _match_optimizer(file, located, plan)
    for item in _without(file.items, file.in_order):
        if item.reason:
            plan.ignored(item.value, item.reason)
        elif item.kind == contents.OTHER:
            reason = "of another optimizer, or of a wrapper around one"
            plan.unused(item.value, reason)
    return plan


def _state(file: Contents) -> list[Item]:
    """What is of the optimizer, without what its configuration says."""
    of_config = set() if file.config is None else {contents.HYPERPARAMETER}
    found = [
        item
        for item in file.items
        if item.kind in _STATE and item.kind not in of_config
    ]
    return [*found, *_without(file.in_order, found)]


def _without(items: Iterable[Item], others: Iterable[Item]) -> list[Item]:
    others = {*others}
    return [item for item in items if item not in others]


def _match_optimizer(file: Contents, located: _Located, plan: Plan) -> None:
    children = plan.targets.optimizer_children
    state = _state(file)
    if file.config is not None:
        _match_config(file.config, plan)
    elif not file.has_hyperparameters:
        for variable in children.values():
            plan.not_expected(variable)
    elif state:
        _match_what_came_later(file, plan)
    targets = [_target(item, located, plan.targets) for item in state]
    if file.in_order and not in_order.are_clear(targets):
        in_order.match(file.in_order, plan)
        return
    for item, target in zip(state, targets, strict=True):
        if target is not None:
            plan.assign(item.value, target)
        elif _is_epsilon(item, plan.targets.optimizer):
            _compare_epsilon(item, plan)
        else:
            plan.unused(item.value, _why_not(item, located, plan.targets))


def _target(item: Item, located: _Located, targets: Targets) -> Any | None:
    name = item.path[-1]
    if item.kind == contents.SLOT:
        variable = located.get(item.path)
        slots = {} if variable is None else targets.slots(variable)
        return slots.get(item.slot)
    if item.kind == contents.LOSS_SCALE:
        return targets.loss_scale.get(name)
    if item.kind == contents.OTHER:
        return None
    if item.kind == contents.ITERATIONS:
        name = f"{name[: name.rfind('/') + 1]}iter"
    return targets.optimizer_children.get(name)


def _why_not(item: Item, located: _Located, targets: Targets) -> str:
    """Why an item of the optimizer has no place in it."""
    optimizer, name = targets.optimizer, item.path[-1]
    kind = type(optimizer).__name__
    if item.kind == contents.LOSS_SCALE:
        return "the optimizer has no loss scale"
    if item.kind != contents.SLOT:
        if name in optimizer._hyper:
            return f"{name} of this optimizer is a schedule, tensor or callable"
        return f"{kind} has no {name!r}: another optimizer's file?"
    variable = located.get(item.path)
    if variable is None:
        return "its variable is not in the model"
    slots = optimizer.get_slot_names()
    if targets.slots(variable) or not slots:
        return (
            f"{kind} has no slot {item.slot!r} here (it has {slots}): another"
            " optimizer's file?"
        )
    return f"{targets.name(variable)} is not trainable here"


def _is_epsilon(item: Item, optimizer: Optimizer) -> bool:
    """Before TensorFlow 1.15, it was a variable."""
    return (
        item.kind == contents.HYPERPARAMETER
        and item.path[-1] == "epsilon"
        and hasattr(optimizer, "epsilon")
    )


def _compare_epsilon(item: Item, plan: Plan) -> None:
    own = plan.targets.optimizer.epsilon
    with readable(plan.report.path):
        stored = item.value.read().item()
    if np.float32(stored) == np.float32(own):
        plan.ignored(item.value, "is no variable here, and equal")
    else:
        told = f"{stored} in the file, {own} here"
        plan.mismatch(item.value.name, "optimizer/epsilon", told)


def _match_what_came_later(file: Contents, plan: Plan) -> None:
    """Plans the hyperparameters that the writer of the file did not have.

    Of a hyperparameter that was a tensor or a callable, a checkpoint has no
    value, either: only an equal one is taken for what that release meant.
    """
    targets = plan.targets
    stored = {item.path[-1] for item in file.of(contents.HYPERPARAMETER)}
    for name, default in releases.defaults(targets.optimizer).items():
        variable = targets.optimizer_children.get(name)
        if name in stored or variable is None:
            continue
        value = constant("", np.asarray(default, np.float32))
        (own,) = saving.fetch_all([variable])
        if own == np.asarray(default, own.dtype):
            note = (
                f"not in the file: releases without it computed as with {own}"
            )
            plan.assign(dataclasses.replace(value, note=note), variable)
        else:
            plan.not_expected(variable)
            plan.mismatch(
                "",
                targets.name(variable),
                f"not in the file; it is {own} here, but releases without it"
                f" computed as with {default}",
            )


def _match_config(stored: dict[str, Any], plan: Plan) -> None:
    """Plans the hyperparameters of a config, and compares the other options.

    Args:
      stored: {"class_name": ..., "config": {...}}.
      plan: has an optimizer.
    """
    layers = optimizers.layers(optimizers.without_loss_scale(stored))
    own = plan.targets.optimizers
    theirs = [optimizers.class_name(each) for each in layers]
    names = [type(each).__name__ for each in own]
    if list(map(str.lower, theirs)) != list(map(str.lower, names)):
        told = f"the file has {'('.join(theirs)}, not {'('.join(names)}"
        plan.mismatch("optimizer", "optimizer", told)
        return
    told_of = {
        name
        for layer, optimizer in zip(layers, own, strict=True)
        for name in _match_layer(layer, optimizer, plan)
    }
    for name, child in plan.targets.optimizer_children.items():
        if name not in told_of:
            plan.not_expected(child)


def _match_layer(
    stored: dict[str, Any], optimizer: Any, plan: Plan
) -> Iterable[str]:
    """Likewise, without what is inside; returns the names in the config."""
    config = releases.completed(optimizers.class_name(stored), stored["config"])
    children = plan.targets.optimizer_children
    own = optimizer.get_config()
    for name, option in config.items():
        source = f"optimizer_config/{name}"
        if name in children and isinstance(option, (bool, int, float)):
            dtype = children[name].dtype.as_numpy_dtype
            value = constant(source, np.asarray(option, dtype))
            plan.assign(value, children[name])
        elif name in own and name != "name" and not _same(option, own[name]):
            told = f"{_short(option)} in the file, {_short(own[name])} here"
            plan.mismatch(source, f"optimizer/{name}", told)
    return config.keys()


def _same(stored: Any, own: Any) -> bool:
    if isinstance(stored, dict) and isinstance(own, dict):
        try:
            return _schedule(stored) == _schedule(own)
        except Exception:  # Whatever a damaged configuration leads to.
            return False
    return stored == own or (
        isinstance(stored, float) and np.float32(stored) == np.float32(own)
        if isinstance(own, (int, float))
        else False
    )


def _schedule(config: dict[str, Any]) -> tuple[str, Any]:
    schedule = serialization.deserialize_schedule(config)
    return type(schedule).__name__, schedule.get_config()


def _short(option: Any) -> str:
    if isinstance(option, dict) and "class_name" in option:
        return str(option["class_name"])
    return repr(option)
