"""The coordinator of a ParameterServerStrategy: runs every case.

All variables are sharded over two parameter servers.
"""

import itertools
import pickle
import sys

import cluster
import keras
import keras_model
import tensorflow as tf
import tf_keras
import training
from outcomes import Outcomes
from registry import LEGACY, SUBJECT

import keras_legacy_opt
from keras_legacy_opt import addons

cluster.end_with_parent()


class Coordinator:
    def __init__(self):
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        self.shards = 2
        self.strategy = tf.distribute.ParameterServerStrategy(
            resolver, self._partition
        )
        self.coordinator = tf.distribute.coordinator.ClusterCoordinator(
            self.strategy
        )

    def _partition(self, shape, dtype, **kwargs):
        return [min(self.shards, shape[0]), *[1] * (shape.rank - 1)]

    def make(self, make_optimizer, kind="mixed"):
        with self.strategy.scope():
            return training.make_variables(kind), make_optimizer()

    def step_of(self, variables, optimizer, **kwargs):
        """A function of a batch, for `schedule`."""

        def replica_step(batch):
            pairs = training.gradients_of(variables, batch)
            optimizer.apply_gradients(pairs, **kwargs)

        @tf.function
        def step(batch):
            self.strategy.run(replica_step, args=(batch,))

        return step

    def run(self, step, batches, at_once=False):
        for batch in batches:
            tensors = {name: tf.constant(a) for name, a in batch.items()}
            self.coordinator.schedule(step, args=(tensors,))
            if not at_once:
                self.coordinator.join()
        self.coordinator.join()

    def train(self, make_optimizer, kind="mixed", **kwargs):
        """The values of variables and slots after one step at a time."""
        variables, optimizer = self.make(make_optimizer, kind)
        step = self.step_of(variables, optimizer, **kwargs)
        self.run(step, training.batches())
        return self.values(variables, optimizer)

    def values(self, variables, optimizer):
        for variable in variables.values():
            for slot_name in optimizer.get_slot_names():
                slot = optimizer.get_slot(variable, slot_name)
                assert len(slot.variables) == len(variable.variables) == 2
                for shard, of in zip(
                    slot.variables, variable.variables, strict=True
                ):
                    assert (shard.device, shard.shape) == (of.device, of.shape)
        return training.state_of(variables, optimizer)

    def train_at_once(self):
        """Both workers take steps, in any order and at the same time."""
        variables, optimizer = self.make(lambda: keras_legacy_opt.SGD(0.125))
        step = self.step_of(variables, optimizer)
        self.run(step, training.batches() * 25, at_once=True)
        return self.values(variables, optimizer)

    def accumulate_at_once(self):
        """Likewise, of steps of two batches each."""
        variables, optimizer = self.make(
            lambda: addons.GradientAccumulation(
                keras_legacy_opt.SGD(0.125), 2, reduction="sum"
            )
        )
        step = self.step_of(variables, optimizer)
        self.run(step, training.batches() * 25, at_once=True)
        return (
            self.values(variables, optimizer),
            optimizer.accumulated.numpy(),
        )

    def two_optimizers(self):
        """One for the table and one for the rest, in one step."""
        variables, first = self.make(lambda: keras_legacy_opt.SGD(0.1))
        with self.strategy.scope():
            second = keras_legacy_opt.Adagrad(0.1)

        def replica_step(batch):
            pairs = training.gradients_of(variables, batch)
            table = ["table" in variable.name for _, variable in pairs]
            first.apply_gradients(itertools.compress(pairs, table))
            rest = [not here for here in table]
            second.apply_gradients(itertools.compress(pairs, rest))

        @tf.function
        def step(batch):
            self.strategy.run(replica_step, args=(batch,))

        self.run(step, training.batches())
        iterations = first.iterations.numpy(), second.iterations.numpy()
        return {n: training.joined(v) for n, v in variables.items()}, iterations

    def made_outside(self):
        optimizer = keras_legacy_opt.Adam(0.1)
        return self.train(lambda: optimizer)

    def in_cross_replica_context(self):
        variables, optimizer = self.make(lambda: keras_legacy_opt.SGD(0.1))
        with self.strategy.scope():
            shards = training.shards_of(variables["matrix"])
            optimizer.apply_gradients([(tf.ones_like(s), s) for s in shards])

    def save(self, path):
        with self.strategy.scope():
            variables = training.make_variables("mixed")
            checkpoint = training.checkpoint_of(variables)
        step = self.step_of(variables, checkpoint.optimizer)
        self.run(step, training.batches()[: training.STEPS // 2])
        checkpoint.write(path)
        return self.values(variables, checkpoint.optimizer)

    def restore(self, path):
        with self.strategy.scope():
            variables = training.make_variables("mixed")
            checkpoint = training.checkpoint_of(variables)
            status = checkpoint.read(path)
            shards = [
                s for v in variables.values() for s in training.shards_of(v)
            ]
            checkpoint.optimizer.build(shards)
        status.assert_consumed()
        before = self.values(variables, checkpoint.optimizer)
        step = self.step_of(variables, checkpoint.optimizer)
        self.run(step, training.batches()[training.STEPS // 2 :])
        return before, self.values(variables, checkpoint.optimizer)

    def go_on_from_pickle(self):
        """With an optimizer that was given its state before the first step."""
        variables, optimizer = self.make(training.make_adam)
        half = training.STEPS // 2
        step = self.step_of(variables, optimizer)
        self.run(step, training.batches()[:half])
        with self.strategy.scope():
            optimizer = pickle.loads(pickle.dumps(optimizer))
        step = self.step_of(variables, optimizer)
        self.run(step, training.batches()[half:])
        return self.values(variables, optimizer)

    def fit(self, host, make_optimizer):
        with self.strategy.scope():
            model = keras_model.make(host)
            model.compile(make_optimizer(), "mse")
        data = tf_keras.utils.experimental.DatasetCreator(
            lambda context: keras_model.dataset().repeat()
        )
        model.fit(data, epochs=2, steps_per_epoch=4, verbose=0)
        return model.get_weights()

    def keras_3_loop(self):
        """A custom loop; one step at a time, without sharding."""
        self.shards = 1
        with self.strategy.scope():
            model = keras_model.make("keras 3")
            optimizer = keras_legacy_opt.Adam(0.01)
        step = tf.function(
            lambda tokens, targets: self.strategy.run(
                keras_model.replica_step_of(model, optimizer),
                args=((tokens, targets),),
            )
        )
        for _ in range(2):
            for batch in keras_model.dataset():
                self.coordinator.schedule(step, args=batch)
                self.coordinator.join()
        return model.get_weights()


def main(folder, given_checkpoint):
    it = Coordinator()
    outcomes = Outcomes()
    for case in training.every_case():
        outcomes.record(
            f"{case} ours", it.train, lambda case=case: case.build(SUBJECT)
        )
    for case in training.one_case_per_row():
        outcomes.record(
            f"{case} legacy", it.train, lambda case=case: case.build(LEGACY)
        )
    for kind in ("dense", "sparse"):
        outcomes.record(
            kind, it.train, lambda: keras_legacy_opt.Adam(0.1), kind
        )
    for case in training.wrapper_cases():
        outcomes.record(
            f"{case} ours", it.train, lambda case=case: case.build(SUBJECT)
        )
    outcomes.record("at once", it.train_at_once)
    outcomes.record("accumulate at once", it.accumulate_at_once)
    outcomes.record("two optimizers", it.two_optimizers)
    outcomes.record("made outside", it.made_outside)
    outcomes.record("cross-replica", it.in_cross_replica_context)
    outcomes.record(
        "without aggregation",
        it.train,
        lambda: keras_legacy_opt.SGD(0.1),
        experimental_aggregate_gradients=False,
    )
    outcomes.record("checkpoint", it.save, f"{folder}/checkpoint")
    outcomes.record("restored", it.restore, given_checkpoint)
    outcomes.record("restored sharded", it.restore, f"{folder}/checkpoint")
    outcomes.record("given", it.go_on_from_pickle)
    for host, classes in {
        "tf_keras": [keras_legacy_opt.Adam, tf_keras.optimizers.legacy.Adam],
        "keras 3": [keras_legacy_opt.Adam, keras.optimizers.Adam],
    }.items():
        for label, cls in zip(["ours", "its own"], classes, strict=True):
            outcomes.record(
                f"fit {host} {label}", it.fit, host, lambda cls=cls: cls(0.01)
            )
    outcomes.record("loop keras 3", it.keras_3_loop)
    outcomes.save(f"{folder}/coordinator.pickle")


if __name__ == "__main__":
    main(*sys.argv[1:])
