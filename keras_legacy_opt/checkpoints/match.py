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
            reason = "of another optimizer, or which one's is not clear"
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
    state = _state(file)
    are_same = True
    if file.config is not None:
        are_same = _match_config(file, located, plan)
    elif not file.has_hyperparameters:
        for variable in plan.targets.optimizer_children.values():
            plan.not_expected(variable)
    elif state:
        _match_what_came_later(file, plan)
    build_for_slots(state, located, plan.targets)
    targets = [target(item, located, plan.targets) for item in state]
    is_one = are_same and not (file.has_several or plan.targets.has_several)
    if is_one and file.in_order and not in_order.are_clear(state, targets):
        in_order.match(file.in_order, plan)
        return
    for item, found in zip(state, targets, strict=True):
        if found is None:
            _match_homeless(item, located, plan)
        elif _is_elsewhere(file, item, found, plan.targets):
            told = (
                f"is of {item.prefix[:-1] or 'the optimizer'} in the file, but"
                " its variable is under"
                f" {plan.targets.owner_of(found)[:-1]} here"
            )
            plan.mismatch(item.value.name, plan.targets.name(found), told)
        else:
            plan.assign(item.value, found)


def _match_homeless(item: Item, located: _Located, plan: Plan) -> None:
    if _is_epsilon(item, plan.targets.optimizer):
        _compare_epsilon(item, plan)
    else:
        plan.unused(item.value, _why_not(item, located, plan.targets))


def _is_elsewhere(
    file: Contents, item: Item, slot: Any, targets: Targets
) -> bool:
    """Whether a slot is of another one of several optimizers than here."""
    return (
        item.kind == contents.SLOT
        and file.has_several
        and targets.has_several
        and item.prefix != targets.owner_of(slot)
    )


def build_for_slots(
    items: Iterable[Item], located: _Located, targets: Targets
) -> None:
    """Makes the slots of variables that were trained, and are frozen here.

    Args:
      items: of an optimizer.
      located: variables of the model, by their paths.
      targets: have an optimizer.
    """
    targets.build_for(
        located[item.path]
        for item in items
        if item.kind == contents.SLOT and item.path in located
    )


def target(item: Item, located: _Located, targets: Targets) -> Any | None:
    """The variable of the optimizer that an item is the value of.

    Args:
      item: of an optimizer.
      located: variables of the model, by their paths.
      targets: have an optimizer.
    """
    name = item.scalar_name
    if item.kind == contents.SLOT:
        variable = located.get(item.path)
        slots = {} if variable is None else targets.slots(variable)
        return slots.get(item.slot)
    if item.kind == contents.LOSS_SCALE:
        return targets.loss_scale.get(item.path[-1])
    if item.kind == contents.OTHER:
        return None
    if item.kind == contents.ITERATIONS:
        name = f"{item.prefix}iter"
    return targets.optimizer_children.get(name)


def _why_not(item: Item, located: _Located, targets: Targets) -> str:
    """Why an item of the optimizer has no place in it."""
    name = item.scalar_name
    kind = str(targets.named)
    if item.kind == contents.LOSS_SCALE:
        return "the optimizer has no loss scale"
    if item.kind == contents.OTHER:
        return "its name does not say which variable's or optimizer's it is"
    if item.kind != contents.SLOT:
        if any(
            name == f"{p}{h}" for p, o in targets.optimizers for h in o._hyper
        ):
            return f"{name} of this optimizer is a schedule, tensor or callable"
        return f"{kind} has no {name!r}: another optimizer's file?"
    variable = located.get(item.path)
    if variable is None:
        return "its variable is not in the model"
    slots = [n for _, o in targets.optimizers for n in o.get_slot_names()]
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
    stored = {item.scalar_name for item in file.of(contents.HYPERPARAMETER)}
    later = {
        f"{prefix}{name}": default
        for prefix, optimizer in targets.optimizers
        for name, default in releases.defaults(optimizer).items()
    }
    for name, default in later.items():
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


def _match_config(file: Contents, located: _Located, plan: Plan) -> bool:
    """Plans the hyperparameters of a config, and compares the other options.

    Of other classes, those parts that are in both.

    Returns:
      Whether the classes are the same.
    """
    assert file.config is not None
    stored = optimizers.without_loss_scale(file.config)
    theirs = {
        (contents.prefix(part.way), part.class_name.lower()): part
        for part in optimizers.parts(stored)
    }
    own = {
        (prefix, type(each).__name__.lower()): each
        for prefix, each in plan.targets.optimizers
    }
    are_same = list(theirs) == list(own)
    if not are_same:
        told = (
            f"the file has {optimizers.named(stored)}, not {plan.targets.named}"
        )
        plan.mismatch("optimizer", "optimizer", told)
    told_of = {
        f"{prefix}{name}"
        for prefix, kind in theirs.keys() & own.keys()
        for name in _match_part(
            theirs[prefix, kind].config, prefix, own[prefix, kind], plan
        )
    }
    _compare_shares(file, optimizers.shares(stored), located, plan)
    is_complete = file.has_several and file.of(contents.ITERATIONS)
    for name, child in plan.targets.optimizer_children.items():
        if are_same and name not in told_of and not is_complete:
            plan.not_expected(child)
    return are_same


def _compare_shares(
    file: Contents,
    shares: Mapping[contents.Way, Iterable[str]],
    located: _Located,
    plan: Plan,
) -> None:
    """Compares which variables are under which of several optimizers."""
    by_name: dict[str, list[Any]] = {}
    for item in file.of(contents.MODEL):
        found = located.get(item.path)
        by_name.setdefault(item.name, []).append(found)
    for way, names in shares.items():
        prefix = contents.prefix(way)
        for name in names:
            variables = by_name.get(name.removesuffix(":0"), [])
            here = [plan.targets.share_of(v) for v in variables]
            share = here[0] if len(here) == 1 else None
            if share is not None and not share.startswith(prefix):
                plan.mismatch(
                    f"optimizer_config/{prefix}weights",
                    plan.targets.name(variables[0]),
                    f"is under {share[:-1]} here",
                )


def _match_part(
    stored: dict[str, Any], prefix: str, optimizer: Any, plan: Plan
) -> Iterable[str]:
    """Likewise, without what is inside; returns the names in the config."""
    registered = optimizers.own_name(stored["class_name"])
    config = releases.completed(registered, stored["config"])
    children = plan.targets.optimizer_children
    own = optimizer.get_config()
    for name, option in config.items():
        source = f"optimizer_config/{prefix}{name}"
        child = children.get(f"{prefix}{name}")
        if child is not None and isinstance(option, (bool, int, float)):
            dtype = child.dtype.as_numpy_dtype
            value = constant(source, np.asarray(option, dtype))
            plan.assign(value, child)
        elif name in own and name != "name" and not _same(option, own[name]):
            told = f"{_short(option)} in the file, {_short(own[name])} here"
            plan.mismatch(source, f"optimizer/{prefix}{name}", told)
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
