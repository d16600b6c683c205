"""A worker of two that trains with `fit`, and can be killed and run again.

Usage: preempted.py FOLDER PAUSE_AFTER KERAS

KERAS is a key of `keras_model.KERAS`.  It writes FOLDER/epoch_<n> after each
epoch, and waits after the epoch PAUSE_AFTER (0: never) until it is killed.
"""

import pathlib
import pickle
import sys
import time

import cluster
import keras_model
import tensorflow as tf

import keras_legacy_opt

cluster.end_with_parent()

EPOCHS = 4


def report_to(folder, pause_after):
    """A function to be called when an epoch begins."""

    def report(epoch, logs=None):
        # Here, this worker's backup of the epoch before is complete.
        (folder / f"epoch_{epoch}").touch()
        while pause_after and epoch >= pause_after:
            time.sleep(1)

    return report


def main(folder, pause_after, host):
    folder = pathlib.Path(folder)
    keras = keras_model.KERAS[host]
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = keras_model.make(host)
        schedule = keras_legacy_opt.schedules.ExponentialDecay(0.05, 4, 0.9)
        model.compile(keras_legacy_opt.Adam(schedule), "mse")
    backup = keras.callbacks.BackupAndRestore(str(folder / "backup"))
    index = strategy.cluster_resolver.task_id
    report = report_to(folder, int(pause_after) if index else 0)
    callbacks = [backup, keras.callbacks.LambdaCallback(on_epoch_begin=report)]
    model.fit(
        keras_model.dataset(),
        epochs=EPOCHS,
        verbose=0,
        shuffle=False,
        callbacks=callbacks,
    )
    state = [*model.get_weights(), *model.optimizer.get_weights()]
    with open(folder / f"state_{index}.pickle", "wb") as file:
        pickle.dump(state, file)


main(*sys.argv[1:])
