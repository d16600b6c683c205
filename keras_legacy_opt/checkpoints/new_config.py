"""A configuration for a file whose source has none."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from keras_legacy_opt import hosts
from keras_legacy_opt.checkpoints import contents, optimizers
from keras_legacy_opt.checkpoints.contents import Contents
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.rules.declared import DeclaredOptimizer
from keras_legacy_opt.state.variables import numbered


def made(
    file: Contents, optimizer: str, names_of: Mapping[tuple[str, ...], str]
) -> dict[str, Any]:
    """The class and config of an optimizer, with the hyperparameters stored.

    Args:
      file: what was read.
      optimizer: its class, and those inside: "Lookahead(Adam)".
      names_of: {path: name} of the model's weights.

    Raises:
      CheckpointError: if these are not the optimizers in the file, or it does
        not say which of them has which variables.
    """
    return _NewConfig(file, optimizer, names_of).of(
        optimizers.parsed(optimizer)
    )


_STATE = (contents.ITERATIONS, contents.HYPERPARAMETER, contents.SLOT)


def lacking(config: dict[str, Any]) -> list[str]:
    """What each optimizer has that its configuration lacks, as sentences.

    Args:
      config: a class and config, made of what a checkpoint holds.
    """
    return [
        f"Not in the source, and therefore as {part.class_name} has it by"
        f" default: {', '.join(options)}. If the old run had others, restore it"
        " in Python, with keras_legacy_opt.checkpoints.restore, into an"
        " optimizer that has them, and save the model."
        for part in optimizers.parts(optimizers.without_loss_scale(config))
        if (options := _defaults(part))
    ]


def _defaults(part: optimizers.Part) -> list[str]:
    """Options that a configuration lacks, as text; of others' classes, none."""
    cls: Any = hosts.public_class(part.registered, Optimizer)
    if cls is None:
        return []
    known = {*part.config["config"], *_NO_OPTIONS}
    return [
        f"{name}={option.default!r}"
        if option.default is not option.empty
        else f"{name}, which it cannot be made without"
        for name, option in inspect.signature(cls).parameters.items()
        if name not in known and option.kind is not option.VAR_KEYWORD
    ]


# Arguments that are no options: they name the optimizer, or those inside.
_NO_OPTIONS = frozenset(
    ["name", "optimizer", "optimizer_specs", "optimizers_and_layers"]
)


