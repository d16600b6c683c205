"""Run a script as a cluster on this machine, one process for each task.

On several machines nothing of this is needed: there, start the script on each
with its own TF_CONFIG.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time


def end_with_parent():
    """End this process when the one that started it as a task has ended."""

    def wait():
        os.read(0, 1)
        os._exit(1)

    if "LOCAL_CLUSTER" in os.environ:
        threading.Thread(target=wait, daemon=True).start()


def run(until, timeout, **counts):
    """Run this very command once for each task of a cluster.

    Args:
        until: the type of the tasks to wait for; the others are then ended.
        timeout: seconds, after which all tasks are ended.
        **counts: how many tasks of each type, such as `worker=2`.

    Returns:
        An exit status: 0 if all tasks of the type `until` ended with 0.
    """
    sockets = [socket.socket() for _ in range(sum(counts.values()))]
    for each in sockets:
        # Kept from all but TensorFlow's servers, which share by this option.
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        each.bind(("", 0))  # a port that is free
    ports = iter([each.getsockname()[1] for each in sockets])
    cluster = {
        kind: [f"127.0.0.1:{next(ports)}" for _ in range(count)]
        for kind, count in counts.items()
    }
    processes, awaited = [], []
    deadline = time.monotonic() + timeout
    try:
        for kind, count in counts.items():
            for index in range(count):
                task = {"type": kind, "index": index}
                config = json.dumps({"cluster": cluster, "task": task})
                process = subprocess.Popen(
                    [sys.executable, *sys.argv],
                    env={
                        **os.environ,
                        "TF_CONFIG": config,
                        "LOCAL_CLUSTER": "1",
                        "CUDA_VISIBLE_DEVICES": "-1",  # they would share one
                    },
                    stdin=subprocess.PIPE,
                )
                processes.append(process)
                if kind == until:
                    awaited.append(process)
        while any(process.poll() is None for process in awaited):
            if any(process.poll() for process in awaited):
                return 1  # One has failed: the others would wait for it.
            if time.monotonic() > deadline:
                print(f"Not done after {timeout} s.", file=sys.stderr)
                return 1
            time.sleep(0.1)
        return 1 if any(process.returncode for process in awaited) else 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdin.close()
        for each in sockets:
            each.close()
