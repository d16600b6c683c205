"""Train on workers out of step, with variables on parameter servers.

Without TF_CONFIG, it starts a cluster on this machine.  On several machines,
start it on each with TF_CONFIG set; the chief coordinates, the others serve:

    {"cluster": {"chief": ["host0:port"],
                 "worker": ["host1:port", "host2:port"],
                 "ps": ["host3:port", "host4:port"]},
     "task": {"type": "chief", "index": 0}}

With --fit, Keras 3 trains; without, a loop that can split large variables.

A worker that is lost is replaced by the others until it is back.  If a
parameter server or the chief is lost, start that again: with the same
--checkpoints, training goes on after the last whole epoch.
"""

import argparse
import os
import sys

from clusters import end_with_parent, run
from common import digits, positive

BATCH = 32
ACCURACY_GOAL = 0.93


def serve(resolver):
    """Run a worker or a parameter server, until it is ended."""
    import tensorflow as tf

    server = tf.distribute.Server(
        resolver.cluster_spec(),
        job_name=resolver.task_type,
        task_index=resolver.task_id,
        protocol="grpc",
    )
    server.join()


def coordinate(resolver, epochs, checkpoints):
    """Run the chief; returns an exit status."""
    import tensorflow as tf
    import tf_keras

    import keras_legacy_opt

    strategy = tf.distribute.ParameterServerStrategy(
        resolver,
        # Large variables are split between the servers, and their slots too.
        tf.distribute.experimental.partitioners.MinSizePartitioner(
            min_shard_bytes=4096,
            max_shards=len(resolver.cluster_spec().as_dict()["ps"]),
        ),
    )
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    x_train, x_test, y_train, y_test = digits()

    with strategy.scope():
        tf_keras.utils.set_random_seed(0)
        model = tf_keras.Sequential(
            [
                tf_keras.layers.Input((8, 8, 1)),
                tf_keras.layers.Flatten(),
                tf_keras.layers.Dense(64, activation="relu"),
                tf_keras.layers.Dense(10),
            ]
        )
        optimizer = keras_legacy_opt.Adam(3e-3)
        epoch = tf.Variable(0, dtype=tf.int64, trainable=False)

    def make_batches():  # on each worker
        return (
            tf.data.Dataset.from_tensor_slices((x_train / 16, y_train))
            .shuffle(len(x_train))
            .repeat()
            .batch(BATCH)
        )

    batches = iter(coordinator.create_per_worker_dataset(make_batches))

    def replica_step(images, labels):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(
                    labels, model(images, training=True)
                )
            )
        variables = model.trainable_variables
        grads = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(grads, variables))  # noqa: B905
        return loss

    @tf.function
    def step(iterator):
        return strategy.run(replica_step, args=next(iterator))

    manager = None
    if checkpoints:
        manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model, optimizer=optimizer, epoch=epoch),
            checkpoints,
            max_to_keep=2,
        )
        manager.restore_or_initialize()
    for number in range(int(epoch.numpy()), epochs):
        losses = [
            coordinator.schedule(step, args=(batches,))
            for _ in range(len(x_train) // BATCH)
        ]
        coordinator.join()
        epoch.assign(number + 1)
        if manager:
            manager.save()
        mean = sum(loss.fetch() for loss in losses) / len(losses)
        print(f"Epoch {number + 1}: loss {mean:.4f}", flush=True)

    return report(optimizer, model(tf.constant(x_test / 16)).numpy(), y_test)


def fit(resolver, epochs, backup):
    """Run the chief with `fit` of Keras 3; returns an exit status."""
    import keras
    import tensorflow as tf

    import keras_legacy_opt

    strategy = tf.distribute.ParameterServerStrategy(resolver)
    x_train, x_test, y_train, y_test = digits()

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
            keras_legacy_opt.Adam(3e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

    # --8<-- [start:fit]
    def make_batches(context):  # on each worker
        return (
            tf.data.Dataset.from_tensor_slices((x_train / 16, y_train))
            .shuffle(len(x_train))
            .repeat()
            .batch(BATCH)
        )

    model.fit(
        make_batches,
        steps_per_epoch=len(x_train) // BATCH,  # of all workers together
        epochs=epochs,
        verbose=2,
        callbacks=[keras.callbacks.BackupAndRestore(backup)] if backup else [],
    )
    # --8<-- [end:fit]
    logits = model.predict(x_test / 16, verbose=0)
    return report(model.optimizer, logits, y_test)


def report(optimizer, logits, labels):
    """Print what was reached; returns an exit status."""
    accuracy = (logits.argmax(1) == labels).mean()
    reached = bool(accuracy > ACCURACY_GOAL)
    print(f"{optimizer.iterations.numpy()} steps")
    print(f"Test accuracy {accuracy:.1%}")
    print(f"Accuracy above {ACCURACY_GOAL:.0%}: {reached}", flush=True)
    return 0 if reached else 1


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--fit", action="store_true", help="with Keras 3")
    parser.add_argument("--epochs", type=positive, default=8)
    parser.add_argument("--checkpoints", help="folder for the checkpoints")
    parser.add_argument(
        "--workers", type=positive, default=2, help="of a local cluster"
    )
    parser.add_argument(
        "--servers", type=positive, default=2, help="of a local cluster"
    )
    arguments = parser.parse_args()
    if "TF_CONFIG" not in os.environ:
        return run(
            until="chief",
            timeout=300,
            worker=arguments.workers,
            ps=arguments.servers,
            chief=1,
        )
    end_with_parent()
    import tensorflow as tf

    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if resolver.task_type == "chief":
        train = fit if arguments.fit else coordinate
        return train(resolver, arguments.epochs, arguments.checkpoints)
    return serve(resolver)


if __name__ == "__main__":
    sys.exit(main())
