"""TensorFlow's object checkpoints: of Keras 2 models, and SavedModels' ones.

Such a checkpoint stores a graph: nodes are objects, edges have names, leaves
have values, and slots hang on pairs of an optimizer and a variable.  Walking
that graph and the live objects side by side tells where each value belongs.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import hosts, private_api
from keras_legacy_opt.checkpoints import contents, optimizers
from keras_legacy_opt.checkpoints.bundle import Bundle
from keras_legacy_opt.checkpoints.contents import Contents, Item
from keras_legacy_opt.checkpoints.keras_2_paths import (
    LAYER,
    in_model,
    is_attribute,
)
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.checkpoints.sources import Source
from keras_legacy_opt.checkpoints.targets import Targets
from keras_legacy_opt.hosts import model_parts
from keras_legacy_opt.step.clipping import CLIPPING

FORMAT = "TensorFlow object checkpoint"
NO_PLACE = "nothing in the model has this place"
_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"
# So begin the names of hyperparameters that only a SavedModel has; and these
# are limits of clipping.
_SETTING = "_hyper_"
_LIMITS = frozenset(f"_{option}" for option in CLIPPING)
_SUFFIX = f"/.ATTRIBUTES/{_VALUE}"
_SLOT = "/.OPTIMIZER_SLOT"
_ITERATIONS = frozenset(["iter", "iteration"])
_SHARD_BYTES = 64 << 20
# Nobody has more optimizers inside each other.
_DEEPEST = 20


def detect(source: Source) -> bool:
    """Whether it has an object graph."""
    return source.bundle is not None and _GRAPH_KEY in source.bundle.shapes


class Graph:
    """The object graph of a checkpoint, with what is asked of it.

    Raises:
      CheckpointError: if it contradicts itself.
    """

    def __init__(self, bundle: Bundle):
        self.bundle = bundle
        graph = private_api.object_graph(bundle.tensor(_GRAPH_KEY).item())
        self.nodes = graph.nodes
        self._edges = [
            {child.local_name: child.node_id for child in node.children}
            for node in self.nodes
        ]
        known = range(len(self.nodes))
        if 0 not in known or not all(
            child in known
            for i in known
            for child in (*self.edges(i).values(), *self._in_slots(i))
        ):
            raise CheckpointError(
                f"{bundle.prefix} contradicts itself: its object graph speaks"
                " of objects that it has not. Nothing was changed."
            )

    def _in_slots(self, optimizer: int) -> Iterator[int]:
        for variable, _, slot in self.slots(optimizer):
            yield from (variable, slot)

    def edges(self, node: int) -> dict[str, int]:
        """{name: node} of a node."""
        return self._edges[node]

    def key(self, node: int) -> str | None:
        """The key of a node's value, if it has one that is stored."""
        for attribute in self.nodes[node].attributes:
            key = attribute.checkpoint_key
            if attribute.name == _VALUE and key in self.bundle.shapes:
                return key
        return None

    def path(self, node: int) -> tuple[str, ...]:
        """Where a variable is, whether its value is stored or not."""
        for attribute in self.nodes[node].attributes:
            if attribute.name == _VALUE:
                return _path(attribute.checkpoint_key)
        return (f"object {node}",)

    def full_name(self, node: int) -> str:
        """The name that the variable of a node had."""
        for attribute in self.nodes[node].attributes:
            return attribute.full_name
        return ""

    def optimizers(self) -> list[int]:
        """The nodes of optimizers, that with the most state first.

        A wrapper, such as a LossScaleOptimizer, has fewer slots than the inner.
        """
        weights = {i: self._weight(i) for i in range(len(self.nodes))}
        found = sorted(weights, key=lambda i: weights[i], reverse=True)
        clear = [i for i in found if weights[i][:2] > (0, 0)]
        # A model may have something called `iter`, too, and so may the root.
        return clear or [i for i in found if i and self._counts(i)]

    def with_state(self) -> list[int]:
        """The same, and what has only hyperparameters of one."""
        nodes = self.optimizers()
        for node in [*nodes]:
            nodes += [n for n in self.inside(node) if n not in nodes]
        return nodes

    def outermost(self) -> list[int]:
        """The nodes of optimizers that no other one holds."""
        nodes = self.with_state()
        held = {c for n in nodes for c in self.inside_of(n).values()}
        return [node for node in nodes if node not in held]

    def inside(self, optimizer: int) -> list[int]:
        """What has the hyperparameters of an optimizer inside a wrapper.

        It has neither iterations nor slots.
        """
        return [
            node
            for name, node in self.edges(optimizer).items()
            if name != "base_optimizer"
            and optimizers.OF_EACH & {*self.edges(node)}
        ]

    def inside_of(self, optimizer: int) -> dict[str, int]:
        """{name: node} of the optimizers that another one has."""
        return {
            name: child
            for name, child in self.edges(optimizer).items()
            if name != "base_optimizer" and self._is_optimizer(child)
        }

    def holder_of_several(self) -> int | None:
        """A MultiOptimizer, or the outermost around it.

        None if there is none, or more than one.
        """
        around = {
            child: node
            for node in range(1, len(self.nodes))
            if self._is_optimizer(node)
            for child in self.inside_of(node).values()
        }
        outermost = set()
        for node in range(1, len(self.nodes)):
            if self._holds_several(node):
                seen = {node}
                while around.get(node, node) not in seen:
                    node = around[node]
                    seen.add(node)
                outermost.add(node)
        return outermost.pop() if len(outermost) == 1 else None

    def _is_optimizer(self, node: int) -> bool:
        """Whether a node inside an optimizer is one; it may not count."""
        return bool(
            self._counts(node)
            or self.nodes[node].slot_variables
            or optimizers.OF_EACH & {*self.edges(node)}
            or self._holds_several(node)
        )

    def _holds_several(self, node: int) -> bool:
        return any(map(contents.is_member, self.edges(node)))

    def are_inside_each_other(self, optimizer_nodes: Sequence[int]) -> bool:
        """Whether all optimizers are one, and wrappers around it."""
        nodes = {*optimizer_nodes}
        inside = {
            node: nodes & {*self.edges(node).values()} - {node}
            for node in nodes
        }
        outermost = nodes.difference(*inside.values())
        return (
            len(nodes) > 1
            and len(outermost) == 1
            and all(len(others) <= 1 for others in inside.values())
            # A loss scale of TensorFlow up to 2.3 is no wrapper that counts.
            and not any(
                self.edges(n).get("base_optimizer") in nodes for n in nodes
            )
        )

    def ways(self, outermost: int) -> dict[int, contents.Way]:
        """{node: way to it} of an optimizer, and all inside it."""
        found: dict[int, contents.Way] = {outermost: ()}
        queue = [outermost]
        for node in queue:  # It grows.
            for name, child in sorted(
                self.inside_of(node).items(), key=_by_number
            ):
                way = (*found[node], name)
                if child not in found and len(way) < _DEEPEST:
                    found[child] = way
                    queue.append(child)
        return found

    def chain(self, optimizer_nodes: Sequence[int]) -> dict[int, contents.Way]:
        """The same of optimizers that are inside each other."""
        inside = {
            node: {
                child: name
                for name, child in self.edges(node).items()
                if child in optimizer_nodes and child != node
            }
            for node in optimizer_nodes
        }
        held = {child for others in inside.values() for child in others}
        (node,) = {*optimizer_nodes} - held
        found: dict[int, contents.Way] = {node: ()}
        while inside[node]:
            ((child, name),) = inside[node].items()
            found[child] = (*found[node], name)
            node = child
        return found

    def _counts(self, node: int) -> bool:
        return not _ITERATIONS.isdisjoint(self.edges(node))

    def _weight(self, node: int) -> tuple[int, int, int]:
        """How much of an optimizer a node is."""
        edges = self.edges(node)
        scalars = optimizers.OF_EACH & {*edges} if self._counts(node) else ()
        return len(self.nodes[node].slot_variables), len(scalars), len(edges)

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
        return self._loss_scales.get(optimizer, {})

    @functools.cached_property
    def _loss_scales(self) -> dict[int, dict[str, int]]:
        having = {
            node: self.edges(edges["loss_scale"])
            for node, edges in enumerate(self._edges)
            if "loss_scale" in edges
        }
        of_inner: dict[int, dict[str, int]] = {}
        for node, scale in having.items():
            inner = self.edges(node).get("base_optimizer", node)
            of_inner.setdefault(inner, scale)
        return of_inner | having


