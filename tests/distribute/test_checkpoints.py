"""A checkpoint of any strategy restores into any other, slots included.

`test_multi_worker` and `test_parameter_server` do so with one device and their
strategies.
"""

import itertools

import outcomes
import pytest
import tensorflow as tf
import training
from cluster import Cluster
from strategies import STRATEGIES, strategy_called

import keras_legacy_opt

NAMES = ["default", *STRATEGIES]


def called(name):
    if name == "default":
        return tf.distribute.get_strategy()
    return strategy_called(name)


@pytest.mark.parametrize(
    ("source", "target"), list(itertools.product(NAMES, NAMES))
)
def test_restored_run_equals_undisturbed_run(source, target, tmp_path):
    saved = training.saved_values(called(source), tmp_path / "checkpoint")
    before, after = training.restored_values(
        called(target), tmp_path / "checkpoint"
    )
    training.assert_same_bits(before, saved)
    training.assert_same_bits(after, training.undisturbed_values())


@pytest.mark.processes
def test_clusters_restore_from_each_other_and_from_mirrored(tmp_path):
    mirrored = strategy_called("mirrored")
    saved = {"mirrored": training.saved_values(mirrored, tmp_path / "mirrored")}
    (tmp_path / "mirrored").touch()
    restored = {}
    others = {
        "multi_worker": ["mirrored", "parameter_server"],
        "parameter_server": ["mirrored", "multi_worker"],
    }
    with (
        Cluster(tmp_path / "logs_1", worker=2) as workers,
        Cluster(tmp_path / "logs_2", chief=1, worker=1, ps=2) as servers,
    ):
        servers.start_all("worker", "server.py")
        servers.start_all("ps", "server.py")
        started = {
            name: cluster.start_all(
                task, "exchange.py", name, tmp_path, *others[name]
            )
            for name, cluster, task in (
                ("multi_worker", workers, "worker"),
                ("parameter_server", servers, "chief"),
            )
        }
        servers.wait(started["parameter_server"], timeout=200)
        workers.wait(started["multi_worker"], timeout=200)
    for name, sources in others.items():
        result = outcomes.load(tmp_path / f"{name}_0.pickle")
        saved[name] = result("saved")
        for source in sources:
            restored[source, name] = result(source)
        restored[name, "mirrored"] = training.restored_values(
            mirrored, tmp_path / name
        )
    for (source, target), (before, after) in restored.items():
        print(f"{source} to {target}")  # Shown with a failure.
        training.assert_same_bits(before, saved[source])
        training.assert_same_bits(after, training.undisturbed_values())


@pytest.mark.parametrize("build_first", [True, False])
def test_slots_of_a_sharded_variable(build_first, tmp_path):
    """Also where the checkpoint is read before there are any slots."""

    def make(shards):
        parts = [
            tf.Variable(part, name=f"table/part_{i}")
            for i, part in enumerate(tf.split(tf.zeros([4, 2]), shards))
        ]
        sharded = tf.__internal__.distribute.ShardedVariable(parts, "table")
        optimizer = keras_legacy_opt.Adam(0.1)
        return parts, tf.train.Checkpoint(
            table=sharded if shards > 1 else parts[0], optimizer=optimizer
        )

    path = str(tmp_path / "checkpoint")
    grads = tf.reshape(tf.range(8.0), [4, 2])
    for shards in (2, 1, 4):  # each restores what the one before wrote
        parts, checkpoint = make(shards)
        optimizer = checkpoint.optimizer
        if shards == 2:
            optimizer.apply_gradients(
                zip(tf.split(grads, 2), parts, strict=True)
            )
            expected = read(optimizer, parts)
        else:
            if build_first:
                optimizer.build(parts)
            status = checkpoint.read(path)
            optimizer.build(parts)
            status.assert_consumed()
            for name, value in read(optimizer, parts).items():
                tf.debugging.assert_equal(value, expected[name])
        checkpoint.write(path)


def read(optimizer, parts):
    values = {"variable": tf.concat(parts, 0)}
    for name in optimizer.get_slot_names():
        slots = [optimizer.get_slot(part, name) for part in parts]
        values[name] = tf.concat(slots, 0)
    return values
