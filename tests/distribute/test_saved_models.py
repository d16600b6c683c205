"""SavedModels with a training step, loaded in the scope of a strategy.

TensorFlow runs the step in each replica as it was saved, on the replica's own
variables, and aggregates nothing: replicas that agree do so afterwards.
"""

import contextlib
import types

import numpy as np
import pytest
import tensorflow as tf
from strategies import STRATEGIES, strategy_called

import keras_legacy_opt
from keras_legacy_opt import fused

SIZE = 100_000  # So large that a read beside an update would show.


class Trainer(tf.Module):
    def __init__(self):
        super().__init__()
        self.var = tf.Variable(tf.range(SIZE, dtype=tf.float32))
        self.optimizer = keras_legacy_opt.Adam(0.5)
        self.optimizer.build([self.var])

    @tf.function(input_signature=[])
    def train(self):
        self.optimizer.apply_gradients([(self.var * 2.0, self.var)])
        return self.var.read_value()


@pytest.fixture(scope="module", params=["native", "plain"])
def saved(request, tmp_path_factory):
    """Where a step is, and the values of its variable before and after each."""
    path = str(tmp_path_factory.mktemp("saved"))
    plain = request.param == "plain"
    with fused.disabled() if plain else contextlib.nullcontext():
        trainer = Trainer()
        before = trainer.var.numpy()
        trainer.train.get_concrete_function()
        tf.saved_model.save(trainer, path)
        values = [before, *(trainer.train().numpy() for _ in range(4))]
    return types.SimpleNamespace(path=path, values=values)


def load_in(strategy, path):
    with strategy.scope():
        return tf.saved_model.load(path)


def assert_equal_in_replicas(strategy, values, expected):
    values = strategy.experimental_local_results(values)
    assert len(values) == strategy.num_replicas_in_sync
    for value in values:
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_loaded_step_goes_on(saved, name):
    loaded = load_in(strategy_called(name), saved.path)
    for expected in saved.values[1:3]:
        np.testing.assert_array_equal(loaded.train(), expected)


@pytest.mark.parametrize("name", ["one device", "mirrored"])
def test_each_replica_updates_its_own_variables(saved, name):
    strategy = strategy_called(name)
    loaded = load_in(strategy, saved.path)
    for expected in saved.values[1:3]:
        values = strategy.run(loaded.train)
        assert_equal_in_replicas(strategy, values, expected)
        assert_equal_in_replicas(strategy, loaded.var, expected)

    def replica_step():
        values = [loaded.var.read_value()]
        for _ in range(2):
            loaded.train()
            values.append(loaded.var.read_value())
        return values

    run = tf.function(lambda: strategy.run(replica_step))
    for values, expected in zip(run(), saved.values[2:], strict=True):
        assert_equal_in_replicas(strategy, values, expected)


def test_what_is_loaded_in_a_scope_is_saved_again(saved, tmp_path):
    mirrored = strategy_called("mirrored")
    loaded = load_in(mirrored, saved.path)
    mirrored.run(loaded.train)
    # Also a function that was traced for two replicas, and has their groups.
    for name, function in (
        ("step", None),
        ("function", tf.function(lambda: mirrored.run(loaded.train))),
    ):
        module = tf.Module()
        module.loaded, module.function = loaded, function
        if function is not None:
            function.get_concrete_function()
        tf.saved_model.save(module, str(tmp_path / name))
        for strategy in (tf.distribute.get_strategy(), mirrored):
            again = load_in(strategy, str(tmp_path / name)).loaded
            values = strategy.run(again.train)
            assert_equal_in_replicas(strategy, values, saved.values[2])
