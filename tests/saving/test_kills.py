"""`kill -9` at random moments: the resumed run is the uninterrupted one.

With a `CheckpointManager`, and with the `BackupAndRestore` of each Keras.  A
child process costs some seconds, most of them for importing TensorFlow, so the
normal run kills each of the three once; `--kills=20` does it 20 times, which
takes about ten minutes on two cores.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.processes
SCRIPT = pathlib.Path(__file__).with_name("killed_run.py")
ROOT = SCRIPT.parents[2]
STEPS = {"manager": 60, "keras": 25, "tf_keras": 25}


def run(how, folder, kill_after):
    return subprocess.run(
        [
            sys.executable,
            str(SCRIPT),
            how,
            str(folder / "state"),
            str(folder / "result.npz"),
            str(STEPS[how]),
            str(kill_after),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("how", STEPS)
def test_resumes_to_the_bit(how, tmp_path, pytestconfig):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    done = run(how, tmp_path / "whole", 0)
    assert done.returncode == 0, done.stderr[-2000:]
    moments = random.Random(how)
    kills = attempts = 0
    finished = False
    while kills < pytestconfig.getoption("kills") or not finished:
        if finished:  # Done before enough kills: from the start again.
            check(tmp_path)
            folder = tmp_path / f"killed-{attempts}"
            (tmp_path / "killed").rename(folder)
            (tmp_path / "killed").mkdir()
        enough = kills >= pytestconfig.getoption("kills")
        moment = 0 if enough else moments.uniform(0.001, 0.4)
        done = run(how, tmp_path / "killed", moment)
        attempts += 1
        finished = done.returncode == 0
        if not finished:
            assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
            kills += 1
    check(tmp_path)


def check(tmp_path):
    whole, resumed = (
        np.load(tmp_path / name / "result.npz") for name in ("whole", "killed")
    )
    assert whole.files == resumed.files
    for name in whole.files:
        np.testing.assert_array_equal(resumed[name], whole[name])
