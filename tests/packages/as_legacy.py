"""Runs a program with tf_keras' own legacy optimizers: what ours have to equal.

    python as_legacy.py [--top-level] PROGRAM ARGUMENT...
    python as_legacy.py [--top-level] -m MODULE ARGUMENT...

`tf.keras` is tf_keras, and with `--top-level` its `tf.keras.optimizers` are the
legacy ones, as they were up to TensorFlow 2.10.
"""

import importlib
import os
import runpy
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow as tf
import tf_keras


def use_legacy_at_the_top():
    """Puts the legacy classes where TensorFlow 2.10 had them."""
    legacy = tf_keras.optimizers.legacy
    names = [n for n in dir(legacy) if isinstance(getattr(legacy, n), type)]
    importlib.import_module("tensorflow.keras.optimizers")  # A second copy.
    for module in (
        tf.keras.optimizers,
        tf_keras.optimizers,
        sys.modules["tensorflow.keras.optimizers"],
    ):
        for name in names:
            setattr(module, name, getattr(legacy, name))


def main():
    arguments = sys.argv[1:]
    if arguments[0] == "--top-level":
        use_legacy_at_the_top()
        del arguments[0]
    if arguments[0] == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = arguments[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
