"""What is known of our classes: their slots, what of a config is stored.

All that the formats have to know of an optimizer is here, and in `releases`.
"""

from __future__ import annotations

import collections
import functools
import itertools
import re
from collections.abc import Collection, Sequence
from typing import Any

from keras_legacy_opt import hosts
from keras_legacy_opt.checkpoints import releases
from keras_legacy_opt.checkpoints.contents import (
    HYPERPARAMETER,
    ITERATIONS,
    SLOT,
    Around,
    Item,
)
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.rules.declared import DeclaredOptimizer

_LOSS_SCALE_OPTIMIZERS = ("LossScaleOptimizer", "LossScaleOptimizerV1")
# At least one of these is a variable of each.
OF_EACH = frozenset(["decay", "learning_rate"])
# Beside the slots, they are what `get_weights` has.
MOMENTUM_CACHE = "momentum_cache"
ACCUMULATED = "accumulated"
# What a MultiOptimizer calls those that it holds.
_MEMBER = re.compile("optimizer_[0-9]{1,9}")


def prefix_of(name: str, prefix: str) -> str:
    """How names of an optimizer begin that another one calls `name`.

    Args:
      name: what that one calls it.
      prefix: how names of that one begin.
    """
    return f"{prefix}{name}/" if _MEMBER.fullmatch(name) else prefix


def without_loss_scale(config: dict[str, Any]) -> dict[str, Any]:
    """Of a LossScaleOptimizer's class and config, those of the inner one."""
    while class_name(config) in _LOSS_SCALE_OPTIMIZERS:
        wrapper = config["config"]
        config = wrapper.get("inner_optimizer") or wrapper["optimizer"]
    return config


def layers(config: dict[str, Any]) -> list[dict[str, Any]]:
    """A class and config, and those of the optimizers inside wrappers."""
    inside = config["config"].get("optimizer")
    if not (isinstance(inside, dict) and "class_name" in inside):
        return [config]
    own = {k: v for k, v in config["config"].items() if k != "optimizer"}
    return [{**config, "config": own}, *layers(inside)]


def nested(config: dict[str, Any]) -> str:
    """The class in a configuration, and those inside: "Lookahead(Adam)"."""
    return _nested(list(map(class_name, layers(config))))


def _nested(names: Sequence[str]) -> str:
    return "(".join(names) + ")" * (len(names) - 1)


def names_in(nested: str) -> list[str]:
    """The classes that "Lookahead(Adam)" speaks of, from outside to inside."""
    return [name.strip() for name in nested.strip().rstrip(")").split("(")]


def around(config: dict[str, Any]) -> list[Around]:
    """The wrappers of a configuration, from outside to inside.

    Raises:
      CheckpointError: if one is none of this package.
    """
    found = []
    for layer in layers(config)[:-1]:
        name = class_name(layer)
        cls = hosts.public_class(name, Optimizer)
        if not getattr(cls, "_CHILD", None):
            raise CheckpointError(
                f"nothing is known of {name!r}, which is around the optimizer."
                " Restore the file in Python, with"
                " keras_legacy_opt.checkpoints.restore, and write that with"
                " keras_legacy_opt.checkpoints.save."
            )
        found.append(_around(cls))
    return found


def _around(cls: Any) -> Around:
    return Around(cls._CHILD, cls._SLOTS, cls._SCALARS)


def wrappers_with(
    slots: Collection[str], child: str | None = None
) -> dict[str, Around]:
    """{name: wrapper}, of the classes that may have some slots.

    Args:
      slots: names.
      child: what the optimizer inside is called, if that is known.
    """
    classes: list[Any] = list(hosts.public_classes(Optimizer))
    return {
        cls.__name__: _around(cls)
        for cls in classes
        if getattr(cls, "_CHILD", None)
        and {*slots} == {*cls._SLOTS}
        and child in (None, cls._CHILD)
    }


def nested_classes(
    wrappers: Sequence[Collection[str]], classes: Sequence[str]
) -> list[str]:
    """What an optimizer may be: for each wrapper some names, those inside."""
    return [_nested(names) for names in itertools.product(*wrappers, classes)]


def holds_several(config: dict[str, Any]) -> bool:
    """Whether a configuration is of several optimizers side by side."""
    return any("optimizer_specs" in each["config"] for each in layers(config))


def class_name(config: dict[str, Any]) -> str:
    """The class in a configuration, without the package it is registered in."""
    return config["class_name"].rpartition(">")[2]


def hyperparameters(config: dict[str, Any]) -> list[tuple[str, Any]]:
    """What of an optimizer's class and config becomes a variable of it."""
    inside = config["config"].get("optimizer")
    if isinstance(inside, dict) and "class_name" in inside:
        return hyperparameters(inside)  # A wrapper's own are no variables.
    cls = hosts.public_class(class_name(config), DeclaredOptimizer)
    if cls is None:
        return []
    rule = cls._declaration
    variables = {rule.called.get(name, name): name for name in rule.hypers}
    decay = getattr(cls, "_decay", None)  # Of one whose variables decay.
    if decay is not None and cls._is_checkpointed(decay):
        variables[decay] = decay
    stored = releases.completed(class_name(config), config["config"])
    return [
        (variables[name], number)
        for name, number in stored.items()
        if name in variables and isinstance(number, (int, float))
    ]


def classes_of(items: Sequence[Item], names: Collection[str]) -> Sequence[str]:
    """The class that an optimizer's slots and scalars speak of, or several.

    Args:
      items: of a file.
      names: what the optimizer may have been called.
    """
    kinds = {item.kind for item in items}
    if ITERATIONS not in kinds:
        return ()
    scalars = {i.path[-1] for i in items if i.kind == HYPERPARAMETER}
    slots = frozenset(item.slot for item in items if item.kind == SLOT)
    if MOMENTUM_CACHE in scalars:
        return ("Nadam",)
    found = _by_slots().get(slots, ())
    if not slots and "momentum" in scalars:
        found = ("SGD",)
    # An optimizer is called like its class, unless it was given a name.
    return [name for name in found if name in names] or found


@functools.cache
def _by_slots() -> dict[frozenset[str], list[str]]:
    """{slots: classes that declare them}, where nothing else tells them."""
    found = collections.defaultdict(list)
    for cls in hosts.public_classes(DeclaredOptimizer):
        rule = cls._declaration
        if not rule.also:
            for slots in {frozenset(each.slots) for each in rule.formulas()}:
                found[slots].append(cls.__name__)
    return {slots: names for slots, names in found.items() if slots}
