"""Runs `convert` in children that are killed, starved or made to wait.

TensorFlow is imported once: each line of the input is a JSON list of jobs,
which run at the same time, each in a fork.  A line of the output is the list of
their [exit code or minus signal, standard error stream].

A job has the `arguments` of the command line, and may have
  kill_at: the number of the change to the file system at which it is killed,
  interrupt_at: that after which it is interrupted, as by Ctrl-C,
  largest_file: what it may write to a file, in bytes,
  user: the user whose rights it has,
  holds: a file that it makes at its first change, to go on when it is gone,
  after: a file that it waits for, and removes when it has ended.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback

from keras_legacy_opt import __main__ as command_line
from keras_legacy_opt.checkpoints import destination

PATIENCE = 60


def wait(is_over):
    for _ in range(PATIENCE * 100):
        if is_over():
            return
        time.sleep(0.01)
    os._exit(99)


def at_changes(job):
    """Has the job meet its fate when it moves or removes files."""
    count = 0

    def watched(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == job.get("kill_at"):
                os.kill(os.getpid(), signal.SIGKILL)
            if count == 1 and "holds" in job:
                open(job["holds"], "w").close()
                wait(lambda: not os.path.exists(job["holds"]))
            result = function(*args, **kwargs)
            if count == job.get("interrupt_at"):
                raise KeyboardInterrupt
            return result

        return call

    for name in ("replace", "rename", "remove", "fsync"):
        setattr(destination.os, name, watched(getattr(os, name)))


def child(job):
    if "after" in job:
        wait(lambda: os.path.exists(job["after"]))
    if "largest_file" in job:
        limit = job["largest_file"], resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    if "user" in job:
        os.setgroups([])
        os.setgid(job["user"])
        os.setuid(job["user"])
    at_changes(job)
    # Of what TensorFlow says on the way, nothing is ours.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return command_line.main(["convert", *job["arguments"]])


def start(job):
    """(number of a child, what reads its errors)."""
    reading, writing = os.pipe()
    number = os.fork()
    if number:
        os.close(writing)
        return number, open(reading)
    sys.stderr = open(writing, "w")
    code = 98
    try:
        code = child(job)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def run(jobs):
    children = [(job, *start(job)) for job in jobs]
    results = {}
    while len(results) < len(jobs):
        number, status = os.wait()
        for index, (job, own, errors) in enumerate(children):
            if own == number:
                if "after" in job:
                    os.remove(job["after"])
                code = os.waitstatus_to_exitcode(status)
                results[index] = code, errors.read()
                errors.close()
    return [results[index] for index in range(len(jobs))]


for line in sys.stdin:
    print(json.dumps(run(json.loads(line))), flush=True)
