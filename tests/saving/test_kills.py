"""`kill -9` at random moments: the resumed run is the uninterrupted one.

With a `CheckpointManager`, and with the `BackupAndRestore` of each Keras.  The
normal run kills each of the three once; `--kills=20` does it 20 times.
"""

import pathlib
import random
import signal

import npz
import numpy as np
import preforked
import pytest

pytestmark = pytest.mark.processes
SCRIPT = pathlib.Path(__file__).with_name("killed_run.py")
ROOT = SCRIPT.parents[2]
STEPS = {"manager": 60, "keras": 25, "tf_keras": 25}


def run(how, folder, kill_after):
    return preforked.run(
        SCRIPT,
        how,
        folder / "state",
        folder / "result.npz",
        STEPS[how],
        kill_after,
        env={"PYTHONPATH": str(ROOT)},
        log=folder / "log",
    )


@pytest.mark.parametrize("how", STEPS)
def test_resumes_to_the_bit(how, tmp_path, pytestconfig):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    status, output = run(how, tmp_path / "whole", 0)
    assert status == 0, output[-2000:]
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
        status, output = run(how, tmp_path / "killed", moment)
        attempts += 1
        finished = status == 0
        if not finished:
            assert status == -signal.SIGKILL, output[-2000:]
            kills += 1
    check(tmp_path)


def check(tmp_path):
    whole, resumed = (
        npz.read(tmp_path / name / "result.npz") for name in ("whole", "killed")
    )
    assert whole.keys() == resumed.keys()
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name])
