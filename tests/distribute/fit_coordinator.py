"""A coordinator that trains with `fit` of Keras 3 on parameter servers.

Usage: fit_coordinator.py FOLDER

In the end it trains until FOLDER/killed is there, and some epochs more.
"""

import pathlib
import sys
import warnings

import cluster
import fit_cases
import keras
import numpy as np
import tensorflow as tf
from outcomes import Outcomes

import keras_legacy_opt
from keras_legacy_opt import clusters

cluster.end_with_parent()
STEPS = 12


class Coordinator:
    def __init__(self):
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        self.strategy = tf.distribute.ParameterServerStrategy(resolver)

    def make(self, optimizer=keras_legacy_opt.Adam, **kwargs):
        return fit_cases.compiled(self.strategy, optimizer, **kwargs)

    @staticmethod
    def make_dataset(context):
        """On each worker the same batch, again and again."""
        assert isinstance(context, tf.distribute.InputContext)
        return fit_cases.batches(fit_cases.BATCH)

    def fit(self, optimizer, **kwargs):
        model = self.make(optimizer, **kwargs)
        history = model.fit(
            self.make_dataset,
            steps_per_epoch=STEPS,
            epochs=3,
            class_weight={0: 1.0, 1: 2.0},
            validation_data=self.make_dataset,
            validation_steps=2,
            verbose=0,
        )
        return history.history, int(model.optimizer.iterations.numpy())

    def evaluate(self):
        """What metrics have added up, too: nothing of 12 steps is lost."""
        model = self.make()
        logs = model.evaluate(self.make_dataset, steps=STEPS, verbose=0)
        return logs, [v.numpy() for v in model.metrics_variables]

    def lookup(self):
        """The kinds of ops that look up rows of a table on a server."""
        with self.strategy.scope():
            layer = keras.layers.Embedding(12, 4)
            layer.build()

        @tf.function
        def look_up(rows):
            return self.strategy.run(layer, args=(rows,))

        graph = look_up.get_concrete_function(tf.constant([[1, 2]])).graph
        graph = graph.as_graph_def()
        nodes = [*graph.node]
        for function in graph.library.function:
            nodes.extend(function.node_def)
        return {node.op for node in nodes}

    def other_methods(self):
        model = self.make()
        tokens, labels = fit_cases.data(fit_cases.BATCH)
        return [
            model.predict(tokens, verbose=0),
            model.predict_on_batch(tokens),
            model.test_on_batch(tokens, labels),
            model.train_on_batch(tokens, labels),
            model.test_on_batch(tokens, labels),
        ]

    def own_train_step(self):
        model = self.make(model=fit_cases.OwnStep, metrics=[])
        history = model.fit(
            self.make_dataset, steps_per_epoch=STEPS, epochs=2, verbose=0
        )
        return history.history

    def fit_without(self, **kwargs):
        tokens, labels = fit_cases.data()
        given = {"x": self.make_dataset, "steps_per_epoch": STEPS, **kwargs}
        self.make().fit(**given, verbose=0)

    def fit_while_killed(self, folder):
        model = self.make()
        progress = _Progress(folder)
        history = model.fit(
            self.make_dataset,
            steps_per_epoch=STEPS,
            epochs=1000,
            verbose=0,
            callbacks=[progress],
        )
        losses = history.history["loss"]
        steps = STEPS * len(losses)
        return losses, int(model.optimizer.iterations.numpy()) - steps


class _Progress(keras.callbacks.Callback):
    def __init__(self, folder):
        super().__init__()
        self._folder = folder
        self._left = 5

    def on_epoch_begin(self, epoch, logs=None):
        (self._folder / f"epoch_{epoch}").touch()

    def on_epoch_end(self, epoch, logs=None):
        if (self._folder / "killed").exists():
            self._left -= 1
        self.model.stop_training = not self._left


def main(folder):
    folder = pathlib.Path(folder)
    it = Coordinator()
    outcomes = Outcomes()
    outcomes.record("ours", it.fit, keras_legacy_opt.Adam)
    outcomes.record("its own", it.fit, keras.optimizers.Adam)
    outcomes.record(
        "executions", it.fit, keras_legacy_opt.Adam, steps_per_execution=4
    )
    outcomes.record("evaluate", it.evaluate)
    outcomes.record("lookup", it.lookup)
    outcomes.record("other methods", it.other_methods)
    outcomes.record("own train step", it.own_train_step)
    outcomes.record("arrays", it.fit_without, x=np.ones((8, 3)), y=np.ones(8))
    outcomes.record("no steps", it.fit_without, steps_per_epoch=None)
    outcomes.record("killed", it.fit_while_killed, folder)
    clusters.disable()
    outcomes.record("disabled", it.fit_without)
    outcomes.save(folder / "coordinator.pickle")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(*sys.argv[1:])
