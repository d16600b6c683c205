"""A training run that `test_kills.py` kills and starts again.

    python killed_run.py manager|keras|tf_keras FOLDER RESULT STEPS KILL_AFTER

Trains STEPS steps in all, saving after each into FOLDER, and writes its state
to the file RESULT when it is done.  KILL_AFTER seconds after the training began
it sends itself SIGKILL, unless that is 0.
"""

import os
import pathlib
import signal
import sys
import threading
import time

import keras
import numpy as np
import tensorflow as tf

import keras_legacy_opt as klo

HOW, FOLDER, RESULT, STEPS, KILL_AFTER = sys.argv[1:]
FOLDER, STEPS, KILL_AFTER = pathlib.Path(FOLDER), int(STEPS), float(KILL_AFTER)


# Keras 3's BackupAndRestore writes two files, one after the other and each in
# place: killed between, it resumes an epoch too early, and killed within, not
# at all.  The lock keeps the kill out of it.
writing = threading.Lock()


def kill_later():
    time.sleep(KILL_AFTER)
    with writing:
        os.kill(os.getpid(), signal.SIGKILL)


def by_manager():
    """A custom loop with a CheckpointManager."""
    v = tf.Variable(np.linspace(-1, 1, 20_000, dtype="f"))
    w = tf.Variable(tf.ones([30]))
    optimizer = klo.Adam(0.01, amsgrad=True)
    step = tf.Variable(0)
    checkpoint = tf.train.Checkpoint(v=v, w=w, optimizer=optimizer, step=step)
    manager = tf.train.CheckpointManager(checkpoint, FOLDER, max_to_keep=2)
    manager.restore_or_initialize()
    start()
    while int(step) < STEPS:
        rng = np.random.default_rng(int(step))
        optimizer.apply_gradients(
            [
                (tf.constant(rng.normal(size=x.shape), tf.float32), x)
                for x in (v, w)
            ]
        )
        step.assign_add(1)
        manager.save()
    return [v.numpy(), w.numpy(), *optimizer.get_weights()]


def by_backup(library):
    """fit() with BackupAndRestore after each epoch."""
    library.utils.set_random_seed(1)
    model = library.Sequential(
        [
            library.layers.Input((4,)),
            library.layers.Dense(8),
            library.layers.Dense(2),
        ]
    )
    model.compile(klo.Nadam(0.01), "mse", run_eagerly=True)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 4)), rng.normal(size=(8, 2))
    backup = library.callbacks.BackupAndRestore(FOLDER / "backup")
    if library is keras:
        backup._save_model = locked(backup._save_model)
    start()
    model.fit(x, y, epochs=STEPS, shuffle=False, verbose=0, callbacks=[backup])
    return [*model.get_weights(), *model.optimizer.get_weights()]


def locked(function):
    def call():
        with writing:
            function()

    return call


def start():
    if KILL_AFTER:
        threading.Thread(target=kill_later, daemon=True).start()


FOLDER.mkdir(exist_ok=True)
if HOW == "manager":
    arrays = by_manager()
elif HOW == "keras":
    arrays = by_backup(keras)
else:
    import tf_keras

    arrays = by_backup(tf_keras)
np.savez(RESULT, *arrays)
