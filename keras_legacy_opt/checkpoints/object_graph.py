"""TensorFlow's object checkpoints: of Keras 2 models, and SavedModels' ones.

Such a checkpoint stores a graph: nodes are objects, edges have names, leaves
have values, and slots hang on pairs of an optimizer and a variable.  Walking
that graph and the live objects side by side tells where each value belongs.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import hosts, model_parts, private_api, saving
from keras_legacy_opt.checkpoints import bundle_index, keras_2_view, releases
from keras_legacy_opt.checkpoints.limits import Limits
from keras_legacy_opt.checkpoints.plan import Plan
from keras_legacy_opt.checkpoints.report import CheckpointError, Report
from keras_legacy_opt.checkpoints.targets import Targets
from keras_legacy_opt.checkpoints.values import Value, constant, readable

FORMAT = "TensorFlow object checkpoint"
GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"


def prefix_of(path: str) -> str | None:
    """The prefix of the checkpoint at `path`, if there is one.

    Args:
      path: a prefix, one of the files of a checkpoint, a folder with
        checkpoints (the latest counts), or a SavedModel's folder.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        variables = os.path.join(path, "variables", "variables")
        if os.path.exists(variables + ".index"):
            return variables
        return _latest_in(path)
    path = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path)
    return path if os.path.exists(path + ".index") else None


def _latest_in(folder: str) -> str | None:
    """The prefix of the latest checkpoint in `folder`.

    The file that tells may have been written elsewhere, and may be anyone's:
    what counts is the name, and a path if that is in the folder.
    """
    with readable(folder):
        state = tf.train.get_checkpoint_state(folder)
        if state is None or not state.model_checkpoint_path:
            return None
        told = os.path.realpath(state.model_checkpoint_path)
        inside = told.startswith(os.path.realpath(folder) + os.sep)
        name = os.path.basename(state.model_checkpoint_path)
        prefix = told if inside else os.path.join(folder, name)
        return prefix if os.path.exists(f"{prefix}.index") else None


class Reader:
    """The tensors of a TensorFlow checkpoint, of either kind.

    Args:
      prefix: of the checkpoint.
      max_size: what it may unpack to, in bytes; see `Limits.of`.

    Raises:
      CheckpointError: if it cannot be read, or a data file is missing.
    """

    def __init__(self, prefix: str, max_size: int | None = None):
        self.prefix = prefix
        with readable(prefix):
            files = glob.glob(f"{glob.escape(prefix)}.*")
            limits = Limits.of(prefix, max_size, files)
            bundle_index.check(prefix, limits)
            self._reader = tf.train.load_checkpoint(prefix)
            self.shapes = self._reader.get_variable_to_shape_map()
            self.dtypes = self._reader.get_variable_to_dtype_map()
        if not self.shapes:
            raise CheckpointError(f"{prefix} holds no tensors.")

    @property
    def is_object_based(self) -> bool:
        """Whether it has an object graph, or names only."""
        return GRAPH_KEY in self.shapes

    def value(self, key: str) -> Value:
        """The value of a tensor, not read yet."""
        return Value(
            key.removesuffix(f"/.ATTRIBUTES/{_VALUE}"),
            tuple(self.shapes[key]),
            self.dtypes[key].as_numpy_dtype,
            functools.partial(self._get, key),
        )

    def _get(self, key: str) -> np.ndarray:
        with readable(self.prefix):
            return np.asarray(self._reader.get_tensor(key))

    def graph(self) -> Any:
        """The object graph, a protocol buffer."""
        with readable(self.prefix):
            return private_api.object_graph(self._reader.get_tensor(GRAPH_KEY))


