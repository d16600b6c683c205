"""A Keras 3 model under the names that Keras 2 gave to its parts.

A TensorFlow checkpoint is a graph of objects whose edges have names, and Keras
2 and 3 name them differently: what is `layer_with_weights-0/kernel` in a Keras
2 checkpoint is `_functional/_operations/1/_kernel` in one of Keras 3.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
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
    keras = _keras_3()
    return keras is not None and isinstance(node, keras.layers.Layer)


def children(node: Any) -> dict[str, Any]:
    """{name in Keras 2: part} of a Keras 3 layer, or of a list or dictionary.

    The order is that in which Keras 2 visited the parts.
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
                if hosts.is_keras_variable(part):
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


def _keras_3() -> Any | None:
    return sys.modules["keras"] if "keras" in hosts.adopted() else None


@functools.cache
def _of_every_layer() -> frozenset[str]:
    layer = _keras_3().layers.Layer(name="keras_legacy_opt_probe")
    return frozenset(vars(layer))


class Keras2View(private_api.Trackable):
    """A Keras 3 model, for `tf.train.Checkpoint` to see with Keras 2's names.

    What is saved through it is what Keras 2 would have saved, and what Keras 2
    saved is restored through it.  `keras_legacy_opt.checkpoints.restore` and
    `save` use it; use it yourself with a `tf.train.CheckpointManager`:

    >>> import tempfile, keras
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> view = keras_legacy_opt.checkpoints.Keras2View(model)
    >>> checkpoint = tf.train.Checkpoint(
    ...     model=view, optimizer=keras_legacy_opt.Adam())
    >>> path = checkpoint.save(tempfile.mkdtemp() + "/ckpt")
    >>> [name.partition("/.")[0] for name, _ in tf.train.list_variables(path)
    ...  if name.startswith("model/")]
    ['model/layer_with_weights-0/bias', 'model/layer_with_weights-0/kernel']

    Args:
      model: a built Keras 3 model.
      optimizer: (Optional) the optimizer to hang on the model, where the
        TF-format `save_weights` of Keras 2 has it.
    """

    def __init__(self, model: Any, optimizer: Any | None = None):
        self._node = model
        self._optimizer = optimizer
        self._views: dict[int, Any] = {id(model): self}

    def _part(self, part: Any) -> Any:
        if hosts.is_keras_variable(part):
            return hosts.unwrap(part)
        if not is_keras_3_layer(part) and not isinstance(
            part, (Mapping, list, tuple)
        ):
            return part
        if id(part) not in self._views:
            view = Keras2View(part)
            view._views = self._views
            self._views[id(part)] = view
        return self._views[id(part)]

    def _trackable_children(
        self, save_type: str = "checkpoint", **kwargs: Any
    ) -> dict[str, Any]:
        parts = {n: self._part(p) for n, p in children(self._node).items()}
        if self._optimizer is not None:
            parts["optimizer"] = self._optimizer
        return parts

    def _lookup_dependency(
        self, name: str, cached_dependencies: Any = None
    ) -> Any | None:
        part = self._trackable_children().get(name)
        if part is None and name in (others := aliases(self._node)):
            part = self._part(others[name])
        return part
