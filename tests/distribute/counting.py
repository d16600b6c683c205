"""A coordinator that counts how often each of its steps was applied.

Step i adds one to element i of a variable: with SGD(1.0), as the gradient -1 of
that element alone.  It goes on until FOLDER/stop exists, and when FOLDER/report
exists, it saves a checkpoint and writes what it counted.

Usage: counting.py FOLDER
"""

import json
import pathlib
import sys

import cluster
import numpy as np
import tensorflow as tf

import keras_legacy_opt

cluster.end_with_parent()

LIMIT = 20_000  # steps
AT_ONCE = 40


def write(path, text):
    """Writes a file that is never seen half written."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.rename(path)


def main(folder):
    folder = pathlib.Path(folder)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    partitioners = tf.distribute.experimental.partitioners
    strategy = tf.distribute.ParameterServerStrategy(
        resolver, partitioners.FixedShardsPartitioner(2)
    )
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    with strategy.scope():
        counts = tf.Variable(tf.zeros([LIMIT]), name="counts")
        done = tf.Variable(0, dtype=tf.int64, trainable=False)
        optimizer = keras_legacy_opt.SGD(1.0)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(counts=counts, done=done, optimizer=optimizer),
        folder / "checkpoints",
        max_to_keep=1,
    )
    manager.restore_or_initialize()

    def replica_step(number):
        grads, start = [], 0
        for shard in counts.variables:
            grads.append(-tf.one_hot(number - start, shard.shape[0]))
            start += shard.shape[0]
        optimizer.apply_gradients(zip(grads, counts.variables))  # noqa: B905

    @tf.function
    def step(number):
        strategy.run(replica_step, args=(number,))

    for first in range(int(done.numpy()), LIMIT, AT_ONCE):
        for number in range(first, first + AT_ONCE):
            coordinator.schedule(step, args=(tf.constant(number),))
        coordinator.join()
        number = first + AT_ONCE
        if (folder / "report").exists():
            done.assign(number)
            manager.save()
            values = [shard.numpy() for shard in counts.variables]
            report = {
                "steps": number,
                "iterations": int(optimizer.iterations.numpy()),
                "counts": np.concatenate(values)[:number].tolist(),
            }
            (folder / "report").unlink()
            write(folder / "report.json", json.dumps(report))
        write(folder / "progress", str(number))
        if (folder / "stop").exists():
            return


try:
    main(sys.argv[1])
except Exception as error:
    text = f"{type(error).__name__}: {error}"
    write(pathlib.Path(sys.argv[1]) / "error", text)
    raise
