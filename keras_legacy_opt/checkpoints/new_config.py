"""A configuration for a file whose source has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_legacy_opt.checkpoints import contents, optimizers
from keras_legacy_opt.checkpoints.contents import Contents
from keras_legacy_opt.checkpoints.report import CheckpointError
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
        name = named.name
        if self._file.has_several:
            name = numbered(name, self._used)
            self._used.add(name)
        config: dict[str, Any] = {"name": name}
        configs = [
            self.of(*each) for each in zip(named.inside, inside, strict=True)
        ]
        if not inside:
            config |= self._hyperparameters(way)
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
