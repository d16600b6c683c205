"""Two logical CPUs for this process, and clusters for the session."""

import types

import outcomes
import pytest
import tensorflow as tf
import training
from cluster import Cluster

# Before TensorFlow initializes its devices, which tests do, and imports do not.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)


@pytest.fixture(scope="session")
def given_checkpoint(tmp_path_factory):
    """A folder with a checkpoint of one device, and the values in it."""
    folder = tmp_path_factory.mktemp("given")
    values = training.saved_values(
        tf.distribute.get_strategy(), folder / "checkpoint"
    )
    return types.SimpleNamespace(path=folder / "checkpoint", values=values)


@pytest.fixture(scope="session")
def workers(tmp_path_factory, given_checkpoint):
    """What two workers of a MultiWorkerMirroredStrategy found."""
    folder = tmp_path_factory.mktemp("multi_worker")
    with Cluster(folder, worker=2) as cluster:
        names = cluster.start_all(
            "worker", "multi_worker.py", folder, given_checkpoint.path
        )
        cluster.wait(names, timeout=400)
    return types.SimpleNamespace(
        results=[
            outcomes.load(folder / f"worker_{i}.pickle") for i in range(2)
        ],
        checkpoint=folder / "checkpoint_0",
    )


@pytest.fixture(scope="session")
def coordinator(tmp_path_factory, given_checkpoint):
    """What the coordinator of two workers and two parameter servers found."""
    folder = tmp_path_factory.mktemp("parameter_server")
    with Cluster(folder, chief=1, worker=2, ps=2) as cluster:
        cluster.start_all("worker", "server.py")
        cluster.start_all("ps", "server.py")
        names = cluster.start_all(
            "chief", "parameter_server.py", folder, given_checkpoint.path
        )
        cluster.wait(names, timeout=400)
    return types.SimpleNamespace(
        result=outcomes.load(folder / "coordinator.pickle"),
        checkpoint=folder / "checkpoint",
    )
