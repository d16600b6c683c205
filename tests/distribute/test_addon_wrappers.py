"""The wrappers of `addons` under the strategies of one machine."""

import numpy as np
import pytest
import tensorflow as tf
from strategies import strategy_called, under_every_strategy

from keras_legacy_opt import SGD, Adam, RMSprop, addons

ONE = tf.distribute.get_strategy()
WRAPPERS = {
    "Lookahead": lambda: addons.Lookahead(Adam(0.1), 2),
    "MovingAverage": lambda: addons.MovingAverage(
        Adam(0.1), 0.5, dynamic_decay=True
    ),
    "SWA": lambda: addons.SWA(SGD(0.1), 1, 2),
    "nested": lambda: addons.MovingAverage(
        addons.Lookahead(RMSprop(0.01), 2), 0.5
    ),
    "clipping": lambda: addons.MovingAverage(Adam(0.1), clipvalue=0.8),
    "GradientAccumulation": lambda: addons.GradientAccumulation(
        addons.MovingAverage(Adam(0.1), 0.5), 2
    ),
}


def trained(name, strategy, is_traced, steps=5):
    with strategy.scope():
        optimizer = WRAPPERS[name]()
        variables = [tf.Variable([1.0, 2.0]), tf.Variable(tf.ones([4, 2]))]
    count = strategy.num_replicas_in_sync

    def step(t):
        table = tf.IndexedSlices(
            tf.fill([2, 2], t / 10) / count,
            tf.constant([0, 2]),
            tf.constant([4, 2]),
        )
        dense = tf.constant([1.0, 0.5]) / count
        optimizer.apply_gradients(zip([dense, table], variables, strict=True))

    def run(t):
        strategy.run(step, (t,))

    run = tf.function(run) if is_traced else run
    for t in range(steps):
        run(tf.constant(float(t)))
    return optimizer, variables


def values(optimizer, variables):
    """All values, of every replica."""
    found = []
    for each in [*variables, *optimizer.weights]:
        local = getattr(each, "values", None) or [each]
        found.append([v.numpy() for v in local])
    return found


@pytest.mark.parametrize("is_traced", [True, False], ids=["function", "eager"])
@under_every_strategy
@pytest.mark.parametrize("name", WRAPPERS)
def test_replicas_are_as_one(name, strategy, is_traced):
    if (name, strategy) == ("clipping", "central storage"):
        with pytest.raises(ValueError, match="not supported with CentralS"):
            trained(name, strategy_called(strategy), is_traced)
        return
    ours = values(*trained(name, strategy_called(strategy), is_traced))
    expected = values(*trained(name, ONE, is_traced))
    for replicas, (alone,) in zip(ours, expected, strict=True):
        for replica in replicas:
            np.testing.assert_allclose(replica, alone, rtol=1e-6, atol=1e-7)


def test_averages_of_all_replicas():
    strategy = strategy_called("mirrored")
    optimizer, (var, _) = trained("MovingAverage", strategy, False)
    before = var.numpy()
    average = optimizer.get_slot(var, "average").numpy()
    optimizer.swap_weights()
    for value in strategy.experimental_local_results(var):
        np.testing.assert_array_equal(value, average)
    with strategy.scope():
        optimizer.swap_weights()
    for value in strategy.experimental_local_results(var):
        np.testing.assert_array_equal(value, before)
    optimizer.assign_average_vars([var])
    for value in strategy.experimental_local_results(var):
        np.testing.assert_array_equal(value, average)
    with pytest.raises(ValueError, match="outside of `strategy.run`"):
        strategy.run(optimizer.swap_weights)


def test_accumulation_goes_on_without_the_strategy(tmp_path):
    """What is accumulated is the sum of all replicas, whoever restores it."""
    mirrored = strategy_called("mirrored")
    optimizer, variables = trained("GradientAccumulation", mirrored, True, 3)
    checkpoint = tf.train.Checkpoint(o=optimizer, v=variables)
    path = checkpoint.save(tmp_path / "c")
    other, restored = trained("GradientAccumulation", ONE, True, 0)
    tf.train.Checkpoint(o=other, v=restored).restore(path)
    expected, alone = trained("GradientAccumulation", ONE, True, 3)
    for optimizer, variables in ((other, restored), (expected, alone)):
        table = tf.IndexedSlices(
            tf.ones([2, 2]), tf.constant([1, 2]), tf.constant([4, 2])
        )
        optimizer.apply_gradients(
            zip([tf.ones([2]), table], variables, strict=True)
        )
    for a, b in zip(restored, alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert int(other.iterations) == int(expected.iterations) == 2
