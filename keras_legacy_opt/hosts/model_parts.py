"""The parts of a model, and the paths by which its weights are reached.

A TensorFlow checkpoint is a graph of objects whose edges have names, and Keras
2 and 3 name them differently: what is `layer_with_weights-0/kernel` in a Keras
2 checkpoint is `_functional/_operations/1/_kernel` in one of Keras 3.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, private_api

# Attributes of Keras 3's models that Keras 2's had not, or under other names.
_OF_EVERY_MODEL = frozenset(
    [
        "_compile_config",
        "_compile_loss",
        "_compile_metrics",
        "_functional",
        "_inputs",
        "_inputs_struct",
        "_loss_tracker",
        "_nodes",
        "_nodes_by_depth",
        "_operations",
        "_operations_by_depth",
        "_outputs",
        "_outputs_struct",
        "optimizer",
    ]
)


def is_keras_3_layer(node: Any) -> bool:
    """Whether `node` is a layer or model of Keras 3."""
    return _knows_keras_3() and isinstance(node, _keras_3().layers.Layer)


def children(node: Any, by_name: bool = True) -> dict[str, Any]:
    """{name in Keras 2: part} of a Keras 3 layer, or of a list or dictionary.

    The order is that in which Keras 2 visited the parts.

    Args:
      node: the layer, list or dictionary.
      by_name: whether weights go by their names first, as in Keras 2, or by
        their attributes only.
    """
    if isinstance(node, Mapping):
        parts = {str(name): part for name, part in node.items()}
    elif isinstance(node, (list, tuple)):
        parts = {str(i): part for i, part in enumerate(node)}
    elif is_keras_3_layer(node):
        parts = dict(_layers_by_number(node))
        for attribute, part in vars(node).items():
            if attribute not in _of_every_layer() | _OF_EVERY_MODEL:
                # Keras 2 knew a weight by its name first, then by attribute.
                if by_name and hosts.is_keras_variable(part):
                    parts.setdefault(part.name, part)
                if part is not parts.get(attribute.removeprefix("_")):
                    parts.setdefault(attribute, part)
    else:
        parts = {}
    return {name: part for name, part in parts.items() if _has_state(part)}


def aliases(node: Any) -> dict[str, Any]:
    """The names that Keras 3 itself gives to the parts of `node`."""
    return node._trackable_children() if is_keras_3_layer(node) else {}


def _layers_by_number(model: Any) -> Iterator[tuple[str, Any]]:
    keras = _keras_3()
    if not isinstance(model, keras.Sequential) and not hasattr(
        model, "_operations_by_depth"
    ):
        return
    with_weights = 0
    for number, layer in enumerate(model.layers):
        if layer.weights:
            yield f"layer_with_weights-{with_weights}", layer
            with_weights += 1
        yield f"layer-{number}", layer


def _has_state(part: Any) -> bool:
    if isinstance(part, Mapping):
        return any(map(_has_state, part.values()))
    if isinstance(part, (list, tuple)):
        return any(map(_has_state, part))
    return (
        is_keras_3_layer(part)
        or hosts.is_keras_variable(part)
        or isinstance(part, (tf.Variable, tf.Module))
        or _is_tf_keras_layer(part)
    )


def _is_tf_keras_layer(part: Any) -> bool:
    return "tf_keras" in hosts.adopted() and isinstance(
        part, sys.modules["tf_keras"].layers.Layer
    )


def _knows_keras_3() -> bool:
    return "keras" in hosts.adopted()


def _keras_3() -> Any:
    return sys.modules["keras"]


@functools.cache
def _of_every_layer() -> frozenset[str]:
    layer = _keras_3().layers.Layer(name="keras_legacy_opt_probe")
    return frozenset(vars(layer))


def parts_of(live: Any, by_name: bool = True) -> dict[str, Any]:
    """{name of the edge: part} of an object, as Keras 2 would have saved it."""
    if is_keras_3_layer(live) or isinstance(live, (Mapping, list, tuple)):
        return children(live, by_name)
    if isinstance(live, private_api.Trackable):
        return dict(live._trackable_children())
    return {}


def weights_by_path(model: Any | None) -> dict[str, Any]:
    """{path: weight} of all weights that can be reached in a model.

    The path has attributes and numbers of layers, but no names, which Keras
    makes up and counts on: it is the same wherever the model is made.
    """

    def parts(live: Any) -> Iterator[tuple[str, Any]]:
        for name, part in sorted(parts_of(live, by_name=False).items()):
            if not name.startswith("layer-"):  # Those may come or go.
                yield name, part

    return {
        "".join(f"/{name}" for name in path): weight
        for path, weight in reached(model, parts)
    }


def reached(
    model: Any | None,
    parts: Callable[[Any], Iterable[tuple[str, Any]]] = lambda live: parts_of(
        live
    ).items(),
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(shortest path, weight) of all weights that can be reached in a model.

    Args:
      model: a built model of Keras 3 or tf_keras.
      parts: function that returns (name of the edge, part) of an object.
    """
    wanted = {id(hosts.unwrap(w)): w for w in getattr(model, "weights", ())}
    visited = {id(model)}
    queue: list[tuple[tuple[str, ...], Any]] = [((), model)] if wanted else []
    for path, live in queue:  # It grows.
        if id(live) in wanted:
            yield path, wanted[id(live)]
            continue
        for name, part in parts(live):
            part = hosts.unwrap(part)
            if id(part) not in visited:
                visited.add(id(part))
                queue.append(((*path, name), part))


def weights_in_order(layer: Any) -> list[Any]:
    """A layer's weights as HDF5 files have them: those to train come first."""
    return [*layer.trainable_weights, *layer.non_trainable_weights]