class _NewConfig:
    """What `made` has to know of the file, at each optimizer."""

    def __init__(
        self,
        file: Contents,
        optimizer: str,
        names_of: Mapping[tuple[str, ...], str],
    ):
        self._file = file
        self._optimizer = optimizer
        self._names_of = names_of
        self._used: set[str] = set()

    def of(
        self, named: optimizers.Named, way: contents.Way = ()
    ) -> dict[str, Any]:
        """The class and config of an optimizer, and of those inside it."""
        inside = self._file.inside(way)
        if len(inside) != len(named.inside):
            raise self._other_shape()
        self._check_class(optimizers.own_name(named.name), way, inside)
        name = named.name.rpartition(">")[2]
        if self._file.has_several:
            name = numbered(name, self._used)
            self._used.add(name)
        config: dict[str, Any] = {"name": name}
        configs = [
            self.of(*each) for each in zip(named.inside, inside, strict=True)
        ]
        if not inside:
            called = optimizers.variables_of(named.name)
            config |= {
                called.get(name, name): number
                for name, number in self._hyperparameters(way).items()
            }
        elif contents.is_member(inside[0][-1]):
            shares = self._shares(inside)
            config["optimizer_specs"] = [
                {"optimizer": each, "weights": share}
                for each, share in zip(configs, shares, strict=True)
            ]
        else:
            (config["optimizer"],) = configs
        return {"class_name": named.name, "config": config}

    def _hyperparameters(self, way: contents.Way) -> dict[str, Any]:
        return {
            item.path[-1]: item.value.read().item()
            for item in self._file.of(contents.HYPERPARAMETER)
            if item.owner == way and not optimizers.is_weight(item)
        }

    def _check_class(
        self, name: str, way: contents.Way, inside: Sequence[contents.Way]
    ) -> None:
        """Refuses a class that has other variables than the file."""
        cls: Any = hosts.public_class(name, Optimizer)
        several = bool(inside) and contents.is_member(inside[0][-1])
        items = [i for i in self._file.of(*_STATE) if i.owner == way]
        slots = {i.slot for i in items if i.kind == contents.SLOT}
        if several or name == optimizers.SEVERAL:
            fits = several and name == optimizers.SEVERAL
        elif inside:
            is_called = getattr(cls, "_CHILD", None) == inside[0][-1]
            fits = is_called and slots <= {*cls._SLOTS}
        elif issubclass(cls or object, DeclaredOptimizer):
            scalars, rule = {*self._hyperparameters(way)}, cls._declaration
            # Before TensorFlow 1.15, `epsilon` was a variable.
            known = {*optimizers.variables_of(name), *rule.options}
            has = [{*each.slots} for each in rule.formulas()]
            if not self._is_trained(way):
                has.append(set())
            fits = scalars <= known and slots in has
        else:  # Of classes of others, nothing is known.
            fits = not hasattr(cls, "_CHILD")
        if not fits:
            raise self._other_class(name, way, items)

    def _is_trained(self, way: contents.Way) -> bool:
        """Whether an optimizer has taken a step."""
        return any(
            item.value.read() > 0
            for item in self._file.of(contents.ITERATIONS)
            if item.owner == contents.counting(way)
        )

    def _other_class(
        self, name: str, way: contents.Way, items: Sequence[contents.Item]
    ) -> CheckpointError:
        told = {
            i.slot or i.path[-1] for i in items if i.kind != contents.ITERATIONS
        }
        where = f" under {'/'.join(way)}" if way else ""
        known = self._file.class_names or ["an unknown optimizer"]
        return CheckpointError(
            f"{self._file.path} does not hold what {name!r} has: it has"
            f" {sorted(told)}{where}, and by its variables it belongs to"
            f" {' or '.join(known)}. Say which with --optimizer. Received:"
            f" {self._optimizer!r}."
        )

    def _shares(self, ways: Sequence[contents.Way]) -> list[list[str]]:
        """The names of the variables that are under each of several.

        Their slots tell; what has none is under the only one that has none.
        """
        slots = self._file.of(contents.SLOT)
        paths = [
            {item.path for item in slots if item.owner[: len(way)] == way}
            for way in ways
        ]
        known = {path for each in paths for path in each}
        others = self._names_of.keys() - known
        slotless = [i for i, each in enumerate(paths) if not each]
        if others and len(slotless) > 1:
            raise CheckpointError(
                f"{self._file.path} does not say which variables are under"
                f" which of {['/'.join(ways[i]) for i in slotless]}, and HDF5"
                " files do. Load it in Python, and save the whole model."
            )
        if slotless:
            paths[slotless[0]] = others
        return [
            [name for path, name in self._names_of.items() if path in each]
            for each in paths
        ]

    def _other_shape(self) -> CheckpointError:
        said = f"say which with --optimizer, as in {self._example(())!r}."
        count = len(self._file.ways) - 1
        what = f"{count} wrappers around its optimizer"
        if self._file.has_several:
            what = f"{count} optimizers inside another one"
        return CheckpointError(
            f"{self._file.path} has {what}: {said} Received:"
            f" {self._optimizer!r}."
        )

    def _example(self, way: contents.Way) -> str:
        inside = self._file.inside(way)
        if not inside:
            return "Adam"
        several = contents.is_member(inside[0][-1])
        name = optimizers.SEVERAL if several else "MovingAverage"
        return f"{name}({', '.join(map(self._example, inside))})"
