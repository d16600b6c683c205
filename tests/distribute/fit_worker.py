"""A worker that runs every case of `fit_cases` with Keras 3.

Usage: fit_worker.py FOLDER PATH...

The PATHs are for the case that reads files.
"""

import gc
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

    def record(*args, **kwargs):
        outcomes.record(*args, **kwargs)
        gc.collect()  # The threads of datasets end the later, the older.

    for name, case in fit_cases.CASES.items():
        record(name, case, strategy, keras_legacy_opt.Adam, folder)
    for name in ("datasets", "half_precision"):
        record(
            f"{name} own",
            fit_cases.CASES[name],
            strategy,
            keras.optimizers.Adam,
            folder,
        )
    size = fit_cases.BATCH // workers
    record(
        "on batch",
        fit_cases.on_batch,
        strategy,
        keras_legacy_opt.Adam,
        folder,
        slice(index * size, (index + 1) * size),
    )
    shards = [slice(0, 16), slice(16, 24)] + [slice(24, 24)] * (workers - 2)
    for name, executions in (("own shards", 1), ("in executions", 3)):
        record(
            name,
            fit_cases.own_shards,
            strategy,
            keras_legacy_opt.Adam,
            folder,
            shards[index],
            fit_cases.BATCH,
            steps_per_execution=executions,
        )
    for name, synchronized in (
        ("statistics", False),
        ("synchronized statistics", True),
    ):
        record(
            name,
            fit_cases.statistics,
            strategy,
            keras_legacy_opt.Adam,
            synchronized,
        )
    record("metric outside", fit_cases.metric_outside_of_the_scope, strategy)
    record("endless", fit_cases.endless_on_some_workers, strategy, index == 0)
    record("xla", fit_cases.compiled_by_xla, strategy)
    record(
        "files", fit_cases.files, strategy, keras_legacy_opt.Adam, list(paths)
    )
    record("report", clusters.report)
    clusters.disable()
    record(
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
