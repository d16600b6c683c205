"""What a file holds, whatever its format: for `inspect` and `convert`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_legacy_opt import hosts, saving
from keras_legacy_opt.checkpoints import (
    archive,
    h5,
    object_graph,
    releases,
    safe_hdf5,
    tf1,
)
from keras_legacy_opt.checkpoints.limits import Limits
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.checkpoints.values import Value, readable
from keras_legacy_opt.optimizer import Optimizer

MODEL = "model"
ITERATIONS = "iterations"
HYPERPARAMETER = "hyperparameter"
SLOT = "slot"
OTHER = "other"

# {slots: classes that have them}
_BY_SLOTS = {
    frozenset(["m", "v", "vhat"]): ("Adam",),
    frozenset(["m", "v"]): ("Adam", "Adamax"),
    frozenset(["accumulator"]): ("Adagrad",),
    frozenset(["accumulator", "linear"]): ("Ftrl",),
    frozenset(["accum_grad", "accum_var"]): ("Adadelta",),
    frozenset(["momentum"]): ("SGD",),
    frozenset(["rms"]): ("RMSprop",),
    frozenset(["rms", "momentum"]): ("RMSprop",),
    frozenset(["rms", "mg"]): ("RMSprop",),
    frozenset(["rms", "momentum", "mg"]): ("RMSprop",),
}
_CLASSES = frozenset(
    ["Nadam", *(name for names in _BY_SLOTS.values() for name in names)]
)
_TF1_CLASSES = {
    "Adam": "Adam",
    "Adagrad": "Adagrad",
    "Adadelta": "Adadelta",
    "Ftrl": "Ftrl",
    "RMSProp": "RMSprop",
    "Momentum": "SGD",
}


@dataclasses.dataclass(frozen=True)
class Item:
    """A value and what it is.

    Attributes:
      kind: "model", "iterations", "hyperparameter", "slot" or "other".
      path: where it is, or, of a slot, where its variable is.
      value: the `Value`.
      slot: name of the slot.
      name: the name that the variable had when it was written.
      layer: the name of the model's layer it belongs to, if that is known.
    """

    kind: str
    path: tuple[str, ...]
    value: Value
    slot: str = ""
    name: str = ""
    layer: str = ""

    @property
    def number_of_bytes(self) -> int:
        """Its size."""
        return math.prod(self.value.shape) * np.dtype(self.value.dtype).itemsize


@dataclasses.dataclass
class Contents:
    """What a file holds.

    Attributes:
      path: of the file.
      format: what kind of file it is.
      items: list of `Item`.
      class_names: the optimizer's class, or all that it may be.
      is_of_another_optimizer: whether that is none of legacy's.
      config: the optimizer's configuration, if the file has it.
      weights_file: of Keras 3's formats, the `.weights.h5` file.
      variable_names: of Keras 3's formats, the variables with slots, by number.
      variable_paths: the same as paths in the model.
    """

    path: str
    format: str
    items: list[Item]
    class_names: Sequence[str] = ()
    is_of_another_optimizer: bool = False
    config: dict[str, Any] | None = None
    weights_file: str | None = None
    variable_names: Sequence[str] = ()
    variable_paths: Any = None

    def of(self, kind: str) -> list[Item]:
        """The items of a kind."""
        return [item for item in self.items if item.kind == kind]


@contextlib.contextmanager
def open_file(path: str, max_size: int | None = None) -> Iterator[Contents]:
    """The contents of a file of any format; values are read while it is open.

    Args:
      path: of the file.
      max_size: what it may unpack to, in bytes; see `Limits.of`.

    Raises:
      CheckpointError: if it cannot be read.
    """
    with contextlib.ExitStack() as stack:
        with readable(path):
            result = _opened(path, stack, max_size)
        yield result


def _opened(
    path: str, stack: contextlib.ExitStack, max_size: int | None
) -> Contents:
    prefix = object_graph.prefix_of(path)
    if prefix is not None:
        reader = object_graph.Reader(prefix, max_size)
        if reader.is_object_based:
            return _object_based(path, object_graph.Graph(reader))
        return _name_based(path, reader)
    if not os.path.isfile(path):
        raise CheckpointError(
            f"There is no checkpoint, SavedModel, HDF5 or .keras file {path!r}."
        )
    config, weights = None, path
    limits = Limits.of(path, max_size)
    if archive.is_archive(path):
        config, weights = _unpacked(path, stack, limits)
    elif not h5.is_hdf5(path):
        raise CheckpointError(
            f"{path!r} is damaged, or of no known format: neither a TensorFlow"
            " checkpoint nor a SavedModel, HDF5 or .keras file."
        )
    file = stack.enter_context(safe_hdf5.open_file(weights, limits))
    if h5.is_keras_2(file):
        result = _keras_2_h5(path, file)
    elif {"layers", "vars", "optimizer"} & {*file}:
        result = _keras_3_h5(path, file, config)
        result.weights_file = weights
    else:
        raise CheckpointError(f"{path!r} is an HDF5 file, but none of Keras.")
    # The same values may be there under many names.
    limits.check_values(sum(item.number_of_bytes for item in result.items))
    return result


def _unpacked(
    path: str, stack: contextlib.ExitStack, limits: Limits
) -> tuple[dict[str, Any] | None, str]:
    """(the optimizer's configuration, path of the weights) of an archive."""
    weights = stack.enter_context(
        tempfile.NamedTemporaryFile(suffix=".weights.h5")
    )
    archive.unpack(path, "model.weights.h5", weights, limits)
    config = archive.read_json(path, "config.json", limits)
    return (config.get("compile_config") or {}).get("optimizer"), weights.name


def _object_based(path: str, graph: object_graph.Graph) -> Contents:
    items: list[Item] = []
    names: set[str] = set()
    claimed: dict[int, Item] = {}
    keys = [graph.key(i) for i in range(len(graph.nodes))]

    def parts(node: int) -> tuple[str, ...]:
        return tuple(
            str(keys[node])
            .partition("/.OPTIMIZER_SLOT")[0]
            .partition("/.ATTRIBUTES")[0]
            .split("/")
        )

    for optimizer in graph.optimizers():
        for name, node in graph.edges(optimizer).items():
            if keys[node] is None:
                continue
            full_name = graph.full_name(node)
            names.add(full_name.rpartition("/")[0].rpartition("/")[2])
            kind = (
                ITERATIONS if name in ("iter", "iteration") else HYPERPARAMETER
            )
            claimed[node] = Item(
                kind,
                (name,),
                graph.reader.value(keys[node]),
                name=full_name,
            )
        for variable, slot, node in graph.slots(optimizer):
            if keys[node] is not None:
                claimed[node] = Item(
                    SLOT,
                    parts(variable),
                    graph.reader.value(keys[node]),
                    slot,
                    graph.full_name(variable),
                )
    seen: set[str] = set()
    for node, key in enumerate(keys):
        if key is None or key in seen:
            continue
        seen.add(key)
        item = claimed.get(node)
        if item is None:
            path_of = parts(node)
            other = path_of[0] == "save_counter" or "keras_api" in path_of
            item = Item(
                OTHER if other else MODEL,
                path_of,
                graph.reader.value(key),
                name=graph.full_name(node),
            )
        items.append(item)
    result = Contents(path, object_graph.FORMAT, items)
    if graph.has_new_style_optimizer():
        result.class_names = ("one of Keras' later API",)
        result.is_of_another_optimizer = True
    else:
        result.class_names = _classes(result, names)
    return result


def _classes(contents: Contents, names: set[str]) -> Sequence[str]:
    """The class that the optimizer's name, slots and scalars speak of."""
    if not contents.of(ITERATIONS):
        return ()
    hypers = {item.path[-1] for item in contents.of(HYPERPARAMETER)}
    slots = frozenset(item.slot for item in contents.of(SLOT))
    if "momentum_cache" in hypers:
        return ("Nadam",)
    found = _BY_SLOTS.get(slots, ())
    if not slots and "momentum" in hypers:
        found = ("SGD",)
    # An optimizer is called like its class, unless it was given a name.
    return [name for name in found if name in names] or found


def _name_based(path: str, reader: object_graph.Reader) -> Contents:
    items: list[Item] = []
    left = set(reader.shapes)
    classes: set[str] = set()
    slot_keys: set[str] = set()
    for key in sorted(left):
        for name, keys in tf1._slot_keys(left, key):
            if name in _TF1_CLASSES:
                slots = _TF1_SLOTS.get((name, len(keys)))
                if slots is None:
                    continue
                classes.add(_TF1_CLASSES[name])
                slot_keys.update(keys)
                for slot, slot_key in zip(slots, keys, strict=True):
                    items.append(
                        Item(
                            SLOT,
                            tuple(key.split("/")),
                            reader.value(slot_key),
                            slot,
                            key,
                        )
                    )
    for key in sorted(left - slot_keys):
        last = key.rpartition("/")[2]
        scalar = last == "global_step" or re.match(r"beta[12]_power", last)
        items.append(
            Item(
                OTHER if scalar else MODEL,
                tuple(key.split("/")),
                reader.value(key),
                name=key,
            )
        )
    step = _tf1_iterations(items)
    if step is not None:
        items.append(step)
    return Contents(path, tf1.FORMAT, items, sorted(classes))


_TF1_SLOTS = {
    ("Adam", 2): ("m", "v"),
    ("Adagrad", 1): ("accumulator",),
    ("Adadelta", 2): ("accum_grad", "accum_var"),
    ("Ftrl", 2): ("accumulator", "linear"),
    ("RMSProp", 2): ("rms", "momentum"),
    ("RMSProp", 3): ("rms", "mg", "momentum"),
    ("Momentum", 1): ("momentum",),
}


def _tf1_iterations(items: Sequence[Item]) -> Item | None:
    """The iterations, from the step or the powers of the default betas."""
    for item in items:
        last = item.path[-1]
        beta = {"beta1_power": 0.9, "beta2_power": 0.999}.get(last)
        step = None
        if beta is not None:
            step = tf1.steps_of_power(item.value.read(), beta)
        elif last == "global_step":
            step = item.value.read()
        if step is not None:
            value = Value(
                item.value.name,
                (),
                np.int64,
                functools.partial(np.asarray, step, np.int64),
            )
            return Item(ITERATIONS, ("iter",), value)
    return None


def _keras_2_h5(path: str, file: Any) -> Contents:
    items: list[Item] = []
    paths: dict[str, tuple[str, ...]] = {}
    for layer, weights in h5.layers(file):
        for name, dataset in weights:
            name = name.removesuffix(":0")
            relative = name.split("/")
            if relative[0] == layer:
                relative = relative[1:]
            paths[name] = (layer, *relative)
            value = h5.value(f"{layer}/{name}", dataset)
            items.append(Item(MODEL, paths[name], value, name=name))
    config = h5.optimizer_config(file)
    for name, dataset in h5.optimizer_weights(file):
        items.append(_h5_optimizer_weight(name, dataset, paths))
    for name, number in _hyperparameters(config):
        if isinstance(number, (int, float)):
            value = Value(
                f"optimizer_config/{name}",
                (),
                np.float32,
                functools.partial(np.asarray, number, np.float32),
            )
            items.append(Item(HYPERPARAMETER, (name,), value))
    classes = []
    if config:
        inner = h5.without_loss_scale(config)
        classes = [inner["class_name"].rpartition(">")[2]]
    return Contents(path, h5.FORMAT, items, classes, config=config)


def _hyperparameters(config: dict[str, Any] | None) -> list[tuple[str, Any]]:
    """What of a configuration becomes a variable of the optimizer."""
    if not config:
        return []
    config = h5.without_loss_scale(config)
    class_name = config["class_name"].rpartition(">")[2]
    cls = hosts.public_class(class_name, Optimizer)
    if not cls:
        return []
    variables = cls()._hyper.keys()
    stored = releases.completed(class_name, config["config"])
    return [(n, v) for n, v in stored.items() if n in variables]


def _h5_optimizer_weight(
    name: str, dataset: Any, paths: dict[str, tuple[str, ...]]
) -> Item:
    value = h5.value(name, dataset)
    whole = name.removesuffix(":0")
    stem, _, last = whole.rpartition("/")
    if last in ("iter", "iterations") or (
        not dataset.shape and np.dtype(dataset.dtype).kind == "i"
    ):
        return Item(ITERATIONS, ("iter",), value, name=whole)
    found = [n for n in paths if f"/{stem}".endswith(f"/{n}")]
    if found:
        variable = max(found, key=len)
        return Item(SLOT, paths[variable], value, last, variable)
    kind = HYPERPARAMETER if not dataset.shape else OTHER
    return Item(kind, (last,), value, name=whole)


def _keras_3_h5(
    path: str, file: Any, config: dict[str, Any] | None
) -> Contents:
    items: list[Item] = []
    names = file.get(f"optimizer/vars/{saving.VARIABLE_NAMES}")
    names = bytes(names[()]).decode().split("\n") if names is not None else []
    paths = file.get(f"optimizer/vars/{saving.VARIABLE_PATHS}")

    def visit(name: str, node: Any) -> None:
        about = (saving.VARIABLE_NAMES, saving.VARIABLE_PATHS)
        if not hasattr(node, "shape") or name.endswith(about):
            return
        parts = tuple(name.split("/"))
        value = h5.value(name, node)
        if parts[:2] != ("optimizer", "vars"):
            kind = OTHER if parts[0] == "metrics" else MODEL
            items.append(Item(kind, parts, value, name=name))
            return
        last = parts[-1]
        slot, _, number = last.rpartition(".")
        if last == "iter":
            items.append(Item(ITERATIONS, (last,), value))
        elif slot:
            variable = f"variable {number}"
            if int(number) < len(names):
                variable = names[int(number)]
            items.append(Item(SLOT, (variable,), value, slot))
        elif last.isdigit():
            items.append(Item(OTHER, parts, value, name=name))
        else:
            items.append(Item(HYPERPARAMETER, (last,), value))

    file.visititems(visit)
    result = Contents(
        path, "Keras 3 HDF5", items, config=config, variable_names=names
    )
    if paths is not None:
        result.variable_paths = paths[()]
    if config is not None:
        result.format = "Keras .keras archive"
        result.class_names = [config["class_name"]]
    else:
        result.class_names = _classes(result, set())
    if any(i.path[0] == "optimizer" for i in items if i.kind == OTHER):
        result.class_names = [
            f"{name} of Keras 3" for name in result.class_names or ["one"]
        ]
        result.is_of_another_optimizer = True
    return result
