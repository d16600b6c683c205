"""`.weights.h5` and `.keras` files.

Only Keras knows which of their numbered weights is which, so that it reads
those itself.  The optimizer's values have names; variables with slots are
numbered, and the file says what these are called.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_legacy_opt import hosts
from keras_legacy_opt.checkpoints import (
    contents,
    keras_3_levels,
    memory,
    optimizers,
    safe_hdf5,
)
from keras_legacy_opt.checkpoints import report as reports
from keras_legacy_opt.checkpoints.contents import Contents, Item
from keras_legacy_opt.checkpoints.places import places_of
from keras_legacy_opt.checkpoints.report import CheckpointError, Report
from keras_legacy_opt.checkpoints.sources import Source
from keras_legacy_opt.checkpoints.targets import Targets
from keras_legacy_opt.checkpoints.values import Value, readable
from keras_legacy_opt.hosts import loading, model_parts
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.state import saving, slot_numbers

FORMAT = "Keras 3 HDF5"
_ARCHIVE = "Keras .keras archive"
_OF_KERAS_3 = ("optimizer", "vars")
_LOSS_SCALE = frozenset(["current_loss_scale", "good_steps"])


def detect(source: Source) -> bool:
    """Whether it is an archive, or HDF5 with the groups of Keras 3."""
    return source.is_archive or (
        source.is_hdf5
        and bool({"layers", "vars", "optimizer"} & {*source.hdf5})
    )


def optimizer_config(source: Source) -> dict[str, Any] | None:
    """The class and config of the optimizer, if the model was compiled."""
    if not source.is_archive:
        return None
    model = source.json("config.json")
    return (model.get("compile_config") or {}).get("optimizer")


def model_config(source: Source) -> tuple[dict[str, Any] | None, Any]:
    """(configuration of the model, version of the Keras that wrote it)."""
    if not source.is_archive:
        return None, "3."
    config = source.json("config.json")
    return config, source.json("metadata.json")["keras_version"]


# Reading.


def read(source: Source) -> Contents:
    """What is in the file; its weights are only numbered."""
    config = optimizer_config(source)
    inner = config and optimizers.without_loss_scale(config)
    stored = _Stored(source.hdf5, inner)
    file = Contents(
        source.path,
        FORMAT if config is None else _ARCHIVE,
        stored.items(),
        config=config,
        ways=[*stored.levels.values()],
        obstacle=stored.obstacle,
        source=(source, stored),
    )
    if inner:
        file.class_names = [str(optimizers.named(inner))]
    else:
        file.class_names = optimizers.judged(file)
    others = file.of(contents.OTHER)
    if any(item.path[:-1] in stored.levels for item in others):
        classes = file.class_names or ["one"]
        file.class_names = [f"{name} of Keras 3" for name in classes]
        file.is_of_another_optimizer = True
    elif others:
        file.obstacle = contents.SEVERAL
    return file


class _Stored:
    """An open file of weights, with what it says of the optimizer's.

    Attributes:
      levels: {where variables of an optimizer are: way to it}.
      obstacle: why these are not known, if they are not.
      names: of the variables that have slots, by level and number.
      paths: the same as paths in the model, or `None`.
    """

    def __init__(self, file: Any, config: dict[str, Any] | None):
        self._file = file
        levels = keras_3_levels.of_file(file, config)
        self.levels, self.obstacle = levels.ways, levels.obstacle
        self.names: dict[tuple[str, ...], list[str]] = {}
        self.paths: dict[tuple[str, ...], Any] = {}
        for level in self.levels:
            about = file.get("/".join(level), {})
            names, paths = (
                about.get(name)
                for name in (saving.VARIABLE_NAMES, saving.VARIABLE_PATHS)
            )
            self.names[level] = []
            if names is not None:
                self.names[level] = bytes(names[()]).decode().split("\n")
            self.paths[level] = None if paths is None else paths[()]

    def items(self) -> list[Item]:
        """The values, all of which must be numbers."""
        result: list[Item] = []

        def visit(name: str, node: Any) -> None:
            about = tuple(
                f"/{each}"
                for each in (
                    saving.VARIABLE_NAMES,
                    saving.VARIABLE_PATHS,
                    saving.CLASSES,
                )
            )
            if hasattr(node, "shape") and not name.endswith(about):
                result.append(self._item(name, safe_hdf5.value(name, node)))

        self._file.visititems(visit)
        return result

    def _item(self, name: str, value: Value) -> Item:
        parts = tuple(name.split("/"))
        if parts[:-1] in self.levels:
            return self._of_optimizer(parts, value, name)
        kind, path, reason = contents.MODEL, parts, ""
        if parts[0] == "metrics":
            kind = contents.FOREIGN
            reason = "a metric's state, which every epoch resets"
        elif parts[0] == "optimizer" and parts[-1] in _LOSS_SCALE:
            kind, path = contents.LOSS_SCALE, parts[-1:]
        elif parts[:2] == _OF_KERAS_3 and parts[-1].isdigit():
            kind, reason = contents.FOREIGN, "is of Keras 3's optimizer around"
        elif parts[0] == "optimizer":
            kind = contents.OTHER
        return Item(kind, path, value, name=name, reason=reason)

    def _of_optimizer(
        self, parts: tuple[str, ...], value: Value, name: str
    ) -> Item:
        last, way = parts[-1], self.levels[parts[:-1]]
        slot, _, number = last.rpartition(".")
        if slot:
            path = (self._name(parts[:-1], int(number)),)
            return Item(contents.SLOT, path, value, slot, owner=way)
        if last.isdigit():
            return Item(contents.OTHER, parts, value, name=name)
        kind = contents.HYPERPARAMETER
        if last == "iter" and way != contents.counting(way):
            reason = "is that of the wrapper around"
            return Item(contents.FOREIGN, parts, value, reason=reason)
        if last == "iter":
            kind = contents.ITERATIONS
        elif last in _LOSS_SCALE:
            kind = contents.LOSS_SCALE
        return Item(kind, (last,), value, owner=way)

    def _name(self, level: tuple[str, ...], number: int) -> str:
        if number < len(self.names[level]):
            return self.names[level][number]
        return f"variable {number}"


# Reading into a model.


def check_target(path: str, model: Any, optimizer: Optimizer | None) -> None:
    """Raises CheckpointError unless a Keras can read a file into it."""
    if not hasattr(type(model), "load_weights"):
        raise CheckpointError(
            f"{path} holds a model of Keras: pass the model to restore it into."
            f" Received: model={model!r}."
        )
    own = getattr(model, "optimizer", None)
    inner = getattr(own, "inner_optimizer", own)
    if optimizer is not None and optimizer is not inner:
        raise CheckpointError(
            f"{path} is read by model.load_weights, for the optimizer that the"
            " model was compiled with: compile it with this one."
        )


def restore(
    source: Source, model: Any, optimizer: Optimizer | None, strict: bool
) -> Report:
    """Lets the Keras of the model read the file: all of it, or nothing.

    Args:
      source: the open file.
      model: the model.
      optimizer: its optimizer, if that is to be restored.
      strict: see `restoring.restore`.

    Raises:
      CheckpointError: if the file does not fit, or holds no state of the
        optimizer and `strict`.
    """
    path = source.path
    check_target(path, model, optimizer)
    targets = Targets(model, optimizer)
    if optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)  # One around it.
    variables = [*targets.all(), *targets.loss_scale.values()]
    before = saving.fetch_all(variables)
    try:
        with loading.of_everything() as told:
            load(source, model, strict)
    except Exception as error:  # Whatever Keras says of a damaged file.
        saving.assign_all(variables, before)
        raise CheckpointError(
            f"{path} is damaged, or does not fit the model or its optimizer."
            f" Nothing was changed. The reader said: {error}"
        ) from error
    report = Report(path, FORMAT)
    for variable in variables:
        name, shape = targets.name(variable), tuple(variable.shape)
        what = told.get(id(variable))
        is_left = what == loading.LEFT
        status = reports.MISSING if is_left else reports.RESTORED
        note = "" if what is None else f"not in the file: {what}"
        report.add(status, "", name, shape, note)
    return report


def load(source: Source, model: Any, strict: bool) -> None:
    """Lets the Keras of the model read the file.

    That leaves the optimizer as it is, unless `loading.of_everything`.
    """
    source.check()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.load_weights(source.weights_file, skip_mismatch=not strict)
    said = [str(warning.message) for warning in caught]
    if strict:
        for message in said:
            if saving.NO_STATE in message:
                raise CheckpointError(message)
    for message in said:
        if saving.SKIPPED not in message:
            warnings.warn(message, stacklevel=4)


def locate(
    file: Contents, targets: Targets, names: Any = None
) -> tuple[Contents, dict[tuple[str, ...], Any]]:
    """The file without weights of the model, and the variables with slots."""
    del names
    others = [item for item in file.items if item.kind != contents.MODEL]
    items, located = _with_variables(file, others, targets.model)
    return dataclasses.replace(file, items=items), located


def has_other_form(file: Contents, targets: Targets) -> bool:
    """Whether its optimizer, and those inside, have other slots than here.

    Or another one has a loss scale around it.  A Keras wants the same.  What is
    none of ours is left to it.
    """
    state = file.of(contents.ITERATIONS, contents.HYPERPARAMETER, contents.SLOT)
    is_known = not (file.is_of_another_optimizer or file.obstacle)
    if not (state and is_known and targets.are_clear):
        return False
    stored: dict[str, list[set[str]]] = {}
    for way in file.ways:
        own = {i.slot for i in state if i.slot and i.owner == way}
        stored.setdefault(contents.prefix(way), []).append(own)
    here: dict[str, list[set[str]]] = {}
    for prefix, each in targets.optimizers:
        here.setdefault(prefix, []).append({*each.get_slot_names()})
    counts = [{k: len(v) for k, v in each.items()} for each in (stored, here)]
    has_slots = any(item.slot for item in state)
    _, about = file.source
    is_scaled = "inner_optimizer" in next(iter(about.levels))
    return (
        counts[0] != counts[1]
        or (has_slots and stored != here)
        or is_scaled != hasattr(targets.model.optimizer, "inner_optimizer")
    )


# Converting.


def unsaid(file: Contents, to_h5: bool) -> str | None:
    """What only the model's architecture tells."""
    return "what its weights are called"


