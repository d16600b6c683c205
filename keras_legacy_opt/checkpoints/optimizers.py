"""What is known of our classes: their slots, what of a config is stored.

All that the formats have to know of an optimizer is here, and in `releases`.
"""

from __future__ import annotations

import collections
import functools
import itertools
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from keras_legacy_opt import hosts
from keras_legacy_opt.checkpoints import releases
from keras_legacy_opt.checkpoints.contents import (
    HYPERPARAMETER,
    ITERATIONS,
    SLOT,
    Contents,
    Item,
    Way,
    counting,
    is_member,
)
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.rules.declared import DeclaredOptimizer

# Under which our classes are registered, and tensorflow_addons' were.
_PACKAGES = (hosts.PACKAGE, "Addons")
_LOSS_SCALE_OPTIMIZERS = ("LossScaleOptimizer", "LossScaleOptimizerV1")
# At least one of these is a variable of each.
OF_EACH = frozenset(["decay", "learning_rate"])
# Beside the slots, they are what `get_weights` has.
MOMENTUM_CACHE = "momentum_cache"
ACCUMULATED = "accumulated"
SEVERAL = "MultiOptimizer"
# Of the combinations of classes that an optimizer and those inside it may be.
_MOST_COMBINATIONS = 100
# What a MultiOptimizer's configuration has instead of an optimizer inside.
_SPECS = "optimizer_specs"
_STATE = (ITERATIONS, HYPERPARAMETER, SLOT)


class Part(NamedTuple):
    """An optimizer in a configuration.

    Attributes:
      way: to it.
      config: its class and configuration, without those inside.
    """

    way: Way
    config: dict[str, Any]

    @property
    def class_name(self) -> str:
        """Its class."""
        return class_name(self.config)

    @property
    def registered(self) -> str:
        """Its class, see `own_name`."""
        return own_name(self.config["class_name"])

    @property
    def name(self) -> Any:
        """What it was called."""
        return self.config["config"].get("name")


class Named(NamedTuple):
    """The class of an optimizer, and those of the optimizers inside it."""

    name: str
    inside: Sequence[Named] = ()

    def __str__(self) -> str:
        inside = ", ".join(map(str, self.inside))
        return f"{self.name}({inside})" if inside else self.name


def without_loss_scale(config: dict[str, Any]) -> dict[str, Any]:
    """Of a LossScaleOptimizer's class and config, those of the inner one."""
    while class_name(config) in _LOSS_SCALE_OPTIMIZERS:
        wrapper = config["config"]
        config = wrapper.get("inner_optimizer") or wrapper["optimizer"]
    return config


