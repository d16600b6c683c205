"""The golden set of tensorflow_addons: what it computed and saved."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import tarfile
from typing import Any

import npz
import numpy as np
import tensorflow as tf

import keras_legacy_opt
from keras_legacy_opt import addons

ARCHIVE = pathlib.Path(__file__).parents[1] / "golden" / "addons.tar.xz"
RAW_SAVED_AT, MODEL_SAVED_AT, STEPS = 3, 2, 6


def unpack(folder: pathlib.Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")


@functools.cache
def classes() -> dict[str, list[str]]:
    """{case: the names of its class and of those that it wraps}."""
    with tarfile.open(ARCHIVE) as archive:
        return json.load(archive.extractfile("addons/manifest.json"))["cases"]


def class_of(name: str) -> Any:
    return getattr(addons, name, None) or getattr(keras_legacy_opt, name, None)


def case_names() -> list[str]:
    """The cases whose classes there are."""
    return [k for k, names in classes().items() if all(map(class_of, names))]


def _made(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "config" in value:
        schedule = getattr(keras_legacy_opt.schedules, value["class_name"])
        return schedule(**value["config"])
    return class_of(value["class_name"])(**value["kwargs"])


@dataclasses.dataclass(frozen=True)
class Case:
    """An optimizer with certain arguments, and its runs."""

    folder: pathlib.Path

    @functools.cached_property
    def info(self) -> dict:
        return json.loads((self.folder / "case.json").read_text())

    @functools.cached_property
    def data(self) -> dict[str, np.ndarray]:
        return npz.read(self.folder.parent / "data.npz")

    @property
    def has_raw_run(self) -> bool:
        return "before_training" in self.info

    def optimizer(self, model: Any = None) -> Any:
        cls = class_of(self.info["optimizer"])
        arguments = {k: _made(v) for k, v in self.info["kwargs"].items()}
        if self.info["optimizer"] == "MultiOptimizer":
            return cls(
                [(o, model.get_layer(layer)) for layer, o in arguments.items()]
            )
        return cls(**arguments)

    def trace(self, run: str) -> list[dict[str, np.ndarray]]:
        """The records of a run, "raw" or "model", by step."""
        stacks = npz.read(self.folder / f"{run}.npz")
        return [{k: v[i] for k, v in stacks.items()} for i in range(STEPS)]

    def variables(self) -> dict[str, tf.Variable]:
        """Those of the raw run, before it."""
        return {
            name: tf.Variable(self.data[name], name=name)
            for name in ("dense", "sparse")
        }

    def gradients(self, step: int, is_sparse: bool) -> list[Any]:
        """Those of a step of the raw run, counted from 0."""
        dense, values, indices = (
            tf.constant(self.data[name][step])
            for name in (
                "dense_grad",
                "sparse_grad_values",
                "sparse_grad_indices",
            )
        )
        slices = tf.IndexedSlices(values, indices, (5, 2))
        return [dense, slices if is_sparse else tf.convert_to_tensor(slices)]

    def model(self, keras: Any) -> Any:
        """The model of the model run, in either Keras, with its weights."""
        tokens = keras.layers.Input(shape=(2,), dtype="int32", name="tokens")
        h = keras.layers.Embedding(5, 2, name="emb")(tokens)
        h = keras.layers.Flatten(name="flat")(h)
        h = keras.layers.Dense(2, name="out")(h)
        model = keras.Model(tokens, h, name="golden")
        # The original takes no sparse gradients.
        model.get_layer("emb").trainable = self.info["is_sparse"]
        model.set_weights([self.data[f"model_{i}"] for i in range(3)])
        return model


def state(optimizer: Any, variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """{"variable/slot": value}; of what is wrapped, below "inner"."""
    found = {
        f"{label}/{slot}": optimizer.get_slot(variable, slot).numpy()
        for label, variable in variables.items()
        for slot in optimizer.get_slot_names()
    }
    inner = getattr(optimizer, "_optimizer", None)
    if inner is not None:
        below = state(inner, variables)
        found |= {f"inner/{key}": value for key, value in below.items()}
    return found


def plain(config: Any) -> Any:
    """A configuration without what differs between packages and formats."""
    if isinstance(config, (list, tuple)):
        return [plain(each) for each in config]
    if not isinstance(config, dict):
        return config
    if "class_name" in config:
        name = config["class_name"].rpartition(">")[2]
        return {"class_name": name, "config": plain(config["config"])}
    return {key: plain(value) for key, value in config.items()}
