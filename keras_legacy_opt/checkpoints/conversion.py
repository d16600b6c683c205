"""`python -m keras_legacy_opt convert`: one format into another.

No model is needed, and never more than a few variables are in memory.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.checkpoints import (
    architecture,
    contents,
    h5,
    hdf5_output,
    memory,
    object_graph,
    placing,
    tf1,
)
from keras_legacy_opt.checkpoints.contents import Contents, Item
from keras_legacy_opt.checkpoints.destination import Destination
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.checkpoints.values import readable

_SHARD_BYTES = 64 << 20
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_LAYER = "layer_with_weights-"


def convert(
    source: str,
    destination: str,
    *,
    optimizer: str | None = None,
    model: str | None = None,
    learning_rate: float | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    safe_mode: bool = True,
    max_size: int | None = None,
) -> None:
    """Writes what `source` holds in the format that `destination` asks for.

    The output appears under its name when it is complete, or not at all; what
    it replaces stays until then, even if the process is killed.

    Args:
      source: TensorFlow checkpoint (object-based, name-based, or a
        SavedModel's), HDF5 file of Keras 2, or `.keras` or `.weights.h5` file
        of Keras 3.
      destination: a name ending in .h5 or .hdf5 becomes an HDF5 file of Keras
        2, any other the prefix of a TensorFlow object checkpoint with the names
        of Keras 2.
      optimizer: the class of the optimizer, where the source does not say it.
      model: file with the architecture (`.keras`, whole-model HDF5, or
        `.json` from `model.to_json()`), where the source does not say which
        weight is which.
      learning_rate: that of TF1's MomentumOptimizer, if it was constant.  Its
        slots are sums of gradients, ours are sums of steps.
      overwrite: whether `destination` may exist.
      progress: function of the bytes written and the bytes to write.
      safe_mode: whether to refuse architectures with parts that are neither
        built-in nor registered, which can run any code.
      max_size: what a file may unpack to, in bytes; if `None`, that depends on
        its own size.

    Raises:
      CheckpointError: if the source cannot be read or converted, or the
        destination not be written.
    """
    output = Destination(destination, overwrite)
    try:
        with (
            contents.open_file(source, max_size) as file,
            output.folder() as temporary,
        ):
            _check_optimizer(file)
            file = _with_steps_for_gradients(file, learning_rate)
            if model is not None or _what_is_not_said(file, output.is_h5):
                path = model or _file_with_architecture(file, output.is_h5)
                built = architecture.model_of(
                    path, safe_mode=safe_mode, max_size=max_size
                )
                if built is None:
                    raise _no_architecture(file, model, output.is_h5)
                with readable(file.path):
                    file = placing.placed(file, built, temporary)
            _check_slots(file)
            count = _counter(file, progress or (lambda done, total: None))
            with output.writing():
                if output.is_h5:
                    path = os.path.join(temporary, "file.h5")
                    _write_h5(file, path, optimizer, count)
                else:
                    path = os.path.join(temporary, "checkpoint")
                    taken = output.taken_shards()
                    _write_checkpoint(file, path, temporary, count, taken)
            output.take(path)
    except KeyboardInterrupt:
        if output.is_replaced:
            raise KeyboardInterrupt(f"{destination} is complete.") from None
        raise


def _check_optimizer(file: Contents) -> None:
    """Refuses the state of optimizers that nothing is known of."""
    if file.is_of_another_optimizer:
        raise CheckpointError(
            f"{file.path} holds the state of {' or '.join(file.class_names)},"
            " not of a legacy optimizer: load it with Keras, convert"
            " model.optimizer with"
            " keras_legacy_opt.checkpoints.from_keras_3, and write both with"
            " keras_legacy_opt.checkpoints.save."
        )
    nameless = file.of(contents.OTHER) if file.format == h5.FORMAT else []
    if nameless:
        raise CheckpointError(
            f"{file.path}: the names of {len(nameless)} weights of the"
            f" optimizer ({nameless[0].name!r}, ...) do not say what they are."
            " Restore it in Python, where their order tells, with"
            " keras_legacy_opt.checkpoints.restore, and write that with"
            " keras_legacy_opt.checkpoints.save."
        )


def _check_slots(file: Contents) -> None:
    """Refuses slots of variables that the file does not have."""
    paths = {item.path for item in file.of(contents.MODEL)}
    for item in file.of(contents.SLOT):
        if item.path not in paths:
            raise CheckpointError(
                f"{file.path} contradicts itself: the variable of"
                f" {item.value.name!r} is not in it."
            )


def _with_steps_for_gradients(
    file: Contents, learning_rate: float | None
) -> Contents:
    """Converts the slots of TF1's MomentumOptimizer."""
    if file.format != tf1.FORMAT or "SGD" not in file.class_names:
        if learning_rate is not None:
            raise CheckpointError(
                f"{file.path} ({file.format}): --learning-rate is for the slots"
                " of TF1's MomentumOptimizer, and it has none."
            )
        return file
    if learning_rate is None:
        raise CheckpointError(
            f"{file.path}: TF1's MomentumOptimizer sums gradients where"
            " OptimizerV2 sums steps. The one is the other times minus the"
            " learning rate, if that was constant, but the file does not have"
            " it: pass it with --learning-rate."
        )
    return dataclasses.replace(
        file,
        items=[
            dataclasses.replace(
                item, value=tf1.steps_for_gradients(item.value, learning_rate)
            )
            if item.slot == "momentum"
            else item
            for item in file.items
        ],
    )


def _file_with_architecture(file: Contents, to_h5: bool) -> str:
    """The source itself, if its kind has the architecture."""
    if file.weights_file is not None or file.format == h5.FORMAT:
        return file.path
    raise _no_architecture(file, None, to_h5)


def _no_architecture(
    file: Contents, model: str | None, to_h5: bool
) -> CheckpointError:
    return CheckpointError(
        f"{model} holds no architecture."
        if model is not None
        else f"{file.path} ({file.format}) does not say"
        f" {_what_is_not_said(file, to_h5)}. Pass the architecture with"
        " --model: a .keras or .h5 file of the whole model, or a .json file of"
        " what model.to_json() returned. Or load it in Python into the model,"
        " and write that with keras_legacy_opt.checkpoints.save."
    )


def _what_is_not_said(file: Contents, to_h5: bool) -> str | None:
    """What only the model's architecture tells, or `None`."""
    if file.weights_file is not None:
        return "what its weights are called"
    if file.format == h5.FORMAT and not to_h5:
        for item in file.of(contents.MODEL):
            if not _is_attribute(_below_layer(item)):
                return f"how {item.name!r} was attached to its layer"
    if file.format == tf1.FORMAT and to_h5:
        return "in which order a layer has its weights"
    if file.format == object_graph.FORMAT and to_h5:
        for item in file.of(contents.MODEL):
            layer, *rest = _in_model(item)
            if not (layer.startswith(_LAYER) and _is_attribute(tuple(rest))):
                return f"where HDF5 has {'/'.join(item.path)!r}"
    return None


def _is_attribute(path: tuple[str, ...]) -> bool:
    """Whether it leads from a layer, or its recurrent cell, to a weight."""
    return len(path) == 1 or (len(path) == 2 and path[0] == "cell")


def _below_layer(item: Item) -> tuple[str, ...]:
    """The path of a weight in an HDF5 file, from its layer on."""
    _, *path = item.path
    if len(path) == 2 and path[0].endswith("_cell"):
        path[0] = "cell"
    return tuple(path)


def _counter(
    file: Contents, progress: Callable[[int, int], None]
) -> Callable[[Item], np.ndarray]:
    """The function that reads an item, and tells how far that is."""
    total = sum(item.number_of_bytes for item in file.items)
    done = 0

    def read(item: Item) -> np.ndarray:
        nonlocal done
        memory.give_back(item.number_of_bytes)  # Of the last ones.
        array = item.value.checked(file.path)
        done += item.number_of_bytes
        progress(done, total)
        return array

    return read


# To a TensorFlow checkpoint.


def _write_checkpoint(
    file: Contents,
    prefix: str,
    temporary: str,
    read: Callable[[Item], np.ndarray],
    taken: int | None,
) -> None:
    graph, keys = _object_graph(file)
    batches = list(_batches(file.items))
    count = sum(
        1
        if batch[0].number_of_bytes <= _SHARD_BYTES
        else len(list(_slices(batch[0])))
        for batch in batches
    )
    shards: list[str] = []

    def write(
        names: list[str], slices: list[str], tensors: list[tf.Tensor]
    ) -> None:
        if not shards and count and count != taken:
            names.append(object_graph.GRAPH_KEY)
            slices.append("")
            tensors.append(tf.constant(graph))
        shards.append(os.path.join(temporary, f"shard-{len(shards)}"))
        tf.raw_ops.SaveV2(
            prefix=shards[-1],
            tensor_names=names,
            shape_and_slices=slices,
            tensors=tensors,
        )

    if count in (0, taken):
        write([object_graph.GRAPH_KEY], [""], [tf.constant(graph)])
    for batch in batches:
        if batch[0].number_of_bytes <= _SHARD_BYTES:
            names = [keys[id(item)] for item in batch]
            tensors = [tf.constant(read(item)) for item in batch]
            write(names, [""] * len(names), tensors)
            del tensors  # Before the next ones are read.
            continue
        (item,) = batch
        array = read(item)
        for where, text in _slices(item):
            write([keys[id(item)]], [text], [tf.constant(array[where])])
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=shards,
        destination_prefix=prefix,
        delete_old_dirs=False,
    )


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items that are written together; a large one is alone."""
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and size + item.number_of_bytes > _SHARD_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item.number_of_bytes
    if batch:
        yield batch


def _slices(item: Item) -> Iterator[tuple[tuple[slice, ...], str]]:
    """Parts of a large array, and how a TensorFlow checkpoint calls them.

    A checkpoint may have a variable in parts; writing takes copies of each.
    """
    dims = item.value.shape
    axis = int(np.argmax(dims))
    length = dims[axis]
    step = max(1, length * _SHARD_BYTES // item.number_of_bytes)
    for start in range(0, length, step):
        stop = min(start + step, length)
        where = [slice(None)] * len(dims)
        where[axis] = slice(start, stop)
        parts = ["-"] * len(dims)
        parts[axis] = f"{start},{stop - start}"
        shape = " ".join(map(str, dims))
        yield tuple(where), f"{shape} {':'.join(parts)}"


def _object_graph(file: Contents) -> tuple[bytes, dict[int, str]]:
    """A serialized object graph, and the key of each item (by its id)."""
    graph = private_api.new_object_graph()
    nodes: dict[tuple[str, ...], int] = {}

    def node(path: tuple[str, ...]) -> int:
        if path not in nodes:
            nodes[path] = len(graph.nodes)
            graph.nodes.add()
            if path:
                parent = node(path[:-1])
                graph.nodes[parent].children.add(
                    node_id=nodes[path], local_name=path[-1]
                )
        return nodes[path]

    def give(number: int, item: Item, key: str) -> None:
        graph.nodes[number].attributes.add(
            name="VARIABLE_VALUE", full_name=item.name, checkpoint_key=key
        )
        keys[id(item)] = key

    node(())
    keys: dict[int, str] = {}
    place = _places(file)
    slots = []
    for item in file.items:
        if item.kind == contents.SLOT:
            slots.append(item)
            continue
        if item.kind in (contents.ITERATIONS, contents.HYPERPARAMETER):
            path = ("optimizer", item.path[-1])
        else:
            path = place(item)
        give(node(path), item, "/".join(path) + _SUFFIX)
    for item in slots:
        path = place(item)
        optimizer = node(("optimizer",))
        number = len(graph.nodes)
        graph.nodes.add()
        graph.nodes[optimizer].slot_variables.add(
            original_variable_node_id=node(path),
            slot_name=item.slot,
            slot_variable_node_id=number,
        )
        stem = "/".join(path)
        give(
            number,
            item,
            f"{stem}/.OPTIMIZER_SLOT/optimizer/{item.slot}{_SUFFIX}",
        )
    return graph.SerializeToString(), keys


def _places(file: Contents) -> Callable[[Item], tuple[str, ...]]:
    """The function from an item of the model to its path in the graph."""
    if file.format == object_graph.FORMAT:
        return lambda item: item.path
    if file.format == tf1.FORMAT:
        return lambda item: (
            item.path if item.kind == contents.OTHER else ("model", *item.path)
        )
    layers: dict[str, int] = {}
    for item in file.of(contents.MODEL):
        layers.setdefault(item.path[0], len(layers))
    return lambda item: (
        "model",
        f"{_LAYER}{layers[item.path[0]]}",
        *_below_layer(item),
    )


# To HDF5.


def _write_h5(
    file: Contents,
    path: str,
    optimizer: str | None,
    read: Callable[[Item], np.ndarray],
) -> None:
    for item in file.items:
        number = np.dtype(item.value.dtype).kind in "biufc"
        scalar = item.kind != contents.HYPERPARAMETER or not item.value.shape
        if item.kind != contents.OTHER and not (number and scalar):
            raise CheckpointError(
                f"{file.path}: HDF5 files of Keras have no values such as"
                f" {item.value.name!r}, of {np.dtype(item.value.dtype)} and"
                f" shape {item.value.shape}."
            )
    config = _optimizer_config(file, optimizer)
    layers = _layers(file)
    names = _names(file)
    with hdf5_output.create(path) as out:
        out.attrs["backend"] = "tensorflow"
        if config is not None:
            out.attrs["training_config"] = json.dumps(
                {"optimizer_config": config}
            )
        group = out.create_group("model_weights")
        # Without it, Keras 2 takes the weights for those of Keras 1.
        group.attrs["keras_version"] = out.attrs["keras_version"] = "2.15.0"
        h5.set_names(group, "layer_names", list(layers))
        for layer, items in layers.items():
            part = group.create_group(layer)
            for item in items:
                part[f"{names[item.path]}:0"] = read(item)
            weights = [f"{names[item.path]}:0" for item in items]
            h5.set_names(part, "weight_names", weights)
        state = [
            *file.of(contents.ITERATIONS),
            *(i for i in file.of(contents.HYPERPARAMETER) if _is_weight(i)),
            *_in_order(file.of(contents.SLOT)),
        ]
        if not state:
            return
        group = out.create_group("optimizer_weights")
        # Keras 1, and Keras 2 before TensorFlow's, gave optimizers no name.
        prefix = (config or {}).get("config", {}).get("name") or "optimizer"
        written = []
        for item in state:
            if item.kind == contents.SLOT:
                name = f"{prefix}/{names[item.path]}/{item.slot}:0"
            else:
                name = f"{prefix}/{item.path[-1]}:0"
            group[name] = read(item)
            written.append(name)
        h5.set_names(group, "weight_names", written)


def _is_weight(item: Item) -> bool:
    return item.path[-1] == "momentum_cache"


def _names(file: Contents) -> dict[tuple[str, ...], str]:
    """{path: name} of the model's variables; the old names, if they differ."""
    items = file.of(contents.MODEL)
    named = len({item.name for item in items} - {""}) == len(items)
    return {
        item.path: item.name if named else "/".join(_in_model(item))
        for item in items
    }


