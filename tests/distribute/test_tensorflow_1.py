"""TensorFlow 1's ParameterServerStrategy, with a graph and a session.

In eager execution TensorFlow asks for the Estimator API, which is gone.
"""

import numpy as np
import outcomes
import pytest
import tensorflow as tf
import training
from cluster import Cluster
from registry import SUBJECT

DEFAULT = tf.distribute.get_strategy()


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What each of two workers found, beside two parameter servers."""
    folder = tmp_path_factory.mktemp("tensorflow_1")
    with Cluster(folder, worker=2, ps=2) as cluster:
        cluster.start_all("ps", "tensorflow_1.py", folder)
        names = cluster.start_all("worker", "tensorflow_1.py", folder)
        cluster.wait(names, timeout=120)
    return [outcomes.load(folder / f"{i}.pickle") for i in range(2)]


def test_one_worker(workers):
    """It computes what legacy's does, and what one device does."""
    ours, jobs = workers[0]("ours")
    assert jobs == {"ps"}
    legacy, _ = workers[0]("legacy")
    training.assert_same_bits(ours, legacy)
    expected = training.train(DEFAULT, lambda: SUBJECT.optimizers.Adam(0.1))
    assert len(ours) == len(expected)
    for name in training.SHAPES:
        np.testing.assert_allclose(
            ours[name], expected[f"{name}:0"], rtol=1e-6, atol=1e-7
        )


def test_two_workers_lose_nothing(workers):
    """All sums are exact in float32, and so is SGD(0.125)."""
    steps = 50
    batch = training.batches()[0]
    expected = training.initial_values()
    for name in ("matrix", "vector"):
        expected[name] -= steps * 0.125 * batch[name].sum(0) / training.BATCH
    np.add.at(
        expected["table"],
        batch["rows"],
        -steps * 0.125 * batch["table"] / training.BATCH,
    )
    for worker in workers:
        values, iterations = worker("together")
        assert iterations == steps
        for name, value in expected.items():
            np.testing.assert_allclose(values[name], value, rtol=0, atol=1e-5)
