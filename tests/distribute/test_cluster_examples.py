"""The examples that start a cluster of their own."""

import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes
EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
NAMES = ["multi_worker", "parameter_server"]


def run(name, *arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["multi_worker"],
        ["multi_worker", "--keras=tf_keras"],
        ["parameter_server"],
        ["parameter_server", "--fit"],
    ],
    ids=" ".join,
)
def test_reaches_its_goal(arguments):
    result = run(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "Accuracy above 93%: True"


@pytest.mark.parametrize("name", NAMES)
def test_help(name):
    result = run(name, "--help")
    assert result.returncode == 0
    assert "TF_CONFIG" in result.stdout


@pytest.mark.parametrize("name", NAMES)
def test_bad_argument(name):
    result = run(name, "--epochs=0")
    assert result.returncode == 2
    assert "error: argument --epochs: 0 is not positive" in result.stderr


def test_a_failed_task_is_an_error_status():
    """The other tasks would wait for it: they are ended."""
    result = run("multi_worker", "--backup=/dev/null/folder")
    assert result.returncode == 1
