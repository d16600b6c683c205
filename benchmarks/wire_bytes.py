"""Measure how many bytes a step sends between the processes of a cluster.

Starts two workers (and two parameter servers) on this machine and counts what
passes the loopback interface, headers included, while a dense variable of 4 MiB
and then 64 rows of an embedding table are trained with Adam; with --fit, in
`fit` of Keras 3, with a loss and a metric.  Nothing else should use the
interface meanwhile: `unshare --net` gives it to this run alone,

    unshare --net sh -c 'ip link set lo up; python benchmarks/wire_bytes.py ps'
"""

import argparse
import os
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))

from clusters import end_with_parent, run

STEPS = 20
DENSE = 1 << 20  # float32 elements
TABLE = (100_000, 32)
ROWS = 64  # per worker and step


def loopback_bytes():
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split()[1])
    raise RuntimeError("There is no loopback interface.")


def measure(take_steps):
    """Bytes per step, after a first step that traces."""
    take_steps(2)
    before = loopback_bytes()
    take_steps(STEPS)
    return (loopback_bytes() - before) / STEPS


def measured_fits(strategy, is_ps):
    """Names of models and the bytes that `fit` sends per step."""
    import keras
    import tensorflow as tf

    import keras_legacy_opt

    layers = {
        "dense, 4 MiB": [keras.layers.Dense(1024, use_bias=False)],
        f"sparse, {ROWS} rows of 128 bytes": [keras.layers.Embedding(*TABLE)],
    }
    workers = 1 if is_ps else strategy.num_replicas_in_sync
    inputs = {
        "dense": lambda: tf.ones([2 * workers, 1024]),
        "sparse": lambda: tf.random.uniform(
            [ROWS * workers], maxval=TABLE[0], dtype=tf.int32
        ),
    }
    for name, model_layers in layers.items():
        make_input = inputs[name.partition(",")[0]]

        def make_dataset(context=None, make_input=make_input):
            batches = tf.data.Dataset.range(1).repeat()
            batches = batches.map(lambda _: (make_input(), 0.0))
            batches = batches.map(lambda x, _: (x, tf.zeros([tf.shape(x)[0]])))
            options = tf.data.Options()
            options.experimental_distribute.auto_shard_policy = (
                tf.data.experimental.AutoShardPolicy.DATA
            )
            return batches.with_options(options)

        with strategy.scope():
            model = keras.Sequential([*model_layers])
            model.compile(
                keras_legacy_opt.Adam(),
                lambda y, predicted: tf.reduce_sum(predicted, -1),
                metrics=[keras.metrics.MeanMetricWrapper(lambda y, p: y)],
            )
        marks = []
        model.fit(
            make_dataset if is_ps else make_dataset(),
            steps_per_epoch=STEPS,
            epochs=4,
            verbose=0,
            shuffle=False,
            callbacks=[
                keras.callbacks.LambdaCallback(
                    on_epoch_begin=lambda *_: marks.append(loopback_bytes())  # noqa: B023
                )
            ],
        )
        yield name, (marks[3] - marks[2]) / STEPS


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("strategy", choices=["multi_worker", "ps"])
    parser.add_argument("--fit", action="store_true", help="with Keras 3")
    arguments = parser.parse_args()
    is_ps = arguments.strategy == "ps"
    if "TF_CONFIG" not in os.environ:
        if is_ps:
            return run("chief", timeout=300, worker=2, ps=2, chief=1)
        return run("worker", timeout=300, worker=2)
    end_with_parent()

    import tensorflow as tf

    import keras_legacy_opt

    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if not is_ps:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif resolver.task_type == "chief":
        strategy = tf.distribute.ParameterServerStrategy(
            resolver,
            None  # Keras 3 has no sharded variables.
            if arguments.fit
            else tf.distribute.experimental.partitioners.FixedShardsPartitioner(
                2
            ),
        )
        coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    else:
        tf.distribute.Server(
            resolver.cluster_spec(),
            job_name=resolver.task_type,
            task_index=resolver.task_id,
            protocol="grpc",
        ).join()
    is_chief = is_ps or resolver.task_id == 0
    if arguments.fit:
        for name, per_step in measured_fits(strategy, is_ps):
            if is_chief:
                print(f"{name}: {per_step:,.0f} bytes per step", flush=True)
        return 0
    with strategy.scope():
        dense = tf.Variable(tf.zeros([DENSE]))
        table = tf.Variable(tf.zeros(TABLE))
        optimizers = [keras_legacy_opt.Adam(), keras_legacy_opt.Adam()]

    def dense_loss():
        return tf.reduce_sum(tf.square(dense - 1.0))

    def sparse_loss():
        rows = tf.random.uniform([ROWS], maxval=TABLE[0], dtype=tf.int32)
        return tf.reduce_sum(tf.nn.embedding_lookup(table, rows) - 1.0)

    for name, loss, variable, optimizer in (
        ("dense, 4 MiB", dense_loss, dense, optimizers[0]),
        (
            f"sparse, {ROWS} rows of 128 bytes",
            sparse_loss,
            table,
            optimizers[1],
        ),
    ):
        variables = list(getattr(variable, "variables", [variable]))

        def replica_step(loss=loss, variables=variables, optimizer=optimizer):
            optimizer.minimize(loss, variables)

        step = tf.function(lambda f=replica_step: strategy.run(f))

        def take_steps(count, step=step):
            for _ in range(count):
                if is_ps:
                    coordinator.schedule(step)
                else:
                    step()
            if is_ps:
                coordinator.join()

        per_step = measure(take_steps)
        if is_chief:
            print(f"{name}: {per_step:,.0f} bytes per step", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