@dataclasses.dataclass
class Graph:
    """The object graph of a checkpoint, with what is asked of it."""

    reader: Reader

    def __post_init__(self) -> None:
        self.nodes = self.reader.graph().nodes
        known = range(len(self.nodes))
        if 0 not in known or not all(
            child in known
            for i in known
            for child in (*self.edges(i).values(), *self._in_slots(i))
        ):
            raise CheckpointError(
                f"{self.reader.prefix} contradicts itself: its object graph"
                " speaks of objects that it has not. Nothing was changed."
            )

    def _in_slots(self, optimizer: int) -> Iterator[int]:
        for variable, _, slot in self.slots(optimizer):
            yield from (variable, slot)

    def edges(self, node: int) -> dict[str, int]:
        """{name: node} of a node."""
        return {c.local_name: c.node_id for c in self.nodes[node].children}

    def key(self, node: int) -> str | None:
        """The key of a node's value, if it has one that is stored."""
        for attribute in self.nodes[node].attributes:
            key = attribute.checkpoint_key
            if attribute.name == _VALUE and key in self.reader.shapes:
                return key
        return None

    def full_name(self, node: int) -> str:
        """The name that the variable of a node had."""
        for attribute in self.nodes[node].attributes:
            return attribute.full_name
        return ""

    def optimizers(self) -> list[int]:
        """The nodes of optimizers that count iterations or have slots."""
        return [
            i
            for i, node in enumerate(self.nodes)
            if node.slot_variables or {"iter", "iteration"} & {*self.edges(i)}
        ]

    def slots(self, optimizer: int) -> Iterator[tuple[int, str, int]]:
        """(variable's node, slot name, slot's node) of an optimizer."""
        for slot in self.nodes[optimizer].slot_variables:
            yield (
                slot.original_variable_node_id,
                slot.slot_name,
                slot.slot_variable_node_id,
            )

    def has_new_style_optimizer(self) -> bool:
        """Whether there is an optimizer of Keras' later API.

        It keeps its variables in one list, by number.
        """
        return any(
            "_variables" in edges and {"iteration", "_iterations"} & {*edges}
            for edges in map(self.edges, range(len(self.nodes)))
        )

    def loss_scale(self, optimizer: int) -> dict[str, int]:
        """{name: node} of the loss scale of an optimizer, or of its wrapper.

        Up to TensorFlow 2.3, only the wrapper has it.
        """
        for node in (optimizer, *range(len(self.nodes))):
            edges = self.edges(node)
            wraps = optimizer in (node, edges.get("base_optimizer"))
            if wraps and "loss_scale" in edges:
                return self.edges(edges["loss_scale"])
        return {}


def plan(reader: Reader, targets: Targets, path: str) -> Plan:
    """What goes where from an object checkpoint.

    Raises:
      CheckpointError: if it cannot be read.
    """
    result = Plan(Report(path, FORMAT), targets)
    graph = Graph(reader)
    matched = _match_model(graph, targets)
    for node, variable in matched.items():
        key = graph.key(node)
        if key is not None:
            result.assign(reader.value(key), variable)
    claimed = set(matched)
    claimed |= _plan_optimizer(graph, targets, matched, result)
    seen: set[str] = set()
    for node in range(len(graph.nodes)):
        key = graph.key(node)
        if key is not None and node not in claimed and key not in seen:
            seen.add(key)
            _leave(reader.value(key), result)
    if GRAPH_KEY in reader.shapes:
        _leave_other_objects(graph, result)
    return result


def _match_model(graph: Graph, targets: Targets) -> dict[int, Any]:
    """{node: variable} of the model, found under whichever root fits best."""
    edges = graph.edges(0)
    # The model itself, or a tf.train.Checkpoint(model=...) of it.
    roots = [edges[name] for name in ("model", "net", "root") if name in edges]
    roots += [0, *(node for node in edges.values() if node not in roots)]
    best: dict[int, Any] = {}
    for root in roots:
        matched = _walk(graph, root, targets)
        if len(matched) > len(best):
            best = matched
    return best


def _walk(graph: Graph, root: int, targets: Targets) -> dict[int, Any]:
    known = {id(variable) for variable in targets.weights}
    matched: dict[int, Any] = {}
    visited = {root}
    queue = [(root, targets.model)]
    while queue:
        node, live = queue.pop(0)
        live = hosts.unwrap(live)
        if id(live) in known:
            matched[node] = live
            continue
        live_parts = model_parts.parts_of(live)
        others = None
        for name, child in graph.edges(node).items():
            if child in visited:
                continue
            part = live_parts.get(name)
            if part is None:
                others = model_parts.aliases(live) if others is None else others
                part = others.get(name)
            if part is not None and part is not targets.optimizer:
                visited.add(child)
                queue.append((child, part))
    return matched


