"""One worker of two under MultiWorkerMirroredStrategy: runs every case."""

import pickle
import sys

import cluster
import keras
import keras_model
import tensorflow as tf
import tf_keras
import training
from outcomes import Outcomes
from registry import LEGACY, SUBJECT

import keras_legacy_opt
from keras_legacy_opt import fused

cluster.end_with_parent()


def main(folder, given_checkpoint):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    outcomes = Outcomes()
    for case in training.every_case():
        for library, label in ((SUBJECT, "ours"), (LEGACY, "legacy")):
            outcomes.record(
                f"{case} {label}",
                training.train,
                strategy,
                lambda case=case, library=library: case.build(library),
            )
    for case in training.one_case_per_row():
        for kind in ("dense", "sparse"):
            outcomes.record(
                f"{case} {kind}",
                training.train,
                strategy,
                lambda case=case: case.build(SUBJECT),
                kind,
            )
    optimizers = {
        "keras 3": [keras_legacy_opt.Adam, keras.optimizers.Adam],
        "tf_keras": [
            keras_legacy_opt.Adam,
            tf_keras.optimizers.legacy.Adam,
        ],
    }
    for host, classes in optimizers.items():
        for label, cls in zip(["ours", "its own"], classes, strict=True):
            outcomes.record(
                f"fit {host} {label}",
                keras_model.fitted_weights,
                host,
                strategy,
                lambda cls=cls: cls(0.01),
            )
        outcomes.record(
            f"loop {host}",
            keras_model.looped_weights,
            host,
            strategy,
            lambda: keras_legacy_opt.Adam(0.01),
        )
    with fused.disabled():
        outcomes.record(
            "fit tf_keras plain",
            keras_model.fitted_weights,
            "tf_keras",
            strategy,
            lambda: keras_legacy_opt.Adam(0.01),
        )
    outcomes.record(
        "made outside",
        keras_model.fitted_weights,
        "tf_keras",
        strategy,
        lambda: keras_legacy_opt.Adam(0.01),
        optimizer_in_scope=False,
    )
    index = strategy.cluster_resolver.task_id
    # Every worker must save; only the chief's files count.
    outcomes.record(
        "checkpoint",
        training.saved_values,
        strategy,
        f"{folder}/checkpoint_{index}",
    )
    outcomes.record(
        "restored",
        training.restored_values,
        strategy,
        given_checkpoint,
    )
    outcomes.record(
        "given",
        training.continued_values,
        strategy,
        lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
    )
    outcomes.save(f"{folder}/worker_{index}.pickle")


main(*sys.argv[1:])
