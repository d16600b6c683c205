"""`python -m keras_legacy_opt convert`: one format into another.

No model is needed, and never more than a few variables are in memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.checkpoints import contents, h5, object_graph, tf1
from keras_legacy_opt.checkpoints.contents import Contents, Item
from keras_legacy_opt.checkpoints.plan import readable
from keras_legacy_opt.checkpoints.report import CheckpointError

_SHARD_BYTES = 64 << 20
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def convert(
    source: str,
    destination: str,
    *,
    optimizer: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes what `source` holds in the format that `destination` asks for.

    The output appears under its name when it is complete, or not at all.

    Args:
      source: TensorFlow checkpoint (object-based, name-based, or a
        SavedModel's), or HDF5 file of Keras 2.
      destination: a name ending in .h5 or .hdf5 becomes an HDF5 file of Keras
        2, any other the prefix of a TensorFlow object checkpoint with the names
        of Keras 2.
      optimizer: the class of the optimizer, where the source does not say it.
      overwrite: whether `destination` may exist.
      progress: function of the bytes written and the bytes to write.

    Raises:
      CheckpointError: if the source cannot be read or converted, or the
        destination exists.
    """
    to_h5 = destination.endswith((".h5", ".hdf5"))
    target = destination if to_h5 else f"{destination}.index"
    if os.path.exists(target) and not overwrite:
        raise CheckpointError(
            f"{target} exists: pass --overwrite to replace it."
        )
    folder = os.path.dirname(os.path.abspath(destination))
    if not os.path.isdir(folder):
        raise CheckpointError(f"There is no folder {folder}.")
    with contents.open_file(source) as file:
        _check(file)
        count = _counter(file, progress or (lambda done, total: None))
        with _temporary_folder(folder) as temporary:
            if to_h5:
                path = os.path.join(temporary, "file.h5")
                _write_h5(file, path, optimizer, count)
                os.replace(path, destination)
            else:
                prefix = os.path.join(temporary, "checkpoint")
                _write_checkpoint(file, prefix, temporary, count)
                _move_checkpoint(prefix, destination)


def _check(file: Contents) -> None:
    if file.format not in (object_graph.FORMAT, h5.FORMAT, tf1.FORMAT):
        raise CheckpointError(
            f"{file.path} ({file.format}) does not say what its variables are"
            " called: load it with keras.models.load_model, and write it with"
            " keras_legacy_opt.checkpoints.save."
        )
    if file.format == tf1.FORMAT and "SGD" in file.class_names:
        raise CheckpointError(
            f"{file.path}: the slots of TF1's MomentumOptimizer depend on the"
            " learning rate, which is not in the file: restore it into a model"
            " with keras_legacy_opt.checkpoints.restore."
        )


def _counter(
    file: Contents, progress: Callable[[int, int], None]
) -> Callable[[Item], np.ndarray]:
    """The function that reads an item, and tells how far that is."""
    total = sum(item.number_of_bytes for item in file.items)
    done = 0

    def read(item: Item) -> np.ndarray:
        nonlocal done
        with readable(file.path):
            array = item.value.read()
        done += item.number_of_bytes
        progress(done, total)
        return array

    return read


@contextlib.contextmanager
def _temporary_folder(parent: str) -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix=".keras_legacy_opt-", dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# To a TensorFlow checkpoint.


def _write_checkpoint(
    file: Contents,
    prefix: str,
    temporary: str,
    read: Callable[[Item], np.ndarray],
) -> None:
    graph, keys = _object_graph(file)
    shards: list[str] = []
    for batch in _batches(file.items):
        shards.append(os.path.join(temporary, f"shard-{len(shards)}"))
        tensors = [tf.constant(read(item)) for item in batch]
        names = [keys[id(item)] for item in batch]
        if len(shards) == 1:
            names.append(object_graph.GRAPH_KEY)
            tensors.append(tf.constant(graph))
        tf.raw_ops.SaveV2(
            prefix=shards[-1],
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=tensors,
        )
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=shards,
        destination_prefix=prefix,
        delete_old_dirs=False,
    )


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and size + item.number_of_bytes > _SHARD_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item.number_of_bytes
    yield batch


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

    def place(item: Item) -> tuple[str, ...]:
        layer, *rest = item.path
        if len(rest) == 2 and rest[0].endswith("_cell"):
            rest = ["cell", rest[1]]
        if len(rest) != 1 and rest[0] != "cell":
            raise CheckpointError(
                f"{file.path}: the names in an HDF5 file do not say how the"
                f" parts of {item.name!r} were attached to the layer {layer!r}."
                " Restore it into a model with"
                " keras_legacy_opt.checkpoints.restore, and write that with"
                " keras_legacy_opt.checkpoints.save."
            )
        return ("model", f"layer_with_weights-{layers[layer]}", *rest)

    return place


def _move_checkpoint(prefix: str, destination: str) -> None:
    """Renames the files of a checkpoint; without its index, there is none."""
    if os.path.exists(f"{destination}.index"):
        os.remove(f"{destination}.index")
    folder, stem = os.path.split(prefix)
    for name in sorted(os.listdir(folder)):
        if name.startswith(f"{stem}.data-"):
            os.replace(
                os.path.join(folder, name),
                destination + name.removeprefix(stem),
            )
    os.replace(f"{prefix}.index", f"{destination}.index")


# To HDF5.


def _write_h5(
    file: Contents,
    path: str,
    optimizer: str | None,
    read: Callable[[Item], np.ndarray],
) -> None:
    import h5py

    config = _optimizer_config(file, optimizer)
    layers = _layers(file)
    names = _names(file)
    with h5py.File(path, "w") as out:
        out.attrs["backend"] = "tensorflow"
        if config is not None:
            out.attrs["training_config"] = json.dumps(
                {"optimizer_config": config}
            )
        group = out.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, items in layers.items():
            part = group.create_group(layer)
            for item in items:
                part[f"{names[item.path]}:0"] = read(item)
            part.attrs["weight_names"] = [
                f"{names[item.path]}:0".encode() for item in items
            ]
        state = [
            *file.of(contents.ITERATIONS),
            *(i for i in file.of(contents.HYPERPARAMETER) if _is_weight(i)),
            *_in_order(file.of(contents.SLOT)),
        ]
        if not state:
            return
        group = out.create_group("optimizer_weights")
        prefix = config["config"]["name"] if config else "optimizer"
        written = []
        for item in state:
            if item.kind == contents.SLOT:
                name = f"{prefix}/{names[item.path]}/{item.slot}:0"
            else:
                name = f"{prefix}/{item.path[-1]}:0"
            group[name] = read(item)
            written.append(name.encode())
        group.attrs["weight_names"] = written


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
    return item.path[1:] if item.path[0] == "model" else item.path


def _layers(file: Contents) -> dict[str, list[Item]]:
    """The model's variables by layer, under the old names if these differ."""
    groups: dict[str, list[Item]] = {}
    for item in file.of(contents.MODEL):
        groups.setdefault(_in_model(item)[0], []).append(item)
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