def _by_number(edge: tuple[str, int]) -> tuple[int, str]:
    """The order in which one of several optimizers calls them."""
    return len(edge[0]), edge[0]


def _path(key: str) -> tuple[str, ...]:
    return tuple(key.partition("/.ATTRIBUTES")[0].split("/"))


# Reading.


def read(source: Source) -> Contents:
    """What is in the checkpoint."""
    bundle = source.bundle
    assert bundle is not None
    graph = Graph(bundle)
    return _contents(graph, source.path, *_optimizer(graph, graph.with_state()))


def _contents(
    graph: Graph,
    path: str,
    ways: Mapping[int, contents.Way],
    state: Mapping[int, Item],
) -> Contents:
    """What is in a checkpoint, given the optimizer that is meant.

    Args:
      graph: the object graph.
      path: of the file.
      ways: {node of an optimizer: way to it}.
      state: {node: item} of these.
    """
    result = Contents(path, FORMAT, [], source=graph)
    of_all = {n for o in graph.with_state() for n in _of_optimizer(graph, o)}
    others = of_all - {*state}
    seen = {_GRAPH_KEY}
    for node in range(len(graph.nodes)):
        key = graph.key(node)
        if key is not None and key not in seen:
            seen.add(key)
            item = state.get(node) or _other(graph, node, key, node in others)
            result.items.append(item)
    for key in sorted(graph.bundle.shapes.keys() - seen):
        value, reason = graph.bundle.value(key), "is no variable"
        parts = tuple(key.replace("/.ATTRIBUTES/", "/").split("/"))
        item = Item(contents.FOREIGN, parts, value, reason=reason)
        result.items.append(item)
    if graph.has_new_style_optimizer():
        result.class_names = ("one of Keras' later API",)
        result.is_of_another_optimizer = True
        return result
    result.ways = [*ways.values()]
    result.class_names = optimizers.judged(result)
    if others:
        result.obstacle = contents.SEVERAL
    return result


