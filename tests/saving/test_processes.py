"""Files cross processes and libraries, and training goes on to the bit."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.processes
SCRIPT = pathlib.Path(__file__).with_name("write_and_continue.py")
ROOT = SCRIPT.parents[2]


def run(library, action, folder):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), library, action, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(folder / f"{library}-{action}.npz")


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("keras", "keras"),
        ("tf_keras", "tf_keras"),
        ("tf_keras", "legacy"),
        ("legacy", "tf_keras"),
    ],
)
def test_training_goes_on(writer, reader, tmp_path):
    written = run(writer, "write", tmp_path)
    read = run(reader, "read", tmp_path)
    assert read.files
    for name in read.files:
        if writer == reader:
            np.testing.assert_array_equal(read[name], written[name], name)
        else:  # Other kernels may round otherwise.
            np.testing.assert_allclose(
                read[name], written[name], rtol=2e-6, atol=2e-7, err_msg=name
            )