def place(
    file: Contents, model: Any, folder: str
) -> tuple[Contents, dict[tuple[str, ...], Any]]:
    """The file with its weights, and {path: variable of a model}.

    Args:
      file: what `read` returned.
      model: from `architecture.model_of`.
      folder: for a temporary file, which the weights are read from.

    Raises:
      CheckpointError: if they do not fit each other.
    """
    weights = _spooled(file, model, folder)
    others = [item for item in file.items if item.kind != contents.MODEL]
    items, located = _with_variables(file, others, model)
    for variable, value in weights:
        path = (value.name,)
        located[path] = variable
        items.append(Item(contents.MODEL, path, value))
    return dataclasses.replace(file, items=items), located


def _with_variables(
    file: Contents, items: Sequence[Item], model: Any
) -> tuple[list[Item], dict[tuple[str, ...], Any]]:
    """Items, slots of which have other paths; {path: variable of a model}."""
    _, stored = file.source
    numbered = {
        level: _variables_with_slots(file, model, level)
        for level in stored.levels
    }
    result: list[Item] = []
    located: dict[tuple[str, ...], Any] = {}
    for item in items:
        if item.kind == contents.SLOT:
            *level, slot = item.value.name.split("/")
            number = int(slot.rpartition(".")[2])
            path = (*level, f"slots.{number}")
            variables = numbered[tuple(level)]
            if number < len(variables):
                located[path] = variables[number]
            item = dataclasses.replace(item, path=path)
        result.append(item)
    return result, located