def _plan_optimizer(
    graph: Graph, targets: Targets, matched: dict[int, Any], result: Plan
) -> set[int]:
    """Plans the optimizer's values; returns the nodes that are dealt with."""
    claimed: set[int] = set()
    nodes = graph.optimizers()
    if targets.optimizer is not None and graph.has_new_style_optimizer():
        result.mismatch(
            "optimizer",
            "optimizer",
            "was written by Keras' later optimizers (tf.keras.optimizers of"
            " 2.11 and up), not by a legacy one: see from_keras_3",
        )
        return claimed
    if not nodes:
        return claimed
    # A wrapper, such as a LossScaleOptimizer, has fewer slots than the inner.
    node = max(
        nodes,
        key=lambda i: (len(graph.nodes[i].slot_variables), len(graph.edges(i))),
    )
    if targets.optimizer is None:
        return claimed
    live = targets.optimizer_children
    for name, child in graph.edges(node).items():
        key = graph.key(child)
        if key is None:
            continue
        claimed.add(child)
        value = graph.reader.value(key)
        if name in live:
            result.assign(value, live[name])
        elif name == "epsilon" and hasattr(targets.optimizer, name):
            _compare_epsilon(value, result)
        elif name in targets.optimizer._hyper:
            result.unused(
                value,
                f"{name} of this optimizer is a schedule, tensor or callable",
            )
        else:
            result.unused(
                value,
                f"{type(targets.optimizer).__name__} has no {name!r}: another"
                " optimizer's file?",
            )
    _plan_what_came_later(live.keys() - graph.edges(node).keys(), result)
    scale = graph.loss_scale(node)
    for name, variable in targets.loss_scale.items():
        key = graph.key(scale[name]) if name in scale else None
        if key is not None:
            claimed.add(scale[name])
            result.assign(graph.reader.value(key), variable)
    for variable_node, slot_name, slot_node in graph.slots(node):
        key = graph.key(slot_node)
        if key is None:
            continue
        claimed.add(slot_node)
        value = graph.reader.value(key)
        variable = matched.get(variable_node)
        if variable is None:
            result.unused(value, "its variable is not in the model")
        elif slot_name in targets.slots(variable):
            result.assign(value, targets.slots(variable)[slot_name])
        else:
            trained = bool(targets.slots(variable))
            result.unused(
                value,
                f"{type(targets.optimizer).__name__} has no slot {slot_name!r}"
                f" here (it has {targets.optimizer.get_slot_names()})"
                if trained or not targets.optimizer.get_slot_names()
                else f"{targets.name(variable)} is not trainable here",
            )
    return claimed


def _compare_epsilon(value: Value, result: Plan) -> None:
    """Before TensorFlow 1.15, it was a variable."""
    own = result.targets.optimizer.epsilon
    with readable(result.report.path):
        stored = value.read()
    if np.float32(stored) == np.float32(own):
        result.ignored(value, "is no variable here, and equal")
    else:
        result.mismatch(
            value.name, "optimizer/epsilon", f"{stored} in the file, {own} here"
        )


def _plan_what_came_later(lacking: Collection[str], result: Plan) -> None:
    """Plans the hyperparameters that the writer of the file did not have.

    Of a hyperparameter that was a tensor or a callable, a checkpoint has no
    value, either: only an equal one is taken for what that release meant.
    """
    targets = result.targets
    for name, default in releases.defaults(targets.optimizer).items():
        if name not in lacking:
            continue
        variable = targets.optimizer_children[name]
        value = constant("", np.asarray(default, np.float32))
        (own,) = saving.fetch_all([variable])
        if own == np.asarray(default, own.dtype):
            note = (
                f"not in the file: releases without it computed as with {own}"
            )
            result.assign(dataclasses.replace(value, note=note), variable)
        else:
            result.not_expected(variable)
            result.mismatch(
                "",
                targets.name(variable),
                f"not in the file; it is {own} here, but releases without it"
                f" computed as with {default}",
            )


def _leave(value: Value, result: Plan) -> None:
    parts = value.name.split("/")
    if parts[0] == "save_counter":
        result.ignored(value, "counts the saves of one tf.train.Checkpoint")
    elif "keras_api" in parts:
        result.ignored(value, "a metric's state, which every epoch resets")
    elif ".OPTIMIZER_SLOT" in parts or parts[0] == "optimizer":
        reason = "no optimizer was given"
        if result.targets.optimizer is not None:
            reason = "of another optimizer, or of a wrapper around one"
        result.unused(value, reason)
    else:
        result.unused(value, "nothing in the model has this place")


def _leave_other_objects(graph: Graph, result: Plan) -> None:
    """Notes values that are no variables: tables, iterators, counters."""
    for node in graph.nodes:
        for attribute in node.attributes:
            key = attribute.checkpoint_key
            if attribute.name != _VALUE and key in graph.reader.shapes:
                value = graph.reader.value(key)
                result.ignored(
                    value, f"{attribute.name.lower()} is no variable"
                )


def save(
    prefix: str,
    model: Any,
    optimizer: Any | None,
    as_weights: bool,
) -> str:
    """Writes what Keras 2 would have written of `model` and `optimizer`."""
    checkpoint_args: dict[str, Any] = {}
    if model_parts.is_keras_3_layer(model):
        hung = optimizer if as_weights else None
        model = keras_2_view.Keras2View(model, hung)
    elif isinstance(model, Mapping):
        checkpoint_args, model = dict(model), None
    if as_weights:
        checkpoint = tf.train.Checkpoint(model, **checkpoint_args)
    else:
        if model is not None:
            checkpoint_args["model"] = model
        if optimizer is not None:
            checkpoint_args["optimizer"] = optimizer
        checkpoint = tf.train.Checkpoint(**checkpoint_args)
    return checkpoint.write(prefix)
