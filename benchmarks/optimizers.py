"""Measures a step of every optimizer against its peers, and against memory.

    python benchmarks/optimizers.py --json benchmarks/results/mine.json

The contestants of a row take turns, in an order that is drawn for each
repetition, so that what else the machine does hits all of them. Printed are
medians in milliseconds, the quartiles, and how many times the time of ours each
of the others takes. `roof` moves the same bytes without arithmetic. `small`
rows take ten steps per call, because a call of a `tf.function` with hundreds of
variables costs milliseconds by itself.
"""

import argparse
import gc
import json
import os
import pathlib
import platform
import random
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import contestants
import keras
import numpy as np
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from keras_legacy_opt import fused

BIG = [(1 << 24,)] * 3
SMALL = [(4096,)] * 400
# Seconds before each step: idle threads of OpenMP, as torch's are, spin for a
# while, and would be a cost of whoever comes after torch.
REST = 0.02


def model_shapes(name):
    """The variables of a model of Keras, without its weights."""
    if name == "BERT-base":
        layer = [(768, 768), (768,)] * 4 + [(768,)] * 4
        layer += [(768, 3072), (3072,), (3072, 768), (768,)]
        return [(30522, 768), (512, 768), (2, 768), (768,), (768,)] + layer * 12
    cls = {"ResNet-50": "ResNet50", "MobileNet": "MobileNetV2"}[name]
    model = getattr(keras.applications, cls)(weights=None)
    return [tuple(v.shape) for v in model.trainable_variables]


def warm_up(step, most=120, seconds=2.0):
    """Takes two steps or more, until all is traced and remembered."""
    start = time.perf_counter()
    for done in range(most):
        step()
        if done and time.perf_counter() - start > seconds:
            break


