"""Whole-model HDF5 files of Keras 2 (and 1): `model.save("model.h5")`."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_legacy_opt import hosts
from keras_legacy_opt.checkpoints import (
    contents,
    hdf5_output,
    optimizers,
    safe_hdf5,
)
from keras_legacy_opt.checkpoints.contents import Contents, Item
from keras_legacy_opt.checkpoints.keras_2_paths import (
    LAYER,
    in_model,
    is_attribute,
)
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.checkpoints.sources import Source
from keras_legacy_opt.checkpoints.targets import Targets
from keras_legacy_opt.checkpoints.values import Value
from keras_legacy_opt.hosts import model_parts

FORMAT = "Keras 2 HDF5"
NO_PLACE = "the model has no such weight"
_CONFIG = "optimizer_config"
_ATTRIBUTE_BYTES = 64512  # As Keras splits longer ones.
_OF_KERAS_3_LOSS_SCALE = re.compile(
    "loss_scale_optimizer(_[0-9]+)?/"
    "(iteration|learning_rate|step_counter|dynamic_scale)"
)
_NOT_WRITTEN = (contents.LOSS_SCALE, contents.OTHER, contents.FOREIGN)
# No variable of Keras is in so many scopes.
_DEEPEST = 100
# What Keras 1 and TF1 called any variable.
_NAMELESS = re.compile("Variable(_[0-9]+)?")


def detect(source: Source) -> bool:
    """Whether it is Keras 2's, not Keras 3's `.weights.h5`."""
    return source.is_hdf5 and "layer_names" in _model_group(source.hdf5).attrs


def optimizer_config(source: Source) -> dict[str, Any] | None:
    """The class and config of the optimizer, if the model was compiled."""
    config = source.hdf5.attrs.get("training_config")
    return None if config is None else json.loads(config).get(_CONFIG)


def model_config(source: Source) -> tuple[dict[str, Any] | None, Any]:
    """(configuration of the model, version of the Keras that wrote it)."""
    config = source.hdf5.attrs.get("model_config")
    if config is not None:
        config = source.limits.json(config, "the architecture")
    return config, _text(source.hdf5.attrs.get("keras_version", "2."))


# Attributes.


def _model_group(file: Any) -> Any:
    """The group of the model's weights, in whole-model and weights files."""
    return file["model_weights"] if "model_weights" in file else file


def names(group: Any, attribute: str) -> list[str]:
    """A list of strings in an attribute; long ones are split in chunks."""
    chunks = [attribute] if attribute in group.attrs else []
    while f"{attribute}{len(chunks)}" in group.attrs:
        chunks.append(f"{attribute}{len(chunks)}")
    return [_text(name) for chunk in chunks for name in group.attrs[chunk]]


