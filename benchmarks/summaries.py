"""Measures what `summaries.SlotSummaries` costs in `fit` of Keras 3.

    python benchmarks/summaries.py --json benchmarks/results/mine.json

The models are those of `training.py`, with Adam. Contestants take turns in a
drawn order, and each repetition gives a ratio of the time with the callback to
that without. Printed are the medians of the ratios, with the quartiles, and the
median time of a step without.

With `default` the callback is as it comes; with `often` it measures every 20
steps, whatever that takes.
"""

import argparse
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from optimizers import interleaved, save, versions
from training import MODELS

import keras_legacy_opt
from keras_legacy_opt.summaries import SlotSummaries

WITHOUT = "without"
OPTIONS = {
    WITHOUT: None,
    "default": {},
    "often": {"every": 20, "at_most": None},
}


def contestants(make, steps):
    """{name: a `fit` of so many steps}."""
    result = {}
    for name, options in OPTIONS.items():
        model, loss, batch, data = make()
        model.compile(keras_legacy_opt.Adam(), loss, jit_compile=False)
        x, y = data(np.random.default_rng(0), batch * steps)
        callbacks = []
        if options is not None:
            callbacks.append(SlotSummaries(tempfile.mkdtemp(), **options))

        def fit(model=model, x=x, y=y, batch=batch, callbacks=callbacks):
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


def report(model, times, steps):
    without = np.array(times[WITHOUT])
    print(f"{model}: {np.median(without) / steps * 1e3:.3f} ms per step")
    for name, seconds in times.items():
        if name != WITHOUT:
            ratios = np.array(seconds) / without
            low, median, high = np.percentile(ratios, [25, 50, 75])
            print(
                f"  {name:<8} {median:7.3f} ({low:.3f} to {high:.3f})",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="models whose names contain this")
    parser.add_argument("--steps", type=int, default=100, help="per repetition")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--json", help="where to save the seconds")
    arguments = parser.parse_args()
    saved = {**versions(), "seconds_per_step": {}}
    for model, make in MODELS.items():
        if arguments.only and arguments.only not in model:
            continue
        steps = arguments.steps
        times = interleaved(contestants(make, steps), arguments.repeats)
        report(model, times, steps)
        save(arguments.json, saved, model, times, steps)


if __name__ == "__main__":
    main()
