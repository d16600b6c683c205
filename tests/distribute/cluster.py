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

import preforked

HERE = pathlib.Path(__file__).parent


class Port:
    """A port of this machine, kept for the servers of one task.

    A socket that is bound to it, and does not listen, keeps it from every other
    program, but not from servers that say SO_REUSEADDR, as TensorFlow's do.
    """

    def __init__(self):
        self._held = None
        while self._held is None:
            # Below those that systems give to connections.
            self.number = random.randrange(2_000, 16_000)
            with contextlib.suppress(OSError):
                _bound(self.number, shared=False).close()
                self._held = _bound(self.number, shared=True)

    def release(self):
        self._held.close()


def _bound(port, shared):
    """A socket on all interfaces, which is where TensorFlow's servers listen.

    Raises:
      OSError: if a program listens there, or, unless `shared`, has bound it.
    """
    with contextlib.ExitStack() as on_error:
        bound = on_error.enter_context(socket.socket())
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(shared))
        bound.bind(("", port))
        on_error.pop_all()
    return bound


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
        self._ports = [Port() for _ in range(sum(counts.values()))]
        numbers = iter([port.number for port in self._ports])
        self.spec = {
            task: [f"127.0.0.1:{next(numbers)}" for _ in range(count)]
            for task, count in counts.items()
        }
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(exist_ok=True)
        self._processes = {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for name in self._processes:
            self.kill(name)
        for port in self._ports:
            port.release()

    def start(self, task, index, script, *arguments):
        """Starts a script as a task of the cluster; returns its name."""
        name = f"{task} {index}"
        if name in self._processes:
            self.kill(name)
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
            self._processes[name] = preforked.Process(
                HERE / script, arguments, environment, log
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
        return f"{name}: status {status}\n{self.log(name)[-6000:]}"

    def log(self, name):
        """What a task has written to its streams."""
        return self._log(name).read_text(errors="replace")

    def _log(self, name):
        return self._folder / f"{name.replace(' ', '_')}.log"
