"""Whole-model HDF5 files of Keras 2 (and 1): `model.save("model.h5")`."""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from keras_legacy_opt import hosts
from keras_legacy_opt.checkpoints import (
    contents,
    hdf5_output,
    new_config,
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
from keras_legacy_opt.checkpoints.values import Value, constant
from keras_legacy_opt.hosts import model_parts
from keras_legacy_opt.state.weights import dtype_of_value

FORMAT = "Keras 2 HDF5"
NO_PLACE = "the model has no such weight"
_CONFIG = "optimizer_config"
# Beside the weights of an optimizer: which of the model's weights they are of.
_NUMBERS = "variable_numbers"
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
    state = state_of(source)
    items = [*_weights(source.hdf5), *state]
    class_names, ways, unknown = [], [()], ""
    if config:
        inner = optimizers.without_loss_scale(config)
        class_names = [str(optimizers.named(inner))]
        ways = [part.way for part in optimizers.parts(inner)]
        items += map(_hyperparameter, optimizers.hyperparameters(inner))
        unknown = _unknown(inner)
    in_order = [item for item in state if not item.reason]
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
        ways=ways,
        obstacle=unknown or obstacle,
    )


def _unknown(config: dict[str, Any]) -> str:
    """What hinders a conversion: a wrapper that nobody knows."""
    try:
        optimizers.check_known(config)
    except CheckpointError as error:
        return str(error)
    return ""


def _owned(item: Item, parts: Sequence[optimizers.Part]) -> Item:
    """An item with its owner, which the scopes in its name tell.

    If they do not, it may be of any of several optimizers.
    """
    if item.kind not in (
        contents.ITERATIONS,
        contents.HYPERPARAMETER,
        contents.SLOT,
    ):
        return item
    name = item.slot or item.path[-1]
    start: contents.Way | None = ()
    if optimizers.are_several(parts):
        scopes = item.value.name.split("/")[:-1]
        if item.kind == contents.SLOT:
            scopes = scopes[: -len(item.name.split("/"))]
        start = _innermost(scopes, parts)
    owner = (
        None
        if start is None
        else optimizers.owner(parts, start, item.kind, name)
    )
    if owner is None:
        return dataclasses.replace(item, kind=contents.OTHER)
    return dataclasses.replace(item, owner=owner)


def _innermost(
    scopes: Sequence[str], parts: Sequence[optimizers.Part]
) -> contents.Way | None:
    """The way to the optimizer whose name the last of some scopes is.

    What is in none is of the outermost.
    """
    if not scopes:
        return ()
    for scope in reversed(scopes):
        ways = [part.way for part in parts if part.name == scope]
        if ways:
            return ways[0] if len(ways) == 1 else None
    return None


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


def state_of(source: Source) -> list[Item]:
    """All weights of the optimizer, in the order of `get_weights`."""
    found = _state(source.hdf5, list(_weights(source.hdf5)))
    config = optimizer_config(source)
    if not config:
        return found
    parts = optimizers.parts(optimizers.without_loss_scale(config))
    owned = [_owned(item, parts) for item in found]
    if not optimizers.are_several(parts):
        return owned
    count = collections.Counter(map(_identity, owned))
    return [
        dataclasses.replace(item, kind=contents.OTHER)
        if count[_identity(item)] > 1 and not item.reason
        else item
        for item in owned
    ]


def _identity(item: Item) -> tuple[Any, ...]:
    """What no two weights of an optimizer have in common."""
    if item.kind == contents.ITERATIONS:
        return item.kind, item.owner
    return item.kind, item.owner, item.path, item.slot


def _state(file: Any, weights: Sequence[Item]) -> list[Item]:
    """The optimizer's weights, in the order of `get_weights`."""
    if "optimizer_weights" not in file:
        return []
    group = file["optimizer_weights"]
    by_name: dict[str, list[Item]] = {}
    for item in weights:
        by_name.setdefault(item.name, []).append(item)
    stored = names(group, "weight_names")
    variables = _variables(group, len(stored), weights)
    state = [
        _weight_of_optimizer(
            safe_hdf5.value(name, group[name]), by_name, variable
        )
        for name, variable in zip(stored, variables, strict=True)
    ]
    count = collections.Counter((item.path, item.slot) for item in state)
    return [
        dataclasses.replace(item, kind=contents.OTHER)
        if item.kind == contents.SLOT and count[item.path, item.slot] > 1
        else item
        for item in state
    ]


