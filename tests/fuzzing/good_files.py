"""Tiny files of every format, and what they are restored into."""

import json
import pathlib
import shutil

import keras
import numpy as np
import tensorflow as tf

import keras_legacy_opt as klo
from keras_legacy_opt import checkpoints


def make_model():
    """A model, compiled with an optimizer that has its slots."""
    model = keras.Sequential(
        [keras.layers.Input((2,), name="in"), keras.layers.Dense(2, name="d")],
        name="model",
    )
    model.compile(klo.Nadam(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def write(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """{format: what to read, and the files to damage}."""
    model = make_model()
    result = {}

    def checkpoint(name, prefix, *others):
        parts = sorted(prefix.parent.glob(f"{prefix.name}.*"))
        result[f"{name} index"] = [prefix, parts[1]]
        result[f"{name} data"] = [prefix, parts[0]]
        for other in others:
            result[f"{name} {other.name}"] = [prefix.parent, other]

    def new(name):
        (folder / name).mkdir()
        return folder / name

    prefix = new("objects") / "c"
    checkpoints.save(prefix, model)
    (prefix.parent / "checkpoint").write_text(
        'model_checkpoint_path: "c"\nall_model_checkpoint_paths: "c"\n'
    )
    checkpoint("objects", prefix, prefix.parent / "checkpoint")

    prefix = new("names") / "c"
    tensors = {
        f"d/{name}{slot}": tf.ones(shape)
        for name, shape in (("kernel", [2, 2]), ("bias", [2]))
        for slot in ("", "/Adam", "/Adam_1")
    }
    tensors |= {
        "beta1_power": tf.constant(0.9**3),
        "global_step": tf.constant(2, tf.int64),
    }
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    checkpoint("names", prefix)

    saved = new("saved") / "variables"
    saved.mkdir()
    for part in (folder / "objects").glob("c.*"):
        shutil.copy(part, saved / f"variables{part.suffix}")
    for part in saved.iterdir():
        kind = "index" if part.suffix == ".index" else "data"
        result[f"saved_model {kind}"] = [saved.parent, part]

    for name in ("m.h5", "m.keras"):
        model.save(folder / name)
        result[name] = [folder / name] * 2
    model.save_weights(folder / "m.weights.h5")
    result["m.weights.h5"] = [folder / "m.weights.h5"] * 2
    (folder / "m.json").write_text(
        json.dumps(json.loads(model.to_json()), indent=1)
    )
    result["m.json"] = [folder / "m.weights.h5", folder / "m.json"]
    return result


def state(model):
    """What a failed restoration must not change."""
    return [
        *map(np.array, model.get_weights()),
        *map(np.array, model.optimizer.get_weights()),
    ]
