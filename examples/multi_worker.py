"""Train on several workers in step, with MultiWorkerMirroredStrategy.

Without TF_CONFIG, it starts a cluster of workers on this machine.  On several
machines, start it on each with TF_CONFIG set:

    {"cluster": {"worker": ["host1:port", "host2:port"]},
     "task": {"type": "worker", "index": 0}}

A worker that is lost takes the others down; start all of them again, and with
the same --backup they go on with the epoch after the last whole one.
"""

import argparse
import importlib
import os
import sys

from clusters import end_with_parent, run
from common import digits, positive

GLOBAL_BATCH = 64
ACCURACY_GOAL = 0.93


def train(name_of_keras, epochs, backup):
    """Run one worker; returns an exit status."""
    # Imported here: the process that starts a cluster needs no TensorFlow.
    import tensorflow as tf

    import keras_legacy_opt

    keras = importlib.import_module(name_of_keras)

    # First of all: it connects the workers.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    is_chief = strategy.cluster_resolver.task_id == 0
    x_train, x_test, y_train, y_test = digits()

    # Each worker reads all examples, and takes its part of every batch.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    batches = (
        tf.data.Dataset.from_tensor_slices((x_train / 16, y_train))
        .shuffle(len(x_train), seed=1)
        .batch(GLOBAL_BATCH, drop_remainder=True)
        .with_options(options)
    )

    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.layers.Input((8, 8, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(10),
            ]
        )
        model.compile(
            keras_legacy_opt.Adam(1e-2, decay=1e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    callbacks = []
    if backup:
        callbacks.append(keras.callbacks.BackupAndRestore(backup))
    history = model.fit(
        batches, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks
    )

    # A local copy of the weights: no worker waits for another one here.
    layers = [(w.numpy() for w in layer.weights) for layer in model.layers[1:]]
    (kernel_1, bias_1), (kernel_2, bias_2) = layers
    hidden = (x_test.reshape(-1, 64) / 16 @ kernel_1 + bias_1).clip(min=0)
    accuracy = ((hidden @ kernel_2 + bias_2).argmax(1) == y_test).mean()
    reached = bool(accuracy > ACCURACY_GOAL)
    if is_chief:
        workers = strategy.num_replicas_in_sync
        losses = history.history.get("loss", ["restored"])
        print(f"{workers} workers, final loss {losses[-1]}")
        print(f"Test accuracy {accuracy:.1%}")
        print(f"Accuracy above {ACCURACY_GOAL:.0%}: {reached}")
    return 0 if reached else 1


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--keras", choices=["keras", "tf_keras"], default="keras"
    )
    parser.add_argument("--epochs", type=positive, default=6)
    parser.add_argument("--backup", help="folder, reached by every worker")
    parser.add_argument(
        "--workers", type=positive, default=2, help="of a local cluster"
    )
    arguments = parser.parse_args()
    if "TF_CONFIG" in os.environ:
        end_with_parent()
        return train(arguments.keras, arguments.epochs, arguments.backup)
    return run(until="worker", timeout=300, worker=arguments.workers)


if __name__ == "__main__":
    sys.exit(main())
