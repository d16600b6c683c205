"""Measures what `summaries.SlotSummaries` costs in `fit` of Keras 3.

    python benchmarks/summaries.py --json benchmarks/results/mine.json

The models are those of `training.py`, with Adam. Training without the callback,
with one that never measures, and with one that measures every 20 steps take
turns of 100 steps of the same model in a drawn order. Every step is timed, from
its beginning to that of the next: medians are of steps, so that what else the
machine does now and then does not count.

Printed are the median of a step without the callback; by which factor steps
take longer with one that never measures; how many milliseconds measuring costs,
its step and those after it together; and what comes of both at the default: one
step in a hundred or, where that would be more than 0.5 % of the time, fewer.
"""

import argparse
import os
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from optimizers import interleaved, save, versions
from training import MODELS

import keras_legacy_opt
from keras_legacy_opt.summaries import SlotSummaries

STEPS, EVERY = 100, 20
DEFAULT_EVERY, DEFAULT_AT_MOST = 100, 0.005
WITHOUT, IDLE, OFTEN = "without", "idle", "often"
OPTIONS = {IDLE: {"every": 10**9}, OFTEN: {"every": EVERY, "at_most": None}}


class Clock(keras.callbacks.Callback):
    """The seconds of all steps but the last of each `fit`."""

    def __init__(self):
        super().__init__()
        self.seconds = []
        self._began = []

    def on_train_begin(self, logs=None):
        self._began = []

    def on_train_batch_begin(self, batch, logs=None):
        self._began.append(time.perf_counter())

    def on_train_end(self, logs=None):
        self.seconds.append(np.diff(self._began))


def contestants(make, clocks):
    """{name: a `fit` of so many steps}."""
    result = {}
    # Two models alike differ by some per cent, by where their memory is.
    model, loss, batch, data = make()
    model.compile(keras_legacy_opt.Adam(), loss, jit_compile=False)
    x, y = data(np.random.default_rng(0), batch * STEPS)
    for name in (WITHOUT, IDLE, OFTEN):
        callbacks = [clocks.setdefault(name, Clock())]
        if name in OPTIONS:
            callbacks.append(SlotSummaries(tempfile.mkdtemp(), **OPTIONS[name]))

        def fit(callbacks=callbacks):
            model.fit(
                x,
                y,
                batch_size=batch,
                shuffle=False,
                verbose=0,
                callbacks=callbacks,
            )

        result[name] = fit
    return result


def medians_of(clocks):
    """{contestant: the median seconds of a step}, and of each of a cycle."""
    medians = {
        name: np.median(np.concatenate(clock.seconds[2:]))
        for name, clock in clocks.items()
    }
    fits = np.array(clocks[OFTEN].seconds[2:])[:, : STEPS - EVERY]
    cycle = np.median(fits.reshape(-1, EVERY), axis=0)
    return medians, cycle


def report(model, medians, cycle):
    without, idle = medians[WITHOUT], medians[IDLE]
    cost, direct = np.sum(cycle - idle), np.max(cycle) - idle
    share = cost / without / DEFAULT_EVERY
    # What the callback knows of, it limits.
    share = min(share, DEFAULT_AT_MOST * cost / direct)
    print(
        f"{model:<18} {without * 1e3:7.3f} ms; idle x {idle / without:.4f};"
        f" measuring {cost * 1e3:.2f} ms;"
        f" at the default {idle / without - 1 + share:+.2%}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="models whose names contain this")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--json", help="where to save the seconds")
    arguments = parser.parse_args()
    saved = {**versions(), "seconds_per_step": {}}
    for model, make in MODELS.items():
        if arguments.only and arguments.only not in model:
            continue
        clocks = {}
        interleaved(contestants(make, clocks), arguments.repeats)
        medians, cycle = medians_of(clocks)
        report(model, medians, cycle)
        times = {name: [median] for name, median in medians.items()}
        times["often, by position"] = cycle.tolist()
        save(arguments.json, saved, model, times, 1)


if __name__ == "__main__":
    main()
