"""The examples that start a cluster of their own."""

import pathlib
import subprocess
import sys

import pytest
from cluster import Cluster

pytestmark = pytest.mark.processes
EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
NAMES = ["multi_worker", "parameter_server"]
GOAL = "Accuracy above 93%: True"


def run(name, *arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_starts_a_cluster_and_reaches_its_goal():
    result = run("multi_worker")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == GOAL


@pytest.mark.parametrize(
    ("script", "arguments", "tasks"),
    [
        ("multi_worker", ["--keras=tf_keras"], {"worker": 2}),
        ("parameter_server", [], {"worker": 2, "ps": 2, "chief": 1}),
        ("parameter_server", ["--fit"], {"worker": 2, "ps": 2, "chief": 1}),
    ],
)
def test_reaches_its_goal(script, arguments, tasks, tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_CLUSTER", "1")
    with Cluster(tmp_path, **tasks) as cluster:
        for task in tasks:
            names = cluster.start_all(
                task, EXAMPLES / f"{script}.py", *arguments
            )
        cluster.wait(names, timeout=300)
        assert GOAL in cluster.log(names[0]).splitlines()


def test_ends_the_tasks_that_serve_others(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""
import json, os, sys, time
sys.path.insert(0, {str(EXAMPLES)!r})
import clusters
if "TF_CONFIG" not in os.environ:
    sys.exit(clusters.run(until="chief", timeout=60, ps=2, chief=1))
clusters.end_with_parent()
task = json.loads(os.environ["TF_CONFIG"])["task"]
print(task["type"], flush=True)
if task["type"] == "ps":
    time.sleep(120)
""")
    result = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert sorted(result.stdout.split()) == ["chief", "ps", "ps"]


@pytest.mark.parametrize("name", NAMES)
def test_help(name, in_this_process, capsys):
    assert in_this_process(name, "--help") == 0
    assert "TF_CONFIG" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_bad_argument(name, in_this_process, capsys):
    assert in_this_process(name, "--epochs=0") == 2
    said = capsys.readouterr().err
    assert "error: argument --epochs: 0 is not positive" in said


def test_a_failed_task_is_an_error_status():
    """The other tasks would wait for it: they are ended."""
    result = run("multi_worker", "--backup=/dev/null/folder")
    assert result.returncode == 1
