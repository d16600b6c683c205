"""Whatever happened to a file, its readers work or raise `CheckpointError`.

They never end the process, raise anything else, or leave a model or optimizer
changed; the command line says what is wrong in one line.  A fixed number of
cases, or `KERAS_LEGACY_OPT_FUZZ=N` times as many.
"""

import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).with_name("read_damaged.py")
ROOT = SCRIPT.parents[2]
SEEDS = 120
TIMES = int(os.environ.get("KERAS_LEGACY_OPT_FUZZ", "1"))


@pytest.mark.processes
def test_damaged_files(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "0", str(SEEDS * TIMES)],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'saving'}",
        },
        capture_output=True,
        text=True,
        errors="replace",
    )
    cases, _, summary = done.stdout.rpartition("case: ")
    wrong = cases.partition("wrong: ")
    assert not wrong[1], f"{wrong[2][:5000]}\n{reproduce(wrong[2])}"
    assert done.returncode == 0, (
        f"The process ended ({done.returncode}) at {summary}\n"
        f"{done.stderr[-5000:]}\n{reproduce(summary)}"
    )
    assert "wrong: " not in summary, f"{summary[:5000]}\n{reproduce(summary)}"
    # Neither is every file beyond repair, nor all damage without effect.
    for reader in ("restore", "inspect", "convert"):
        for outcome in ("works", "refused"):
            assert f"{reader} {outcome}" in summary


def reproduce(case):
    """The command that tries a case again."""
    kind, _, rest = case.partition(", seed ")
    seed = rest.split(":")[0].split()[0]
    return (
        f"PYTHONPATH=.:tests/saving python {SCRIPT.relative_to(ROOT)}"
        f" $(mktemp -d) {seed} 1 {kind!r}"
    )
