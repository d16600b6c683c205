"""A task of a cluster that writes a checkpoint, and restores those of others.

Usage: exchange.py NAME FOLDER SOURCE...

NAME is a key of `STRATEGIES`.  The checkpoint is FOLDER/NAME, and each SOURCE
is the name of another, awaited if it is not there yet.
"""

import functools
import pathlib
import sys
import time

import cluster
import tensorflow as tf
import training
from outcomes import Outcomes
from parameter_server import Coordinator

cluster.end_with_parent()


def multi_worker():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    return (
        strategy.cluster_resolver.task_id,
        functools.partial(training.saved_values, strategy),
        functools.partial(training.restored_values, strategy),
    )


def parameter_server():
    it = Coordinator()
    return 0, it.save, it.restore


STRATEGIES = {
    "multi_worker": multi_worker,
    "parameter_server": parameter_server,
}


def main(name, folder, *sources):
    folder = pathlib.Path(folder)
    index, save, restore = STRATEGIES[name]()
    outcomes = Outcomes()
    # Every worker must save; only the chief's files count.
    path = folder / (f"{name}_{index}" if index else name)
    outcomes.record("saved", save, str(path))
    path.touch()  # Now it is complete.
    for source in sources:
        while not (folder / source).exists():
            time.sleep(0.05)
        outcomes.record(source, restore, str(folder / source))
    outcomes.save(folder / f"{name}_{index}.pickle")


main(*sys.argv[1:])