def _optimizer(
    graph: Graph, nodes: Sequence[int]
) -> tuple[dict[int, contents.Way], dict[int, Item]]:
    """{node: way} of the optimizer and those inside it, {node: item} of them.

    Of optimizers that do not belong together, it is the first.

    Args:
      graph: the object graph.
      nodes: of all optimizers.
    """
    holder = graph.holder_of_several()
    if holder is not None:
        ways = graph.ways(holder)
        return ways, _of_several(graph, ways)
    if graph.are_inside_each_other(nodes):
        ways = graph.chain(nodes)
        state = _of_several(graph, ways)
        # Settings have no place in an optimizer.
        names = [(i.path, i.slot) for i in state.values() if not i.reason]
        if len({*names}) == len(names):
            return ways, state
    ways: dict[int, contents.Way] = dict.fromkeys(nodes[:1], ())
    return ways or {0: ()}, _of_several(graph, ways)


def _of_several(
    graph: Graph, ways: Mapping[int, contents.Way]
) -> dict[int, Item]:
    """{node: item} of optimizers, given the ways to them."""
    result: dict[int, Item] = {}
    for optimizer, way in ways.items():
        for node, item in _of_optimizer(graph, optimizer).items():
            own = contents.counting(way)
            if item.kind in (contents.HYPERPARAMETER, contents.SLOT):
                own = way
            item = dataclasses.replace(item, owner=own)
            result.setdefault(node, item)
    return result