def _spooled(
    file: Contents, model: Any, folder: str
) -> list[tuple[Any, Value]]:
    """(variable, value) of the weights, by way of a file of their own."""
    import h5py

    source, _ = file.source
    spool = h5py.File(os.path.join(folder, "spool.h5"), "w")
    found: dict[str, Any] = {}
    names = {
        id(hosts.unwrap(weight)): "/".join(path)
        for path, weight in model_parts.reached(model)
    }

    def take(variable: Any, value: np.ndarray) -> None:
        name = names.get(id(variable))
        if name is None:
            return  # The seed of random numbers.
        if name in found:  # A layer may load its weights once more.
            del spool[name]
        memory.give_back(value.nbytes)
        spool[name] = value
        found[name] = variable

    _each_weight(model, source.weights_file, file.path, take)
    return [(v, safe_hdf5.value(n, spool[n])) for n, v in found.items()]


def _each_weight(
    model: Any,
    weights_file: str,
    path: str,
    take: Callable[[Any, np.ndarray], None],
) -> None:
    """Lets Keras 3 read a file into a model without values, one by one.

    Args:
      model: from `architecture.model_of`.
      weights_file: a `.weights.h5` file.
      path: the file that it is from, for messages.
      take: function of a variable and the value that it would have got.

    Raises:
      CheckpointError: if the model is not of Keras 3, or the file unfit.
    """
    keras = importlib.import_module("keras")
    if not isinstance(model, keras.Model):
        raise CheckpointError(
            f"{path}: only Keras 3 tells which weight is which in such a file,"
            " and the architecture is one of tf_keras. If the file is, too,"
            " load it with tf_keras.models.load_model, and write it with"
            " keras_legacy_opt.checkpoints.save."
        )

    for variable in model.variables:
        variable.assign = functools.partial(_told, variable, take)
    with readable(path):
        model.load_weights(weights_file)


def _told(
    variable: Any, take: Callable[[Any, np.ndarray], None], value: Any
) -> None:
    """Stands for `variable.assign(value)`."""
    value = np.asarray(value)
    if value.nbytes <= memory.SMALL:
        type(variable).assign(variable, value)
    take(hosts.unwrap(variable), value)


def _variables_with_slots(
    file: Contents, model: Any, level: tuple[str, ...]
) -> list[Any]:
    """The variables that have slots, by number; `None` if it is not here."""
    _, stored = file.source
    names = stored.names[level]
    weights = slot_numbers.at_paths(
        stored.paths[level], model_parts.weights_by_path(model), len(names)
    )
    if weights is not None:
        return [hosts.unwrap(weight) for weight in weights]
    places = places_of(model)
    trained = {key: place for key, place in places.items() if place.trainable}
    variables = {id(v): v for v in map(hosts.unwrap, model.weights)}
    for candidates in (places, trained):  # Some may have been frozen since.
        try:
            numbers = slot_numbers.numbers_here(
                names, [place.name for place in candidates.values()]
            )
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        if numbers is not None:
            here = [variables[key] for key in candidates]
            return [None if n is None else here[n] for n in numbers]
    return [variables[key] for key in trained]
