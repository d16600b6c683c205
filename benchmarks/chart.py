"""Draws the chart of the README from saved measurements.

    python benchmarks/chart.py benchmarks/results/optimizers.json \
        benchmarks/results/training.json --to benchmarks/results/speed.svg

Needs matplotlib. A bar is the time of a contestant relative to ours in the same
run: medians of a row.
"""

import argparse
import json
import pathlib

import matplotlib
import numpy as np
from matplotlib.figure import Figure

OURS = "ours"
COLORS = {
    "tf_keras legacy": "#888888",
    "Keras 3": "#d62728",
    "Keras 3 XLA": "#ff9896",
    "torch fused": "#ff7f0e",
    "torch foreach": "#ffbb78",
}


def ratios(seconds):
    """{contestant: times ours} of a row, for those that have a colour."""
    ours = np.median(seconds[OURS])
    return {
        name: np.median(seconds[name]) / ours
        for name in COLORS
        if name in seconds
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", nargs="+", type=pathlib.Path)
    parser.add_argument("--rows", nargs="*", help="rows to draw; default: all")
    parser.add_argument("--to", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    rows = {}
    for path in arguments.json:
        rows.update(json.loads(path.read_text())["seconds_per_step"])
    rows = {name: ratios(rows[name]) for name in arguments.rows or rows}
    height = 0.3 * sum(map(len, rows.values())) + 0.25 * len(rows) + 1
    figure = Figure(figsize=(8, height))
    axes = figure.subplots()
    place, ticks = 0.0, {}
    for row, bars in rows.items():
        ticks[place - (len(bars) - 1) / 2] = row
        for name, ratio in bars.items():
            axes.barh(place, ratio, color=COLORS[name], height=0.9)
            axes.text(ratio, place, f" {name} {ratio:.1f}", va="center")
            place -= 1
        place -= 0.8
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(0.3, 200)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_xlabel("time of a step, relative to keras_legacy_opt (log scale)")
    axes.spines[["top", "right"]].set_visible(False)
    matplotlib.rcParams["svg.hashsalt"] = OURS  # the same file every time
    figure.savefig(arguments.to, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