def _of_optimizer(graph: Graph, optimizer: int) -> dict[int, Item]:
    """{node: item} of an optimizer's values."""
    result: dict[int, Item] = {}

    def add(
        node: int,
        kind: str,
        path: tuple[str, ...],
        slot: str = "",
        name: str = "",
    ) -> None:
        key = graph.key(node)
        if key is not None:
            value = graph.bundle.value(key)
            result[node] = Item(kind, path, value, slot, name)

    for name, node in graph.edges(optimizer).items():
        if name.startswith(_SETTING) or name in _LIMITS:
            key = graph.key(node)
            if key is not None:
                result[node] = Item(
                    contents.FOREIGN,
                    (name,),
                    graph.bundle.value(key),
                    reason="is a setting of the optimizer, which has its own",
                )
            continue
        is_count = name in _ITERATIONS
        kind = contents.ITERATIONS if is_count else contents.HYPERPARAMETER
        add(node, kind, (name,), "", graph.full_name(node))
    for name, node in graph.loss_scale(optimizer).items():
        add(node, contents.LOSS_SCALE, graph.path(node)[:-1] + (name,))
    for variable, slot, node in graph.slots(optimizer):
        name = graph.full_name(variable)
        add(node, contents.SLOT, graph.path(variable), slot, name)
    return result


def _other(graph: Graph, node: int, key: str, of_optimizer: bool) -> Item:
    """What is not the optimizer's."""
    path = _path(key)
    kind, reason = contents.OTHER, ""
    if path[0] == "save_counter":
        reason = "counts the saves of one tf.train.Checkpoint"
    elif "keras_api" in path:
        reason = "a metric's state, which every epoch resets"
    elif not of_optimizer and _SLOT not in key:
        kind = contents.MODEL
    value = graph.bundle.value(key)
    return Item(kind, path, value, "", graph.full_name(node), reason=reason)


# Finding the variables.


def locate(
    file: Contents, targets: Targets, names: Any = None
) -> tuple[Contents, dict[tuple[str, ...], Any]]:
    """The file, and {path: variable}, under whichever root fits best."""
    graph: Graph = file.source
    edges = graph.edges(0)
    # The model itself, or a tf.train.Checkpoint(model=...) of it.
    roots = [edges[name] for name in ("model", "net", "root") if name in edges]
    roots += [0, *(node for node in edges.values() if node not in roots)]
    best: dict[int, Any] = {}
    for root in roots:
        matched = _walk(graph, root, targets)
        if len(matched) > len(best):
            best = matched
    located = {graph.path(node): live for node, live in best.items()}
    if targets.has_optimizer and file.obstacle == contents.SEVERAL:
        file = _of_model_only(file, located)
    return file.of_model(located), located


def _of_model_only(
    file: Contents, located: Mapping[tuple[str, ...], Any]
) -> Contents:
    """The file, of several optimizers with that of the model's variables.

    Slots tell which that is; if they do not, it is none.
    """
    graph: Graph = file.source
    found = []
    for node in graph.outermost():
        ways = graph.ways(node)
        state = _of_several(graph, ways)
        count = sum(
            item.kind == contents.SLOT and item.path in located
            for item in state.values()
        )
        found.append((count, ways, state))
    (most, ways, state), *rest = sorted(found, key=lambda each: -each[0])
    if any(count == most for count, _, _ in rest):
        ways, state = {0: ()}, {}
    of_model = _contents(graph, file.path, ways, state)
    return dataclasses.replace(of_model, codec=file.codec)


def _walk(graph: Graph, root: int, targets: Targets) -> dict[int, Any]:
    known = {id(variable) for variable in targets.weights}
    beside = [targets.optimizer] if targets.has_optimizer else []
    matched: dict[int, Any] = {}
    visited = {root}
    queue = [(root, targets.model)]
    for node, live in queue:  # It grows.
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
            if part is not None and not any(part is each for each in beside):
                visited.add(child)
                queue.append((child, part))
    return matched


# Converting.


def unsaid(file: Contents, to_h5: bool) -> str | None:
    """What only the model's architecture tells, or `None`."""
    if not to_h5:
        return None
    for item in file.of(contents.MODEL):
        layer, *rest = in_model(item)
        is_known = is_attribute(tuple(rest))
        if not (is_known and layer.startswith(LAYER)):
            return f"where HDF5 has {'/'.join(item.path)!r}"
    return None


def as_objects(file: Contents) -> Callable[[Item], tuple[str, ...]]:
    """The function from an item to its path in an object checkpoint."""
    return lambda item: item.path


