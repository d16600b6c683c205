"""Processes of a cluster on this machine, which never outlive their test.

Every process runs one of the scripts of this folder.  Its standard input is a
pipe from the process that started it: when that ends, by whatever cause, so do
they (`end_with_parent`).
"""

import contextlib
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).parent


def free_ports(count):
    """Ports that no connection takes by itself while a task is restarted."""
    ports = []
    with contextlib.ExitStack() as stack:
        while len(ports) < count:
            port = random.randrange(20_000, 32_000)  # Linux gives later ones.
            bound = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                bound.bind(("127.0.0.1", port))
                ports.append(port)
    return ports


def addresses(**counts):
    """`{"worker": ["127.0.0.1:1234", ...], ...}`, given `worker=2`, ..."""
    ports = iter(free_ports(sum(counts.values())))
    return {
        task: [f"127.0.0.1:{next(ports)}" for _ in range(count)]
        for task, count in counts.items()
    }


def end_with_parent():
    """Ends this process when the one that started it has ended."""

    def wait():
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class Cluster:
    """A context: the processes started in it are killed when it ends."""

    def __init__(self, folder, **counts):
        """Chooses addresses.

        Args:
          folder: for the logs.
          **counts: how many tasks of each type, such as `worker=2`.
        """
        self.spec = addresses(**counts)
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(exist_ok=True)
        self._processes = {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for name in self._processes:
            self.kill(name)

    def start(self, task, index, script, *arguments):
        """Starts a script as a task of the cluster; returns its name."""
        name = f"{task} {index}"
        config = {"cluster": self.spec, "task": {"type": task, "index": index}}
        environment = {
            **os.environ,
            "TF_CONFIG": json.dumps(config),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "CUDA_VISIBLE_DEVICES": "-1",
            "PYTHONPATH": os.pathsep.join(
                [str(HERE.parent), *filter(None, sys.path)]
            ),
        }
        with open(self._log(name), "ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, HERE / script, *map(str, arguments)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        return name

    def start_all(self, task, script, *arguments):
        return [
            self.start(task, index, script, *arguments)
            for index in range(len(self.spec[task]))
        ]

    def kill(self, name):
        """Ends a task at once, as if by `kill -9`."""
        process = self._processes[name]
        process.kill()
        process.wait()
        process.stdin.close()

    def is_running(self, name):
        return self._processes[name].poll() is None

    def wait(self, names, timeout):
        """Waits until tasks have ended by themselves, all with status 0.

        Raises:
          AssertionError: if one fails or takes too long; shows its log.
        """
        deadline = time.monotonic() + timeout
        for name in names:
            left = max(0, deadline - time.monotonic())
            try:
                status = self._processes[name].wait(left)
            except subprocess.TimeoutExpired:
                status = "unknown: it still runs"
            assert status == 0, self.report(name, status)

    def wait_for_file(self, path, names, timeout):
        """Waits until `path` exists, while the tasks `names` run."""
        deadline = time.monotonic() + timeout
        while not os.path.exists(path):
            for name in names:
                assert self.is_running(name), self.report(name, "ended")
            assert time.monotonic() < deadline, self.report(names[0], "late")
            time.sleep(0.05)

    def report(self, name, status):
        log = self._log(name).read_text(errors="replace")
        return f"{name}: status {status}\n{log[-6000:]}"

    def _log(self, name):
        return self._folder / f"{name.replace(' ', '_')}.log"
