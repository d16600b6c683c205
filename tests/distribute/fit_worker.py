"""A worker that runs every case of `fit_cases` with Keras 3.

Usage: fit_worker.py FOLDER PATH...

The PATHs are for the case that reads files.
"""

import sys
import warnings

import cluster
import fit_cases
import keras
import tensorflow as tf
from outcomes import Outcomes

import keras_legacy_opt
from keras_legacy_opt import clusters

cluster.end_with_parent()


def main(folder, *paths):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index = strategy.cluster_resolver.task_id
    workers = strategy.num_replicas_in_sync
    outcomes = Outcomes()
    for name, case in fit_cases.CASES.items():
        outcomes.record(name, case, strategy, keras_legacy_opt.Adam, folder)
    for name in ("datasets", "half_precision"):
        outcomes.record(
            f"{name} own",
            fit_cases.CASES[name],
            strategy,
            keras.optimizers.Adam,
            folder,
        )
    size = fit_cases.BATCH // workers
    outcomes.record(
        "on batch",
        fit_cases.on_batch,
        strategy,
        keras_legacy_opt.Adam,
        folder,
        slice(index * size, (index + 1) * size),
    )
    outcomes.record(
        "files", fit_cases.files, strategy, keras_legacy_opt.Adam, list(paths)
    )
    outcomes.record("report", clusters.report)
    clusters.disable()
    outcomes.record(
        "disabled",
        fit_cases.CASES["datasets"],
        strategy,
        keras_legacy_opt.Adam,
        folder,
    )
    outcomes.save(f"{folder}/fit_{index}.pickle")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