def interleaved(steps, repeats):
    """{name: seconds of each repetition}."""
    times = {name: [] for name in steps}
    for step in steps.values():
        warm_up(step)
    order, draw = list(steps), random.Random(0)
    gc.collect()
    gc.disable()  # like timeit: the objects of one are not the cost of another
    try:
        for _ in range(repeats):
            # Who always comes after the same one has its traces in the caches.
            draw.shuffle(order)
            for name in order:
                time.sleep(REST)
                start = time.perf_counter()
                steps[name]()
                times[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return times


def sparse_contestants(name, rows, arguments):
    rng = np.random.default_rng(0)
    indices = tf.constant(rng.integers(0, rows, 4096) // 2 * 2)
    values = tf.constant(rng.standard_normal((4096, 64), dtype=np.float32))
    grad = tf.IndexedSlices(values, indices)

    def make(module):
        optimizer = getattr(module, contestants.class_name(name))(**arguments)
        variable = tf.Variable(tf.fill([rows, 64], 0.5))

        @tf.function(autograph=False)
        def step():
            optimizer.apply_gradients([(grad, variable)])

        return step

    return {
        contestants.OURS: make(keras_legacy_opt),
        contestants.LEGACY: make(tf_keras.optimizers.legacy),
    }


def sections():
    """{section: {row: (make contestants, steps per call, repetitions)}}."""
    many = {
        name: (
            lambda name=name: {
                **contestants.contestants(name, BIG, "graph", peers=False),
                "roof": contestants.roof(contestants.OPTIMIZERS[name][0], BIG),
            },
            1,
            9,
        )
        for name in contestants.OPTIMIZERS
    }
    peers = {
        name: (
            lambda name=name: contestants.contestants(name, BIG, "graph"),
            1,
            7,
        )
        for name in ("SGD", "Adam", "RMSprop", "Adagrad")
    }
    small = {
        "Adam, 400 x 4096, graph": (
            lambda: contestants.contestants("Adam", SMALL, "graph", 10),
            10,
            9,
        ),
        "Adam, 400 x 4096, graph, a call per step": (
            lambda: contestants.contestants("Adam", SMALL, "graph"),
            1,
            25,
        ),
        "Adam, 400 x 4096, eager": (
            lambda: contestants.contestants("Adam", SMALL, "eager"),
            1,
            9,
        ),
    }
    models = {
        f"Adam, {model}, {mode}": (
            lambda model=model, mode=mode: contestants.contestants(
                "Adam", model_shapes(model), mode
            ),
            1,
            7,
        )
        for model in ("ResNet-50", "BERT-base", "MobileNet")
        for mode in ("graph", "eager")
    }

    def clipped():
        shapes = [(50_000_000 // 20,)] * 20
        plain = contestants.contestants("Adam", shapes, "graph", peers=False)
        clip = contestants.contestants(
            "Adam", shapes, "graph", peers=False, global_clipnorm=1.0
        )
        return {
            contestants.OURS: plain[contestants.OURS],
            "ours, clipped": clip[contestants.OURS],
            contestants.LEGACY: plain[contestants.LEGACY],
            "legacy, clipped": clip[contestants.LEGACY],
        }

    table = {
        "Adam": {},
        "momentum": {"momentum": 0.9},
        "Adagrad": {},
        "Ftrl": {},
        "RMSprop momentum": {"momentum": 0.9},
    }
    sparse = {
        f"{name}, {size} x 64": (
            lambda name=name, rows=rows, arguments=arguments: (
                sparse_contestants(name, rows, arguments)
            ),
            1,
            9 if name == "Adam" else 41,
        )
        for name, arguments in table.items()
        for rows, size in ((1_000_000, "1M"), (10_000_000, "10M"))
        if name != "Adam" or rows == 1_000_000
    }
    return {
        "dense": many,
        "peers": peers,
        "small": small,
        "models": models,
        "clip": {"Adam, 50M parameters": (clipped, 1, 9)},
        "sparse": sparse,
    }


def versions():
    """What the times depend on, for the file that they are saved in."""
    return {
        "processor": processor(),
        "threads": len(os.sched_getaffinity(0)),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "torch": getattr(contestants.torch, "__version__", None),
    }


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def report(row, times, steps):
    ours = np.median(times[contestants.OURS])
    print(row)
    for name, seconds in sorted(times.items(), key=lambda x: np.median(x[1])):
        low, median, high = np.percentile(seconds, [25, 50, 75]) * 1e3 / steps
        print(
            f"  {name:<16} {median:9.3f} ms ({low:.3f} to {high:.3f})"
            f" {np.median(seconds) / ours:7.2f} x ours",
            flush=True,
        )


def save(path, saved, row, times, steps):
    """Adds a row to `saved`, and writes it all to `path`, if there is one."""
    saved["seconds_per_step"][row] = {
        name: [second / steps for second in seconds]
        for name, seconds in times.items()
    }
    if path:
        with open(path, "w") as file:
            json.dump(saved, file, indent=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="sections")
    parser.add_argument("--rows", help="rows that contain this")
    parser.add_argument("--skip", nargs="*", default=[], help="contestants")
    parser.add_argument("--json", help="a file to add the seconds to")
    arguments = parser.parse_args()
    if not fused.is_available():
        parser.exit(1, f"No native library: {fused.why_not()}\n")
    contestants.SKIPPED.update(arguments.skip)
    saved = {**versions(), "seconds_per_step": {}}
    if arguments.json and os.path.exists(arguments.json):
        with open(arguments.json) as file:
            saved["seconds_per_step"] = json.load(file)["seconds_per_step"]
    for section, rows in sections().items():
        if arguments.only and section not in arguments.only:
            continue
        for row, (make, steps, repeats) in rows.items():
            if arguments.rows and arguments.rows not in row:
                continue
            times = interleaved(make(), repeats)
            report(f"{section}: {row}", times, steps)
            save(arguments.json, saved, f"{section}: {row}", times, steps)


if __name__ == "__main__":
    main()
