"""A worker of two that trains with `fit`, and can be killed and run again.

Usage: preempted.py FOLDER PAUSE_AFTER

It writes FOLDER/epoch_<n> after each epoch, and waits after the epoch
PAUSE_AFTER (0: never) until it is killed.
"""

import pathlib
import pickle
import sys
import time

import cluster
import keras_model
import tensorflow as tf
import tf_keras

import keras_legacy_opt

cluster.end_with_parent()

EPOCHS = 4


class Report(tf_keras.callbacks.Callback):
    def __init__(self, folder, pause_after):
        super().__init__()
        self._folder = folder
        self._pause_after = pause_after

    def on_epoch_begin(self, epoch, logs=None):
        # Here, the backup of the epoch before is complete.
        (self._folder / f"epoch_{epoch}").touch()
        while self._pause_after and epoch >= self._pause_after:
            time.sleep(1)


def main(folder, pause_after):
    folder = pathlib.Path(folder)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = keras_model.make("tf_keras")
        schedule = keras_legacy_opt.schedules.ExponentialDecay(0.05, 4, 0.9)
        model.compile(keras_legacy_opt.Adam(schedule), "mse")
    backup = tf_keras.callbacks.BackupAndRestore(str(folder / "backup"))
    index = strategy.cluster_resolver.task_id
    callbacks = [backup, Report(folder, int(pause_after) if index else 0)]
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
