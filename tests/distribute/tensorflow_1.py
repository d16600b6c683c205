"""A task of a cluster in the way of TensorFlow 1: a graph in each worker.

Usage: tensorflow_1.py FOLDER

Worker 0 takes steps alone, with our optimizer and with legacy's; then all
workers train one variable at the same time.
"""

import pathlib
import sys
import time

import cluster
import tensorflow as tf
import training
from outcomes import Outcomes
from registry import LEGACY, SUBJECT

cluster.end_with_parent()

STEPS_TOGETHER = 25  # of each worker


def take_step(optimizer, batch):
    """Builds the graph of one step; returns its operation and all variables."""
    strategy = tf.distribute.get_strategy()
    variables = {
        name: tf.compat.v1.get_variable(
            name, initializer=value, use_resource=True
        )
        for name, value in training.initial_values().items()
    }

    def replica_step():
        loss = training.loss_of(variables, batch)
        given = list(variables.values())
        grads = tf.compat.v1.gradients(loss, given)
        return optimizer.apply_gradients(list(zip(grads, given, strict=True)))

    # `strategy.run` does the same, but returns nothing.
    step = strategy.extended.call_for_each_replica(replica_step)
    return step, {**variables, **{w.name: w for w in optimizer.weights}}


def alone(server, strategy, library):
    """Values, and the jobs that hold them, after every batch."""
    with tf.Graph().as_default(), strategy.scope():
        batches = training.batches()
        batch = {
            name: tf.compat.v1.placeholder(array.dtype, array.shape)
            for name, array in batches[0].items()
        }
        step, variables = take_step(library.optimizers.Adam(0.1), batch)
        jobs = {
            tf.DeviceSpec.from_string(v.device).job for v in variables.values()
        }
        with tf.compat.v1.Session(server.target) as session:
            session.run(tf.compat.v1.global_variables_initializer())
            for values in batches:
                session.run(step, {batch[name]: values[name] for name in batch})
            return session.run(variables), jobs


def together(server, strategy, is_chief):
    """Values after all workers have taken their steps, in any order."""
    with tf.Graph().as_default(), strategy.scope():
        with tf.compat.v1.variable_scope("together"):
            optimizer = SUBJECT.optimizers.SGD(0.125, name="together")
            batch = {
                k: tf.constant(x) for k, x in training.batches()[0].items()
            }
            step, variables = take_step(optimizer, batch)
        missing = tf.compat.v1.report_uninitialized_variables()
        with tf.compat.v1.Session(server.target) as session:
            if is_chief:
                session.run(tf.compat.v1.global_variables_initializer())
            while session.run(missing).size:
                time.sleep(0.05)
            for _ in range(STEPS_TOGETHER):
                session.run(step)
            iterations = optimizer.iterations
            while session.run(iterations) < 2 * STEPS_TOGETHER:
                time.sleep(0.05)
            return session.run((variables, iterations))


def main(folder):
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    server = tf.distribute.Server(
        resolver.cluster_spec(),
        job_name=resolver.task_type,
        task_index=resolver.task_id,
        protocol="grpc",
    )
    if resolver.task_type == "ps":
        server.join()
    strategy = tf.compat.v1.distribute.experimental.ParameterServerStrategy(
        resolver
    )
    outcomes = Outcomes()
    if resolver.task_id == 0:
        for label, library in (("ours", SUBJECT), ("legacy", LEGACY)):
            outcomes.record(label, alone, server, strategy, library)
    outcomes.record(
        "together", together, server, strategy, resolver.task_id == 0
    )
    outcomes.save(pathlib.Path(folder) / f"{resolver.task_id}.pickle")


main(sys.argv[1])
