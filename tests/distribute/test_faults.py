"""Processes are killed, as if by `kill -9`, while they train."""

import json
import pickle
import time

import keras_model
import numpy as np
import pytest
from cluster import Cluster

pytestmark = pytest.mark.processes
PATIENCE = 120  # seconds, for any one event on a busy machine


class Counting:
    """The coordinator of `counting.py`, seen from outside."""

    def __init__(self, cluster, folder):
        self._cluster = cluster
        self._folder = folder
        self.start()

    def start(self):
        (self._folder / "progress").unlink(missing_ok=True)
        (self.name,) = self._cluster.start_all(
            "chief", "counting.py", self._folder
        )

    def progress(self):
        path = self._folder / "progress"
        return int(path.read_text()) if path.exists() else 0

    def go_on(self, steps, restarts=0):
        """Waits until it has taken some more steps, and starts it as needed."""
        goal = self.progress() + steps
        deadline = time.monotonic() + PATIENCE
        while self.progress() < goal:
            if not self._cluster.is_running(self.name):
                assert restarts, self._cluster.report(self.name, "ended")
                restarts -= 1
                self.start()
            assert time.monotonic() < deadline, self._cluster.report(
                self.name, f"at step {self.progress()} of {goal}"
            )
            time.sleep(0.05)

    def report(self):
        (self._folder / "report.json").unlink(missing_ok=True)
        (self._folder / "report").touch()
        path = self._folder / "report.json"
        self._cluster.wait_for_file(path, [self.name], PATIENCE)
        report = json.loads(path.read_text())
        return report["steps"], report["iterations"], report["counts"]


def test_parameter_server_strategy(tmp_path):
    """A worker is lost and comes back; then a parameter server is lost."""
    with Cluster(tmp_path, chief=1, worker=2, ps=2) as cluster:
        workers = cluster.start_all("worker", "server.py")
        servers = cluster.start_all("ps", "server.py")
        counting = Counting(cluster, tmp_path)
        counting.go_on(400)

        cluster.kill(workers[0])
        counting.go_on(400)
        assert_applied(*counting.report(), killed_workers=1)

        cluster.start("worker", 0, "server.py")
        counting.go_on(400)
        saved, *rest = counting.report()
        assert_applied(saved, *rest, killed_workers=1)

        counting.go_on(200)
        cluster.kill(servers[1])
        cluster.wait_for_file(tmp_path / "error", [], PATIENCE)
        error = (tmp_path / "error").read_text()
        assert (
            "/job:ps/replica:0/task:1" in error or "parameter server" in error
        )
        cluster.kill(counting.name)

        cluster.start("ps", 1, "server.py")
        counting.start()
        # Workers may take a while to see that the server is back.
        counting.go_on(saved + 400, restarts=20)
        assert_applied(*counting.report(), killed_workers=1)
        (tmp_path / "stop").touch()
        cluster.wait([counting.name], PATIENCE)


def assert_applied(steps, iterations, counts, killed_workers):
    """Every step was applied once.

    ClusterCoordinator promises "at least once": the step that a worker was in
    when it was killed is taken again, whether it had been applied or not.
    """
    assert len(counts) == steps
    assert set(counts) <= {1.0, 2.0}
    assert sum(counts) - steps <= killed_workers
    assert steps <= iterations <= steps + killed_workers


@pytest.mark.parametrize("host", keras_model.KERAS)
def test_multi_worker_mirrored_strategy(tmp_path, host):
    """A killed and restarted run ends with the bits of an undisturbed one."""
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()

    with Cluster(undisturbed, worker=2) as cluster:
        names = cluster.start_all(
            "worker", "preempted.py", undisturbed, 0, host
        )
        cluster.wait(names, PATIENCE)

    with Cluster(disturbed, worker=2) as cluster:
        names = cluster.start_all("worker", "preempted.py", disturbed, 2, host)
        cluster.wait_for_file(disturbed / "epoch_2", names, PATIENCE)
        cluster.kill(names[1])
        # The other worker cannot go on: whatever runs the job restarts both.
        cluster.kill(names[0])
        assert not (disturbed / "state_0.pickle").exists()
        names = cluster.start_all("worker", "preempted.py", disturbed, 0, host)
        cluster.wait(names, PATIENCE)

    for index in range(2):
        states = []
        for folder in (undisturbed, disturbed):
            with open(folder / f"state_{index}.pickle", "rb") as file:
                states.append(pickle.load(file))
        assert len(states[0]) == len(states[1]) > 5
        for one, other in zip(*states, strict=True):
            np.testing.assert_array_equal(one, other)
