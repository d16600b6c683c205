"""Compare Adam under MirroredStrategy over two logical CPUs with its peers.

Measures, in one process and in turns, the time of one step of our Adam, of
tf_keras' legacy Adam and of Keras 3's Adam (each applies the same gradients in
a tf.function), and counts the reductions over the replicas that a step asks
for.  Prints medians, and ours divided by the peers'; saves all as JSON.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
import tf_keras

import keras_legacy_opt

CPUS = ["/cpu:0", "/cpu:1"]
PEERS = {
    "ours": lambda: keras_legacy_opt.Adam(1e-3),
    "tf_keras legacy": lambda: tf_keras.optimizers.legacy.Adam(1e-3),
    "Keras 3": lambda: keras.optimizers.Adam(1e-3),
}


class CountingReduction(tf.distribute.ReductionToOneDevice):
    """Counts, while a step is traced, what a step asks for."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.tensors = 0

    def reduce(self, *args, **kwargs):
        self.calls += 1
        self.tensors += 1
        return super().reduce(*args, **kwargs)

    def batch_reduce(self, op, pairs, *args, **kwargs):
        self.calls += 1
        self.tensors += len(pairs)
        return super().batch_reduce(op, pairs, *args, **kwargs)


class Subject:
    """A step of one optimizer, ready to run."""

    def __init__(self, make_optimizer, layers, units):
        self.reduction = CountingReduction()
        strategy = tf.distribute.MirroredStrategy(CPUS, self.reduction)
        with strategy.scope():
            variables = [
                tf.Variable(tf.ones(shape) / units)
                for _ in range(layers)
                for shape in ([units, units], [units])
            ]
            optimizer = make_optimizer()
            if hasattr(optimizer, "build"):  # Keras 3 needs it in this scope.
                optimizer.build(variables)

        def replica_step():
            grads = [v * 0.01 for v in variables]
            optimizer.apply_gradients(list(zip(grads, variables, strict=True)))

        tf.function(lambda: strategy.run(replica_step), autograph=False)()
        # Now that all variables exist, one trace is enough.
        self.reduction.calls = self.reduction.tensors = 0
        self.step = tf.function(
            lambda: strategy.run(replica_step), autograph=False
        )
        start = time.perf_counter()
        self.step()
        self.trace_time = time.perf_counter() - start
        self.times = []

    def run(self, steps):
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.times.append((time.perf_counter() - start) / steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--steps", type=int, default=3, help="per round")
    parser.add_argument("--json", help="file to save the results in")
    args = parser.parse_args()
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
    subjects = {
        name: Subject(make, args.layers, args.units)
        for name, make in PEERS.items()
    }
    draw = random.Random(0)
    for _ in range(args.rounds):
        for subject in draw.sample(list(subjects.values()), len(subjects)):
            subject.run(args.steps)

    ours = statistics.median(subjects["ours"].times)
    results = {}
    for name, subject in subjects.items():
        median = statistics.median(subject.times)
        results[name] = {
            "step_ms": median * 1e3,
            "step_ms_range": [f(subject.times) * 1e3 for f in (min, max)],
            "trace_ms": subject.trace_time * 1e3,
            "reduce_calls": subject.reduction.calls,
            "reduced_tensors": subject.reduction.tensors,
            "ours_divided_by_this": ours / median,
        }
        print(
            f"{name}: {median * 1e3:.2f} ms per step"
            f" ({min(subject.times) * 1e3:.2f} to"
            f" {max(subject.times) * 1e3:.2f}), traced in"
            f" {subject.trace_time * 1e3:.0f} ms, {subject.reduction.calls}"
            f" reductions of {subject.reduction.tensors} tensors,"
            f" ours / this {ours / median:.2f}"
        )
    if args.json:
        report = {
            "options": vars(args),
            "machine": {
                "cpus": os.cpu_count(),
                "load": os.getloadavg()[0],
                "processor": platform.processor() or platform.machine(),
            },
            "versions": {
                m.__name__: m.__version__
                for m in (tf, keras, tf_keras, keras_legacy_opt)
            },
            "results": results,
        }
        with open(args.json, "w") as file:
            json.dump(report, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
