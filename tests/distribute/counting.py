"""A coordinator that counts how often each of its steps was applied.

Step i adds one to element i of a variable: with SGD(1.0), as the gradient -1 of
that element alone.  It trains until FOLDER/stop exists, and reports in FOLDER.

Usage: counting.py FOLDER
"""

import json
import pathlib
import sys
import time

import cluster

cluster.end_with_parent()

import tensorflow as tf

import keras_legacy_opt

LIMIT = 100_000  # steps
AT_ONCE = 40


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
        momentum = keras_legacy_opt.SGD(1.0)
    checkpoint = tf.train.Checkpoint(counts=counts, optimizer=momentum)
    saved = tf.train.latest_checkpoint(folder)
    if saved:
        checkpoint.restore(saved).expect_partial()
    first = int(momentum.iterations.numpy())

    @tf.function
    def step(number):
        def replica_step(number):
            grads = []
            start = 0
            for shard in counts.variables:
                size = shard.shape[0]
                grads.append(-tf.one_hot(number - start, size))
                start += size
            momentum.apply_gradients(list(zip(grads, counts.variables)))

        strategy.run(replica_step, args=(number,))
