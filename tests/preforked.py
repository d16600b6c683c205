"""Starts scripts in forks of a Python that has imported TensorFlow once.

That import is most of what a short process costs.  A fork is a process like
any other: nothing but modules has come into being before it, no device, no
thread of TensorFlow's, and not the package that is tested.

    python preforked.py SOCKET     is that Python: it forks at each message.
"""

import atexit
import functools
import gc
import json
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import warnings


class Process:
    """A running script, with the methods of `subprocess.Popen`."""

    def __init__(self, script, arguments, env, output):
        """Starts a script.

        Args:
          script: its path.
          arguments: those after it on the command line.
          env: environment variables, all of them.  Those that TensorFlow reads
            while it is imported have no effect.
          output: an open file for what it writes to its output and errors.
        """
        request = {
            "script": os.path.abspath(script),
            "arguments": [str(argument) for argument in arguments],
            "env": env,
        }
        self._status, status = socket.socketpair()
        reading, writing = os.pipe()
        self.stdin = open(writing, "wb")
        with status, open(reading) as stdin:
            files = (stdin, output, output, status)
            socket.send_fds(
                _server(),
                [json.dumps(request).encode()],
                [file.fileno() for file in files],
            )
        self.pid = int(self._status.recv(20))
        self.returncode = None

    def poll(self):
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout=None):
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                self.returncode = int(self._status.recv(20))
            except (TimeoutError, BlockingIOError) as error:
                raise subprocess.TimeoutExpired(self.pid, timeout) from error
            self._status.close()
        return self.returncode

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def run(script, *arguments, env, log, timeout=600):
    """The exit status of a script, and the text it wrote to its streams.

    Args:
      script: its path.
      *arguments: those after it on the command line.
      env: environment variables beyond this process' own.
      log: the path of a file for what it writes.
      timeout: seconds after which it is killed.

    Raises:
      subprocess.TimeoutExpired: if it takes longer.
    """
    with open(log, "wb") as output:
        process = Process(script, arguments, {**os.environ, **env}, output)
        process.stdin.close()
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
    return status, pathlib.Path(log).read_text(errors="replace")


@functools.cache
def _server():
    """The socket of the Python that forks, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        server = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    atexit.register(lambda: (ours.close(), server.wait()))
    return ours


def _serve(requests):
    """Returns in each fork, with the request that it is to fulfil."""
    while True:
        message, files, *_ = socket.recv_fds(requests, 1 << 20, 4)
        if not message:
            os._exit(0)
        if not os.fork():
            requests.close()
            if not _supervise(files):
                return json.loads(message)
        for file in files:
            os.close(file)


def _supervise(files):
    """Returns in a second fork; the first one tells how that ended."""
    *streams, status = files
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        for file in {0, 1, 2, *streams}:
            os.close(file)
        os.write(status, str(pid).encode())
        _, ended = os.waitpid(pid, 0)
        os.write(status, str(os.waitstatus_to_exitcode(ended)).encode())
        os._exit(0)
    for number, file in enumerate(streams):
        os.dup2(file, number)
    for file in files:
        os.close(file)


def _become(request):
    """Goes on as if Python had been started with the script."""
    os.environ.clear()
    os.environ.update(request["env"])
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    folder = os.path.dirname(request["script"])
    sys.path[:1] = [folder, *filter(None, given)]
    sys.argv = [request["script"], *request["arguments"]]
    np.random.seed()
    runpy.run_path(request["script"], run_name="__main__")


if __name__ == "__main__":
    import numpy as np
    import tensorflow as tf  # noqa: F401
    import tf_keras  # noqa: F401

    # At its end, a fork need not look for garbage in all that was imported.
    gc.collect()
    gc.freeze()
    # Those who tell how a script ended are nobody's to wait for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with warnings.catch_warnings():
        # Python warns of forks beside OpenBLAS' threads, which knows of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        request = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(request)