def inside(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{name: class and config} of the optimizers that one holds itself."""
    specs = config["config"].get(_SPECS)
    if specs is not None:
        return {
            f"optimizer_{i}": spec["optimizer"] for i, spec in enumerate(specs)
        }
    inner = config["config"].get("optimizer")
    if not (isinstance(inner, dict) and "class_name" in inner):
        return {}
    cls = hosts.public_class(own_name(config["class_name"]), Optimizer)
    return {getattr(cls, "_CHILD", None) or "optimizer": inner}


def parts(config: dict[str, Any], way: Way = ()) -> list[Part]:
    """The optimizer of a class and config, and those inside it."""
    held = inside(config)
    left_out = {_SPECS, "optimizer"} if held else set()
    own = {k: v for k, v in config["config"].items() if k not in left_out}
    found = [Part(way, {**config, "config": own})]
    for name, each in held.items():
        found += parts(each, (*way, name))
    return found


def are_several(of_config: Sequence[Part]) -> bool:
    """Whether some of the optimizers of a configuration are side by side."""
    return any(is_member(name) for part in of_config for name in part.way)


def shares(config: dict[str, Any], way: Way = ()) -> dict[Way, list[str]]:
    """{way: names of its variables} of optimizers that have some of their own.

    Args:
      config: a class and config.
      way: to that.
    """
    found: dict[Way, list[str]] = {}
    specs = config["config"].get(_SPECS) or [{}]
    held = inside(config).items()
    for spec, (name, each) in zip(specs, held, strict=False):
        if "weights" in spec:
            found[(*way, name)] = list(spec["weights"])
        found |= shares(each, (*way, name))
    return found


def named(config: dict[str, Any]) -> Named:
    """The class in a configuration, and those inside: "Lookahead(Adam)"."""
    held = inside(config).values()
    return Named(class_name(config), [named(each) for each in held])


def parsed(text: str) -> Named:
    """The classes that "MultiOptimizer(Lookahead(Adam), SGD)" speaks of.

    Raises:
      CheckpointError: if it is nothing like that.
    """
    tokens = re.findall(r"[(),]|[^(),\s]+", text)

    def parse() -> Named:
        name = tokens.pop(0)
        inside = []
        if name in "(),":
            raise ValueError("A name is missing.")
        while tokens and tokens[0] == ("," if inside else "("):
            tokens.pop(0)
            inside.append(parse())
        if inside and tokens.pop(0) != ")":
            raise ValueError("It is not closed.")
        return Named(name, inside)

    try:
        found = parse()
    except (IndexError, ValueError):
        found = None
    if found is None or tokens:
        raise CheckpointError(
            "An optimizer is given by its class, with those inside in"
            f" parentheses, as in 'MovingAverage(Adam)'. Received: {text!r}."
        )
    return found


def check_known(config: dict[str, Any]) -> None:
    """Raises CheckpointError if a wrapper is none of this package."""
    name, held = own_name(config["class_name"]), inside(config)
    cls = hosts.public_class(name, Optimizer)
    if held and _SPECS not in config["config"] and not hasattr(cls, "_CHILD"):
        raise CheckpointError(
            f"nothing is known of {name!r}, which is around the optimizer."
            " Restore the file in Python, with"
            " keras_legacy_opt.checkpoints.restore, and write that with"
            " keras_legacy_opt.checkpoints.save."
        )
    for each in held.values():
        check_known(each)


def owner(
    of_config: Sequence[Part], start: Way, kind: str, name: str
) -> Way | None:
    """The way to the optimizer that has something, or `None` if it is unclear.

    Args:
      of_config: a configuration.
      start: the way to it, or to a wrapper around it.
      kind: what it is, see `contents`.
      name: of a slot or a scalar.
    """
    if kind == ITERATIONS:
        return counting(start)
    inside = [p.way for p in of_config if p.way and p.way[:-1] == start]
    (part,) = (p for p in of_config if p.way == start)
    cls = hosts.public_class(part.registered, Optimizer)
    names = getattr(cls, "_SLOTS" if kind == SLOT else "_SCALARS", ())
    if not inside or name in names:
        return start
    if len(inside) > 1:
        return None
    return owner(of_config, inside[0], kind, name)


def wrappers_with(
    slots: Collection[str], child: str | None = None
) -> dict[str, str]:
    """{name: what it calls the one inside} of wrappers that have some slots.

    Args:
      slots: names.
      child: what the optimizer inside is called, if that is known.
    """
    classes: list[Any] = list(hosts.public_classes(Optimizer))
    return {
        cls.__name__: cls._CHILD
        for cls in classes
        if getattr(cls, "_CHILD", None)
        and {*slots} == {*cls._SLOTS}
        and child in (None, cls._CHILD)
    }


def class_name(config: dict[str, Any]) -> str:
    """The class in a configuration, without the package it is registered in."""
    return config["class_name"].rpartition(">")[2]


def own_name(registered: str) -> str:
    """A class as it is registered, without our package.

    That of another package is none of ours, even if it is called so.

    >>> from keras_legacy_opt.checkpoints import optimizers
    >>> optimizers.own_name("keras_legacy_opt>Adam")
    'Adam'
    >>> optimizers.own_name("Another>Adam")
    'Another>Adam'
    """
    package, _, name = registered.rpartition(">")
    return name if package in _PACKAGES else registered


def hyperparameters(config: dict[str, Any]) -> list[tuple[Way, str, Any]]:
    """What of an optimizer's class and config becomes a variable.

    Args:
      config: with those inside; a wrapper's own are no variables.

    Returns:
      (way to the optimizer that has it, its name, number).
    """
    return [
        (part.way, name, number)
        for part in parts(config)
        for name, number in _own_hyperparameters(part.config)
    ]


def _own_hyperparameters(config: dict[str, Any]) -> list[tuple[str, Any]]:
    name = own_name(config["class_name"])
    variables = {called: own for own, called in variables_of(name).items()}
    stored = releases.completed(name, config["config"])
    kept = releases.hyperparameters(name, stored)
    return [
        (variables[name], kept.get(variables[name], number))
        for name, number in stored.items()
        if name in variables and isinstance(number, (int, float))
    ]


def variables_of(class_name: str) -> dict[str, str]:
    """{hyperparameter that becomes a variable: what configurations call it}.

    Args:
      class_name: of an optimizer; of other classes than ours, nothing is known.
    """
    cls = hosts.public_class(own_name(class_name), DeclaredOptimizer)
    if cls is None:
        return {}
    rule = cls._declaration
    variables = {name: rule.called.get(name, name) for name in rule.hypers}
    decay = getattr(cls, "_decay", None)  # Of one whose variables decay.
    if decay is not None and cls._is_checkpointed(decay):
        variables[decay] = decay
    return variables


def judged(file: Contents, way: Way = ()) -> list[str]:
    """What an optimizer may be, with those inside it, by their variables."""
    ways = file.inside(way)
    inside = [judged(file, each) for each in ways]
    items = [i for i in file.of(*_STATE) if i.owner == way]
    if not ways:
        names = _classes_of(file, way, items)
    elif is_member(ways[0][-1]):
        names = [SEVERAL]
    else:
        slots = {item.slot for item in items if item.kind == SLOT}
        names = [*wrappers_with(slots, ways[0][-1])]
    found = itertools.product(names, *inside)
    return [
        f"{name}({', '.join(each)})" if each else name
        for name, *each in itertools.islice(found, _MOST_COMBINATIONS)
    ]


def is_weight(item: Item) -> bool:
    """Whether a scalar of an optimizer is among `get_weights`, if no count."""
    return item.kind == HYPERPARAMETER and item.path[-1] in (
        MOMENTUM_CACHE,
        ACCUMULATED,
    )


def _classes_of(
    file: Contents, way: Way, items: Sequence[Item]
) -> Sequence[str]:
    """The class that an optimizer's slots and scalars speak of, or several.

    Args:
      file: what was read.
      way: to the optimizer.
      items: of it.
    """
    if not any(i.owner == counting(way) for i in file.of(ITERATIONS)):
        return ()
    names = [i.name for i in items if not i.slot and "/" in i.name]
    called = {re.sub("_[0-9]+$", "", name.split("/")[-2]) for name in names}
    scalars = {i.path[-1] for i in items if i.kind == HYPERPARAMETER}
    slots = frozenset(item.slot for item in items if item.kind == SLOT)
    if MOMENTUM_CACHE in scalars:
        return ("Nadam",)
    found = _by_slots().get(slots, ())
    if not slots and "momentum" in scalars:
        found = ("SGD",)
    # An optimizer is called like its class, unless it was given a name.
    return [name for name in found if name in called] or found


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
