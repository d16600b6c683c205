"""Takes steps with the installed wheel: for `scripts/wheels.sh --check`.

    python check_wheel.py known|unknown

Without a compiler, a home and the source tree: with native updates beside a
TensorFlow that the wheel has a library for ("known"); without, as told in one
line, beside one of the future, which this one pretends to be ("unknown").
"""

import logging
import os
import pathlib
import shutil
import sys
import sysconfig

import numpy as np
import tensorflow as tf

FUTURE = "2.99.0"
KNOWN = sys.argv[1] == "known"
TENSORFLOW = tf.__version__
if not KNOWN:
    tf.__version__ = FUTURE

import keras  # noqa: E402 - these are to see the version above

import keras_legacy_opt  # noqa: E402
from keras_legacy_opt import fused  # noqa: E402
from keras_legacy_opt.fused import loader  # noqa: E402

LINES = []


class Listener(logging.Handler):
    """Keeps what absl logs."""

    def emit(self, record):
        """Keeps a line."""
        LINES.append(record.getMessage())


def check_place():
    """Checks that this is what a user has, and nothing more."""
    site = pathlib.Path(sysconfig.get_path("platlib")).resolve()
    package = pathlib.Path(keras_legacy_opt.__file__).resolve()
    assert site in package.parents, f"{package} is not installed"
    assert "HOME" not in os.environ
    assert not [c for c in ("g++", "clang++", "c++") if shutil.which(c)]
    if KNOWN:
        library = pathlib.Path(loader.ops().path).resolve()
        assert package.parent in library.parents, library


def train():
    """The weights after dense steps of a model and sparse ones of a table."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    optimizer = keras_legacy_opt.Adam(0.01, clipnorm=1.0)
    model.compile(optimizer, loss="mse")
    x = np.linspace(-1, 1, 256, dtype="float32").reshape(64, 4)
    model.fit(x, x[:, :3], epochs=2, verbose=0)
    table = tf.Variable(tf.ones([9, 4]))
    sparse = keras_legacy_opt.Adagrad(0.1)
    for _ in range(3):
        rows = tf.IndexedSlices(tf.ones([3, 4]), [1, 5, 1], [9, 4])
        sparse.apply_gradients([(rows, table)])
    backends = {
        each.backend for each in keras_legacy_opt.explain(sparse, [table])
    }
    return [*model.get_weights(), table.numpy()], backends


def main():
    """Runs all checks."""
    logging.getLogger("absl").addHandler(Listener())
    check_place()
    weights, backends = train()
    assert fused.is_available() == KNOWN, fused.why_not()
    assert backends == {"native ops" if KNOWN else "TensorFlow's ops"}, backends
    told = [line for line in LINES if "TensorFlow's own ops" in line]
    assert len(told) == (not KNOWN), LINES
    if KNOWN:
        with fused.disabled():
            plain, _ = train()
        for ours, theirs in zip(weights, plain, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        print(f"TensorFlow {TENSORFLOW}: native, {loader.ops().isa}")
    else:
        assert len(told[0]) < 300, told[0]
        print(f"TensorFlow {FUTURE}, which is {TENSORFLOW}: {told[0]}")


main()
