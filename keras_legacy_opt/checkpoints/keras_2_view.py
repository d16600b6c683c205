"""A Keras 3 model under the names that Keras 2 gave to its parts.

`keras_legacy_opt.hosts.model_parts` knows these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_legacy_opt import hosts, private_api
from keras_legacy_opt.hosts.model_parts import (
    aliases,
    children,
    is_keras_3_layer,
)


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