def _set_names(group: Any, attribute: str, values: Sequence[str]) -> None:
    """Writes what `names` reads; HDF5 has no attributes beyond 64 kB."""
    encoded = [value.encode() for value in values]
    size = max(1, _ATTRIBUTE_BYTES // max(map(len, encoded), default=1))
    if len(encoded) <= size:
        group.attrs[attribute] = encoded
        return
    for i, start in enumerate(range(0, len(encoded), size)):
        group.attrs[f"{attribute}{i}"] = encoded[start : start + size]


def _text(attribute: Any) -> str:
    """A string in an attribute, of either kind."""
    if isinstance(attribute, bytes):
        return attribute.decode()
    return str(attribute)


# Reading.


def read(source: Source) -> Contents:
    """What is in the file."""
    config = optimizer_config(source)
    weights = list(_weights(source.hdf5))
    state = _state(source.hdf5, weights)
    in_order = [item for item in state if not item.reason]
    items = [*weights, *state]
    class_names, around, wrapped = [], [], ""
    if config:
        inner = optimizers.without_loss_scale(config)
        class_names = [optimizers.nested(inner)]
        around, wrapped = _around(inner)
        items += map(_hyperparameter, optimizers.hyperparameters(inner))
    nameless = [item for item in in_order if item.kind == contents.OTHER]
    obstacle = (
        f"the names of {len(nameless)} weights of the optimizer"
        f" ({nameless[0].name!r}, ...) do not say what they are. Restore it in"
        " Python, where their order tells, with"
        " keras_legacy_opt.checkpoints.restore, and write that with"
        " keras_legacy_opt.checkpoints.save."
        if nameless
        else ""
    )
    return Contents(
        source.path,
        FORMAT,
        items,
        class_names,
        config=config,
        has_hyperparameters=config is not None,
        in_order=in_order,
        around=around,
        obstacle=wrapped or obstacle,
    )


def _around(config: dict[str, Any]) -> tuple[list[contents.Around], str]:
    """The wrappers of a configuration; what hinders a conversion."""
    if optimizers.holds_several(config):
        return [], contents.SEVERAL
    try:
        return optimizers.around(config), ""
    except CheckpointError as error:
        return [], str(error)


def _weights(file: Any) -> Iterator[Item]:
    """The model's weights, layer by layer."""
    group = _model_group(file)
    for layer in [*names(group, "layer_names"), "top_level_model_weights"]:
        if layer not in group:
            continue
        for stored in names(group[layer], "weight_names"):
            name = stored.removesuffix(":0")
            value = safe_hdf5.value(f"{layer}/{stored}", group[layer][stored])
            path = (layer, *name.removeprefix(f"{layer}/").split("/"))
            yield Item(contents.MODEL, path, value, name=name, layer=layer)


def state(source: Source) -> list[Item]:
    """All weights of the optimizer, in the order of `get_weights`."""
    return _state(source.hdf5, list(_weights(source.hdf5)))


def _state(file: Any, weights: Sequence[Item]) -> list[Item]:
    """The optimizer's weights, in the order of `get_weights`."""
    if "optimizer_weights" not in file:
        return []
    group = file["optimizer_weights"]
    by_name: dict[str, list[Item]] = {}
    for item in weights:
        by_name.setdefault(item.name, []).append(item)
    state = [
        _weight_of_optimizer(safe_hdf5.value(name, group[name]), by_name)
        for name in names(group, "weight_names")
    ]
    count = collections.Counter((item.path, item.slot) for item in state)
    return [
        dataclasses.replace(item, kind=contents.OTHER)
        if item.kind == contents.SLOT and count[item.path, item.slot] > 1
        else item
        for item in state
    ]


def _weight_of_optimizer(
    value: Value, by_name: Mapping[str, Sequence[Item]]
) -> Item:
    whole = value.name.removesuffix(":0")
    if _OF_KERAS_3_LOSS_SCALE.fullmatch(value.name):
        return Item(
            contents.FOREIGN,
            (whole,),
            value,
            name=whole,
            reason="is of Keras 3's LossScaleOptimizer around",
        )
    parts = whole.split("/")
    last = parts[-1]
    is_scalar = not value.shape
    is_count = is_scalar and np.dtype(value.dtype).kind == "i"
    if last in ("iter", "iterations") or (
        is_count and last != optimizers.ACCUMULATED
    ):
        return Item(contents.ITERATIONS, ("iter",), value, name=whole)
    # Before the variable's name stand those of scopes.
    for start in range(max(0, len(parts) - _DEEPEST), len(parts) - 1):
        found = by_name.get("/".join(parts[start:-1]), ())
        if len(found) == 1:
            (variable,) = found
            return Item(
                contents.SLOT, variable.path, value, last, variable.name
            )
        if found:
            break
    is_named = is_scalar and not _NAMELESS.fullmatch(last)
    kind = contents.HYPERPARAMETER if is_named else contents.OTHER
    return Item(kind, (last,), value, name=whole)


def _hyperparameter(of_config: tuple[str, Any]) -> Item:
    name, number = of_config
    read_number = functools.partial(np.asarray, number, np.float32)
    value = Value(f"{_CONFIG}/{name}", (), np.float32, read_number)
    return Item(contents.HYPERPARAMETER, (name,), value)


# Finding the variables.


def locate(
    file: Contents, targets: Targets, names: Any = None
) -> tuple[Contents, dict[tuple[str, ...], Any]]:
    """The file, and {path: variable} of a model's weights.

    Layers go by their names, if all are there, else as Keras does by their
    order; weights by their order.
    """
    if not hasattr(targets.model, "layers"):
        raise CheckpointError(
            f"{file.path} holds a model of Keras: pass the model to restore it"
            f" into. Received: model={targets.model!r}."
        )
    stored: dict[str, list[Item]] = {}
    for item in file.of(contents.MODEL):
        stored.setdefault(item.layer, []).append(item)
    live = {
        layer.name: [
            hosts.unwrap(w) for w in model_parts.weights_in_order(layer)
        ]
        for layer in targets.model.layers
        if layer.weights
    }
    names_here = stored if stored.keys() <= live.keys() else live
    return file, {
        item.path: variable
        for items, name in zip(stored.values(), names_here, strict=False)
        for item, variable in zip(items, live[name], strict=False)
    }


# Converting.


def unsaid(file: Contents, to_h5: bool) -> str | None:
    """What only the model's architecture tells, or `None`."""
    if to_h5:
        return None
    for item in file.of(contents.MODEL):
        if not is_attribute(_below_layer(item)):
            return f"how {item.name!r} was attached to its layer"
    return None


def _below_layer(item: Item) -> tuple[str, ...]:
    """The path of a weight, from its layer on."""
    _, *path = item.path
    if len(path) == 2 and path[0].endswith("_cell"):
        path[0] = "cell"
    return tuple(path)


def as_objects(file: Contents) -> Callable[[Item], tuple[str, ...]]:
    """The function from a weight to its path in an object checkpoint."""
    layers: dict[str, int] = {}
    for item in file.of(contents.MODEL):
        layers.setdefault(item.path[0], len(layers))
    return lambda item: (
        "model",
        f"{LAYER}{layers[item.path[0]]}",
        *_below_layer(item),
    )


def write(
    file: Contents,
    path: str,
    read: Callable[[Item], np.ndarray],
    optimizer: str | None = None,
) -> None:
    """Writes a file of the model's weights and the optimizer's state.

    Args:
      file: what to write, in the order in which layers have their weights.
      path: of the new file.
      read: function that reads an item.
      optimizer: its class, where `file` does not say it.

    Raises:
      CheckpointError: if such a file cannot hold it.
    """
    _check_values(file)
    config = _config_to_write(file, optimizer)
    names_of = _names(file.of(contents.MODEL))
    # Keras 1, and Keras 2 before TensorFlow's, gave optimizers no name.
    prefix = (config or {}).get("config", {}).get("name") or "optimizer"
    state = [
        *file.of(contents.ITERATIONS),
        *(i for i in file.of(contents.HYPERPARAMETER) if _is_weight(i)),
        *_in_order(file.of(contents.SLOT)),
    ]
    if file.around:  # Those of wrappers first.
        state.sort(key=lambda item: len(file.owner(item)))
    with hdf5_output.create(path) as out:
        out.attrs["backend"] = "tensorflow"
        if config is not None:
            text = json.dumps({_CONFIG: config})
            out.attrs["training_config"] = text
        group = out.create_group("model_weights")
        # Without it, Keras 2 takes the weights for those of Keras 1.
        group.attrs["keras_version"] = out.attrs["keras_version"] = "2.15.0"
        layers = _layers(file)
        _set_names(group, "layer_names", list(layers))
        for layer, items in layers.items():
            part = group.create_group(layer)
            _write_weights(part, ((names_of[i.path], i) for i in items), read)
        if state:
            named = ((_state_name(prefix, i, names_of), i) for i in state)
            group = out.create_group("optimizer_weights")
            _write_weights(group, named, read)


def _write_weights(
    group: Any,
    named: Iterable[tuple[str, Item]],
    read: Callable[[Item], np.ndarray],
) -> None:
    written = []
    for name, item in named:
        written.append(f"{name}:0")
        group[written[-1]] = read(item)
    _set_names(group, "weight_names", written)


def _state_name(
    prefix: str, item: Item, names_of: Mapping[tuple[str, ...], str]
) -> str:
    if item.kind == contents.SLOT:
        return f"{prefix}/{names_of[item.path]}/{item.slot}"
    return f"{prefix}/{item.path[-1]}"


def _check_values(file: Contents) -> None:
    for item in file.items:
        number = np.dtype(item.value.dtype).kind in "biufc"
        scalar = item.kind != contents.HYPERPARAMETER or not item.value.shape
        if item.kind not in _NOT_WRITTEN and not (number and scalar):
            raise CheckpointError(
                f"{file.path}: HDF5 files of Keras have no values such as"
                f" {item.value.name!r}, of {np.dtype(item.value.dtype)} and"
                f" shape {item.value.shape}."
            )


def _is_weight(item: Item) -> bool:
    return item.path[-1] in (optimizers.MOMENTUM_CACHE, optimizers.ACCUMULATED)


def _names(items: Sequence[Item]) -> dict[tuple[str, ...], str]:
    """{path: name} of the model's variables; the old names, if they differ."""
    named = len({item.name for item in items} - {""}) == len(items)
    return {
        item.path: item.name if named else "/".join(in_model(item))
        for item in items
    }


def _layers(file: Contents) -> dict[str, list[Item]]:
    """The model's weights by layer, in the order that HDF5 has them.

    Layers get their old names, if these differ.
    """
    items = file.of(contents.MODEL)
    if any(item.layer for item in items):
        return _grouped(items, lambda item: item.layer or in_model(item)[0])
    trained = {item.path for item in file.of(contents.SLOT)}
    items.sort(
        key=lambda item: (
            int(in_model(item)[0].removeprefix(LAYER)),
            item.path not in trained,
        )
    )
    groups = _grouped(items, lambda item: in_model(item)[0])
    old = [group[0].name.rpartition("/")[0] for group in groups.values()]
    old = [name.partition("/")[0] for name in old]
    if "" in old or len(set(old)) < len(old):
        return groups
    return dict(zip(old, groups.values(), strict=True))


def _grouped(
    items: Iterable[Item], layer_of: Callable[[Item], str]
) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(layer_of(item), []).append(item)
    return groups


def _in_order(slots: Sequence[Item]) -> list[Item]:
    """As `get_weights` has them: by slot, but Ftrl's by variable."""
    names = list(dict.fromkeys(item.slot for item in slots))
    if set(names) == {"accumulator", "linear"}:
        paths = list(dict.fromkeys(item.path for item in slots))
        return sorted(
            slots, key=lambda i: (paths.index(i.path), names.index(i.slot))
        )
    return sorted(slots, key=lambda item: names.index(item.slot))


def _config_to_write(
    file: Contents, optimizer: str | None
) -> dict[str, Any] | None:
    if file.config is not None:
        return file.config
    if not file.of(contents.ITERATIONS):
        return None
    if optimizer is None:
        if len(file.class_names) != 1:
            raise CheckpointError(
                f"{file.path} belongs to"
                f" {' or '.join(file.class_names) or 'an unknown optimizer'}:"
                " say which with --optimizer, for the HDF5 file to keep its"
                " hyperparameters."
            )
        optimizer = file.class_names[0]
    values = {
        item.path[-1]: item.value.read().item()
        for item in file.of(contents.HYPERPARAMETER)
        if not _is_weight(item)
    }
    *around, name = optimizers.names_in(optimizer)
    if len(around) != len(file.around):
        raise CheckpointError(
            f"{file.path} has {len(file.around)} wrappers around its optimizer:"
            " say which with --optimizer, as in 'MovingAverage(Adam)'."
            f" Received: {optimizer!r}."
        )
    config = {"class_name": name, "config": {"name": name, **values}}
    for name in reversed(around):
        inside = {"name": name, "optimizer": config}
        config = {"class_name": name, "config": inside}
    return config