def write(
    file: Contents,
    prefix: str,
    read: Callable[[Item], np.ndarray],
    folder: str,
    taken: int | None,
) -> None:
    """Writes a checkpoint with the names of Keras 2.

    Args:
      file: what to write.
      prefix: of the new checkpoint.
      read: function that reads an item.
      folder: for temporary files.
      taken: a number of data files that it must not have.
    """
    graph, keys = _graph_of(file)
    batches = list(_batches(keys))
    shards: list[str] = []
    pending = [(_GRAPH_KEY, "", tf.constant(graph))]

    def save(parts: list[tuple[str, str, tf.Tensor]]) -> None:
        names, slices, tensors = zip(*pending, *parts, strict=True)
        pending.clear()
        shards.append(os.path.join(folder, f"shard-{len(shards)}"))
        tf.raw_ops.SaveV2(
            prefix=shards[-1],
            tensor_names=names,
            shape_and_slices=slices,
            tensors=tensors,
        )

    # The graph goes with the first values, or into a file of its own.
    if sum(map(_number_of_shards, batches)) in (0, taken):
        save([])
    for batch in batches:
        if _is_small(batch[0]):
            save([(keys[item], "", tf.constant(read(item))) for item in batch])
            continue
        (item,) = batch
        array = read(item)
        for where, text in _slices(item):
            save([(keys[item], text, tf.constant(array[where]))])
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=shards,
        destination_prefix=prefix,
        delete_old_dirs=False,
    )


def _is_small(item: Item) -> bool:
    return item.number_of_bytes <= _SHARD_BYTES


def _number_of_shards(batch: list[Item]) -> int:
    return 1 if _is_small(batch[0]) else len(list(_slices(batch[0])))


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


class _NewGraph:
    """An object graph that is being made."""

    def __init__(self) -> None:
        self.graph = private_api.new_object_graph()
        self._numbers: dict[tuple[str, ...], int] = {}
        self.node(())

    def node(self, path: tuple[str, ...]) -> int:
        """The number of the node at a path, made if it is new."""
        if path not in self._numbers:
            self._numbers[path] = len(self.graph.nodes)
            self.graph.nodes.add()
            if path:
                parent = self.graph.nodes[self.node(path[:-1])]
                parent.children.add(
                    node_id=self._numbers[path], local_name=path[-1]
                )
        return self._numbers[path]

    def slot(
        self, path: tuple[str, ...], slot: str, owner: tuple[str, ...]
    ) -> int:
        """A new node for an optimizer's slot of the variable at a path."""
        optimizer, variable = self.node(owner), self.node(path)
        number = len(self.graph.nodes)
        self.graph.nodes.add()
        self.graph.nodes[optimizer].slot_variables.add(
            original_variable_node_id=variable,
            slot_name=slot,
            slot_variable_node_id=number,
        )
        return number

    def give(self, number: int, name: str, key: str) -> str:
        """Gives a node a value under a key, which it returns."""
        self.graph.nodes[number].attributes.add(
            name=_VALUE, full_name=name, checkpoint_key=key
        )
        return key


_OPTIMIZER = ("optimizer",)


def _graph_of(file: Contents) -> tuple[bytes, dict[Item, str]]:
    """A serialized object graph, and the keys of the items."""
    new = _NewGraph()
    keys: dict[Item, str] = {}
    place = file.codec.as_objects(file)
    for item in file.items:
        if item.kind in (contents.SLOT, contents.FOREIGN):
            continue
        if item.kind in _PLACED:
            path = place(item)
        else:
            path = _below_optimizer(item)
        key = "/".join(path) + _SUFFIX
        keys[item] = new.give(new.node(path), item.name, key)
    for item in file.of(contents.SLOT):
        path, owner = place(item), (*_OPTIMIZER, *item.owner)
        below = "/".join((*owner, item.slot))
        key = f"{'/'.join(path)}{_SLOT}/{below}{_SUFFIX}"
        keys[item] = new.give(new.slot(path, item.slot, owner), item.name, key)
    return new.graph.SerializeToString(), keys


_PLACED = (contents.MODEL, contents.OTHER)


def _below_optimizer(item: Item) -> tuple[str, ...]:
    is_scale = item.kind == contents.LOSS_SCALE
    between = ("loss_scale",) if is_scale else item.owner
    return (*_OPTIMIZER, *between, item.path[-1])
