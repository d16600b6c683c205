r"""Measures our steps against those of another checkout of this project.

    git worktree add ../before COMMIT
    cd ../before
    PYTHONPATH=. python -m keras_legacy_opt build --folder \
        keras_legacy_opt/fused/lib
    cd -
    python benchmarks/other_checkout.py ../before

Each checkout runs in a process of its own, and both are asked for a step in
turn, in an order that is drawn. Printed is what `optimizers.py` prints.
"""

import argparse
import gc
import os
import pathlib
import random
import subprocess
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parents[1]
ROWS = ("big", "small", "small of 10", "ResNet-50", "BERT-base", "fit")


def _fit():
    """A function that takes 20 steps of a small model in Keras 3's `fit`."""
    import keras

    import keras_legacy_opt

    model = keras.Sequential(
        [keras.layers.Dense(64, activation="relu") for _ in range(4)]
        + [keras.layers.Dense(1)]
    )
    x = np.random.default_rng(0).random((640, 32), np.float32)
    model.compile(keras_legacy_opt.Adam(), "mse")
    return lambda: model.fit(x, x[:, :1], batch_size=32, verbose=0)


def _make(row, mode):
    import contestants
    import optimizers

    import keras_legacy_opt

    if row == "fit":
        return _fit()
    if row == "big":
        shapes = optimizers.BIG
    elif row.startswith("small"):
        shapes = optimizers.SMALL
    else:
        shapes = optimizers.model_shapes(row)
    return contestants.tensorflow_step(
        keras_legacy_opt.Adam, shapes, mode, _steps(row)
    )


def _steps(row):
    """How many steps a call takes."""
    return 10 if row == "small of 10" else 1


def _serve(row, mode):
    """Takes a step for each line that is read, and answers with its seconds."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import optimizers

    step = _make(row, mode)
    optimizers.warm_up(step)
    gc.collect()
    gc.disable()
    print("ready", file=answer, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, file=answer, flush=True)


class _Process:
    def __init__(self, checkout, row, mode):
        paths = [str(checkout), str(HERE / "benchmarks")]
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", row, mode],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout.readline() == "ready\n"

    def step(self):
        print(file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def end(self):
        self._process.stdin.close()
        self._process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", nargs="?", type=pathlib.Path)
    parser.add_argument("--rows", nargs="*", default=ROWS, choices=ROWS)
    parser.add_argument("--repeats", type=int, default=41)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return _serve(*arguments.serve)
    import optimizers

    draw = random.Random(0)
    for row in arguments.rows:
        for mode in ("graph",) if row == "fit" else ("graph", "eager"):
            processes = {
                name: _Process(path, row, mode)
                for name, path in (
                    ("ours", HERE),
                    ("other", arguments.checkout.resolve()),
                )
            }
            times = {name: [] for name in processes}
            order = list(processes)
            for _ in range(arguments.repeats):
                draw.shuffle(order)
                for name in order:
                    time.sleep(optimizers.REST)
                    times[name].append(processes[name].step())
            for process in processes.values():
                process.end()
            optimizers.report(f"{row}, {mode}", times, _steps(row))
    return None


if __name__ == "__main__":
    main()