def _in_model(item: Item) -> tuple[str, ...]:
    """The path from the model, whatever the root called that."""
    path = item.path
    return path[1:] if path[1:] and path[1].startswith(_LAYER) else path


def _layers(file: Contents) -> dict[str, list[Item]]:
    """The model's weights by layer, in the order that HDF5 has them.

    Layers get their old names, if these differ.
    """
    items = file.of(contents.MODEL)
    if file.format == object_graph.FORMAT and not any(i.layer for i in items):
        trained = {item.path for item in file.of(contents.SLOT)}
        items.sort(
            key=lambda item: (
                int(_in_model(item)[0].removeprefix(_LAYER)),
                item.path not in trained,
            )
        )
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.layer or _in_model(item)[0], []).append(item)
    if any(item.layer for item in items):
        return groups
    names = [items[0].name.rpartition("/")[0] for items in groups.values()]
    names = [name.partition("/")[0] for name in names]
    if "" in names or len(set(names)) < len(names):
        return groups
    return dict(zip(names, groups.values(), strict=True))


def _in_order(slots: Sequence[Item]) -> list[Item]:
    """As `get_weights` has them: by slot, but Ftrl's by variable."""
    names = list(dict.fromkeys(item.slot for item in slots))
    if set(names) == {"accumulator", "linear"}:
        paths = list(dict.fromkeys(item.path for item in slots))
        return sorted(
            slots, key=lambda i: (paths.index(i.path), names.index(i.slot))
        )
    return sorted(slots, key=lambda item: names.index(item.slot))


def _optimizer_config(
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
    return {"class_name": optimizer, "config": {"name": optimizer, **values}}
