"""Measures a step of every addon against our Adam, its bytes, and the original.

    python benchmarks/addons.py --json benchmarks/results/addons.json

Like `optimizers.py`, whose contestants take turns in a drawn order. `Adam` is
ours. `roof` moves the bytes that the addon has to move, without arithmetic.
`tensorflow_addons` is a contestant where it can be imported:

    pip install --no-deps tensorflow-addons==0.23.0 "typeguard<3"
"""

import argparse
import os
import sys
import types

# Before TensorFlow is imported: tensorflow_addons wants Keras 2 in tf.keras.
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import contestants
import numpy as np
import optimizers
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from keras_legacy_opt import addons, fused

try:
    # It asks Keras for a module that tf_keras has under another name.
    from tf_keras.src.engine import keras_tensor

    sys.modules["keras.src.engine"] = types.ModuleType("keras.src.engine")
    sys.modules["keras.src.engine"].keras_tensor = keras_tensor
    import tensorflow_addons.optimizers as originals
except ImportError:
    originals = None

# name: (arrays that a step updates, or those of each pass over memory, function
# from a library and its Adam to the optimizer)
DENSE = {
    "AdaBelief": (3, lambda lib, adam: lib.AdaBelief()),
    "AdamW": (3, lambda lib, adam: lib.AdamW(weight_decay=0.01)),
    "AdamWeightDecay": (
        3,
        lambda lib, adam: lib.AdamWeightDecay(weight_decay_rate=0.01),
    ),
    "COCOB": (5, lambda lib, adam: lib.COCOB()),
    "ConditionalGradient": (
        (0, 1),
        lambda lib, adam: lib.ConditionalGradient(0.9, 10.0),
    ),
    "GradientAccumulation of 4": (
        1,
        lambda lib, adam: lib.GradientAccumulation(adam(), 4),
    ),
    "LAMB": ((2, 0, 1, 0), lambda lib, adam: lib.LAMB()),
    "LARS": ((0, 0, 2), lambda lib, adam: lib.LARS()),
    "Lion": (2, lambda lib, adam: lib.Lion()),
    "Lookahead of Adam": (3, lambda lib, adam: lib.Lookahead(adam())),
    "MovingAverage of Adam": (4, lambda lib, adam: lib.MovingAverage(adam())),
    "NovoGrad": ((0, 2), lambda lib, adam: lib.NovoGrad()),
    "ProximalAdagrad": (2, lambda lib, adam: lib.ProximalAdagrad()),
    "RectifiedAdam": (3, lambda lib, adam: lib.RectifiedAdam()),
    "SGDW": (2, lambda lib, adam: lib.SGDW(0.01, 0.01, momentum=0.9)),
    "SWA of Adam": (3, lambda lib, adam: lib.SWA(adam())),
    "Yogi": (3, lambda lib, adam: lib.Yogi()),
}
# name: function from our Adam to the optimizer, whose eager steps have a plan.
# Those that act every n steps are measured in between.
FAR = 10**6
EAGER = {
    "AdamW": lambda adam: addons.AdamW(weight_decay=0.01),
    "GradientAccumulation": lambda adam: addons.GradientAccumulation(
        adam(), FAR
    ),
    "Lookahead of Adam": lambda adam: addons.Lookahead(adam(), FAR),
    "MovingAverage of Adam": lambda adam: addons.MovingAverage(adam()),
    "SWA of Adam": lambda adam: addons.SWA(adam(), FAR),
}
BIG = [(1 << 24,)] * 3
MANY = [(4096,)] * 400
EAGER_STEPS = 10
LAZY_STEPS = 10


def dense(name):
    """{contestant: step()} of a row."""
    count, make = DENSE[name]

    def step_of(make):
        return contestants.tensorflow_step(make, BIG, "graph", 1)

    ours, legacy = keras_legacy_opt.Adam, tf_keras.optimizers.legacy.Adam
    result = {
        contestants.OURS: step_of(lambda: make(addons, ours)),
        "Adam": step_of(ours),
        "roof": contestants.roof(count, BIG),
    }
    if hasattr(originals, name.split()[0]):
        result["tensorflow_addons"] = step_of(lambda: make(originals, legacy))
    return result


def eager(name):
    """{contestant: step()} of eager steps on many variables."""

    def step_of(make):
        return contestants.tensorflow_step(make, MANY, "eager", EAGER_STEPS)

    adam = keras_legacy_opt.Adam
    return {
        contestants.OURS: step_of(lambda: EAGER[name](adam)),
        "Adam": step_of(adam),
    }


def lazy():
    """{contestant: step()} for a table of which 4,096 rows change.

    A step is ten: the call of a function that does nothing takes a millisecond,
    after a rest and another contestant, which is more than those rows do.
    """
    rng = np.random.default_rng(0)
    values = tf.constant(rng.standard_normal((4096, 64), dtype=np.float32))

    def step_of(cls, rows=1_000_000):
        indices = tf.constant(rng.integers(0, rows, 4096) // 2 * 2)
        grad = tf.IndexedSlices(values, indices)
        optimizer, variable = cls(), tf.Variable(tf.fill([rows, 64], 0.5))

        @tf.function(autograph=False)
        def step():
            for _ in range(LAZY_STEPS):
                optimizer.apply_gradients([(grad, variable)])

        return step

    result = {
        contestants.OURS: step_of(addons.LazyAdam),
        "ours, 4M x 64": step_of(addons.LazyAdam, 4_000_000),
        "Adam": step_of(keras_legacy_opt.Adam),
    }
    if originals is not None:
        result["tensorflow_addons"] = step_of(originals.LazyAdam)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", nargs="*", help="rows that contain one of these"
    )
    parser.add_argument("--json", help="a file to save the seconds in")
    arguments = parser.parse_args()
    if not fused.is_available():
        parser.exit(1, f"No native library: {fused.why_not()}\n")
    saved = {**optimizers.versions(), "seconds_per_step": {}}
    rows = {f"dense: {n}": (lambda n=n: dense(n), 1, 9) for n in DENSE}
    for name in EAGER:
        rows[f"eager: {name}"] = lambda n=name: eager(n), EAGER_STEPS, 21
    rows["sparse: LazyAdam, 1M x 64"] = lazy, LAZY_STEPS, 21
    for row, (make, steps, repeats) in rows.items():
        if arguments.rows and not any(part in row for part in arguments.rows):
            continue
        times = optimizers.interleaved(make(), repeats)
        optimizers.report(row, times, steps)
        optimizers.save(arguments.json, saved, row, times, steps)


if __name__ == "__main__":
    main()
