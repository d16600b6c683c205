"""The golden sets: what old releases saved, and how they went on."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import pathlib
import tarfile

import npz
import numpy as np

import keras_legacy_opt

ARCHIVE = pathlib.Path(__file__).parents[1] / "golden" / "sets.tar.xz"
SETS = ("tf-2.4", "tf-2.8", "tf-2.11", "tf-2.15", "tf_keras-2.21")
SAVED_AT = 3
MODEL_STEPS = 8
RAW_STEPS = 6


def unpack(folder: pathlib.Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")


@functools.cache
def case_names() -> list[str]:
    """The cases of all sets; a release may lack some."""
    with tarfile.open(ARCHIVE) as archive:
        manifest = json.load(archive.extractfile(f"{SETS[-1]}/manifest.json"))
    return list(manifest["cases"])


@dataclasses.dataclass(frozen=True)
class Case:
    """One run of one optimizer in one release."""

    folder: pathlib.Path

    @functools.cached_property
    def info(self) -> dict:
        return json.loads((self.folder / "case.json").read_text())

    @functools.cached_property
    def trace(self) -> dict[str, np.ndarray]:
        return npz.read(self.folder / "trace.npz")

    @functools.cached_property
    def data(self) -> dict[str, np.ndarray]:
        return npz.read(self.folder.parents[1] / "data.npz")

    @property
    def release(self) -> str:
        return self.folder.parents[1].name

    def optimizer(self, module=keras_legacy_opt):
        kwargs = {
            name: getattr(keras_legacy_opt.schedules, value["class_name"])(
                **value["config"]
            )
            if isinstance(value, dict)
            else value
            for name, value in self.info["kwargs"].items()
        }
        return getattr(module, self.info["optimizer"])(**kwargs)

    def unzipped(self, name: str) -> pathlib.Path:
        """The path of a file that is stored compressed."""
        path = self.folder / name
        if not path.exists():
            packed = path.with_name(f"{name}.gz").read_bytes()
            path.write_bytes(gzip.decompress(packed))
        return path

    def artefacts(self) -> dict[str, pathlib.Path]:
        """All files of a model run that hold the optimizer's state."""
        paths = {
            "checkpoint": self.folder / "ckpt",
            "weights": self.folder / "weights" / "weights",
            "h5": self.unzipped("model.h5"),
        }
        if (self.folder / "saved_model").exists():
            paths["saved_model"] = self.folder / "saved_model"
        return paths

    def expected(self, kind: str, step: int) -> list[np.ndarray]:
        """The arrays `kind`_0, `kind`_1, ... of the trace after `step`."""
        names = [n for n in self.trace if n.startswith(f"{kind}_")]
        names.sort(key=lambda n: int(n.rpartition("_")[2]))
        return [self.trace[n][step - 1] for n in names]


def build_model(keras):
    """The model of the golden runs, in either Keras."""
    tokens = keras.layers.Input(shape=(4,), dtype="int32", name="tokens")
    h = keras.layers.Embedding(7, 3, name="emb")(tokens)
    h = keras.layers.Flatten(name="flat")(h)
    h = keras.layers.Dense(4, activation="relu", name="hid")(h)
    h = keras.layers.Dense(2, name="out")(h)
    return keras.Model(tokens, h, name="golden")


def ulps(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, in spacings at the largest expected value."""
    spacing = np.spacing(np.abs(expected).max().astype(np.float32))
    return float(np.abs(actual - expected).max() / spacing)