def note_variables(file: Any, numbers: Sequence[int]) -> None:
    """Writes which variables the weights of an optimizer are of.

    Args:
      file: with these weights.
      numbers: of the model's weights in it, for each; -1 if it is of none.
    """
    if "optimizer_weights" in file and {*numbers} - {-1}:
        file["optimizer_weights"][_NUMBERS] = np.asarray(numbers, np.int64)


def _variables(
    group: Any, count: int, weights: Sequence[Item]
) -> list[Item | None]:
    """The variables that the weights of an optimizer are of, if it is noted."""
    noted = group.get(_NUMBERS)
    if noted is None or getattr(noted, "shape", None) != (count,):
        return [None] * count
    return [
        weights[int(number)] if 0 <= number < len(weights) else None
        for number in safe_hdf5.value(_NUMBERS, noted).read()
    ]


def _weight_of_optimizer(
    value: Value, by_name: Mapping[str, Sequence[Item]], variable: Item | None
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
    if variable is not None and _is_called(variable.name, parts[:-1]):
        return Item(contents.SLOT, variable.path, value, last, variable.name)
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


def _is_called(name: str, scopes: Sequence[str]) -> bool:
    """Whether scopes end with a name, or with that and a number."""
    end = "/".join(scopes[-len(name.split("/")) :])
    return re.fullmatch(f"{re.escape(name)}(_[0-9]+)?", end) is not None


def _hyperparameter(of_config: tuple[contents.Way, str, Any]) -> Item:
    way, name, number = of_config
    dtype = dtype_of_value(number).as_numpy_dtype
    path = f"{_CONFIG}/{contents.prefix(way)}{name}"
    value = constant(path, np.asarray(number, dtype))
    return Item(contents.HYPERPARAMETER, (name,), value, owner=way)


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
) -> list[str]:
    """Writes a file of the model's weights and the optimizer's state.

    Args:
      file: what to write, in the order in which layers have their weights.
      path: of the new file.
      read: function that reads an item.
      optimizer: its class, where `file` does not say it.

    Returns:
      What the configuration that it got lacks, as sentences.

    Raises:
      CheckpointError: if such a file cannot hold it.
    """
    _check_values(file)
    names_of = _names(file.of(contents.MODEL))
    config = _config_to_write(file, optimizer, names_of)
    state = _named_state(file, config, names_of)
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
            group = out.create_group("optimizer_weights")
            _write_weights(group, state, read)
    if config is None or file.config is not None:
        return []
    return new_config.lacking(config)


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


def _named_state(
    file: Contents,
    config: dict[str, Any] | None,
    names_of: Mapping[tuple[str, ...], str],
) -> list[tuple[str, Item]]:
    """The optimizers' weights, with their names, as `get_weights` has them."""
    prefixes = _prefixes(file, config)
    return [
        (_state_name(prefixes[way], item, names_of), item)
        for way in file.ways
        for item in _weights_in_order(i for i in file.items if i.owner == way)
    ]


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


def _weights_in_order(items: Iterable[Item]) -> list[Item]:
    """One optimizer's, as `get_weights` has them: Ftrl's slots by variable."""
    items = list(items)
    slots = [item for item in items if item.kind == contents.SLOT]
    paths = list(dict.fromkeys(item.path for item in slots))
    names = list(dict.fromkeys(item.slot for item in slots))
    if set(names) == {"accumulator", "linear"}:
        slots.sort(key=lambda i: (paths.index(i.path), names.index(i.slot)))
    else:
        slots.sort(key=lambda item: names.index(item.slot))
    return [
        *(i for i in items if i.kind == contents.ITERATIONS),
        *(i for i in items if optimizers.is_weight(i)),
        *slots,
    ]


def _prefixes(
    file: Contents, config: dict[str, Any] | None
) -> dict[contents.Way, str]:
    """What the names of each optimizer's weights begin with.

    Those of several are told apart by it.
    """
    parts = []
    if config is not None:
        parts = optimizers.parts(optimizers.without_loss_scale(config))
    names = {part.way: part.name for part in parts}
    if not file.has_several:
        # Keras 1, and Keras 2 before TensorFlow's, gave optimizers no name.
        return dict.fromkeys(file.ways, names.get(()) or "optimizer")
    if len({*names.values()}) < len(file.ways):
        raise CheckpointError(
            f"{file.path} has optimizers of one name: {[*names.values()]}. In"
            " HDF5 files, names tell their weights apart."
        )
    return names


def _config_to_write(
    file: Contents,
    optimizer: str | None,
    names_of: Mapping[tuple[str, ...], str],
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
    return new_config.made(file, optimizer, names_of)
