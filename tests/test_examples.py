"""Every example reaches its goal, says so, and explains bad arguments."""

import pathlib
import re
import runpy
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
NAMES = ["custom_optimizer", "digits_classifier", "docstring_embeddings"]


def run(name, *arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )


def run_to_goal(name, *arguments):
    result = run(name, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].endswith(": True")
    assert "WARNING:tensorflow" not in result.stderr, result.stderr
    return result.stdout


@pytest.mark.processes
def test_digits_classifier():
    output = run_to_goal("digits_classifier")
    accuracies = re.findall(r"test accuracy ([\d.]+)%", output)
    assert len(accuracies) == 3
    assert all(float(accuracy) > 96 for accuracy in accuracies)
    for loop in ("Keras 3", "tf_keras", "GradientTape"):
        assert re.search(rf"{loop}.*: epoch 20: loss \d", output)


@pytest.mark.processes
def test_docstring_embeddings():
    output = run_to_goal("docstring_embeddings", "--steps=2000")
    assert re.search(r"^year: .*\b(month|week|day)s?\b", output, re.MULTILINE)


@pytest.mark.processes
def test_custom_optimizer():
    output = run_to_goal("custom_optimizer")
    assert "Lion comes back from its configuration: True" in output


@pytest.mark.processes
def test_a_missed_goal_is_an_error_status():
    result = run("custom_optimizer", "--epochs=1")
    assert result.returncode == 1, result.stderr
    assert "above 91%: False" in result.stdout


def test_custom_optimizer_is_short():
    source = (EXAMPLES / "custom_optimizer.py").read_text()
    body = re.search(r"^class Lion.*?(?=^\S)", source, re.DOTALL | re.MULTILINE)
    assert len([line for line in body[0].splitlines() if line.strip()]) < 40


def exit_code(name, argument, monkeypatch):
    """Of an example that ends before it trains, run in this process."""
    path = str(EXAMPLES / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [path, argument])
    monkeypatch.syspath_prepend(EXAMPLES)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(path, run_name="__main__")
    return end.value.code


@pytest.mark.parametrize("name", NAMES)
def test_help(name, monkeypatch, capsys):
    assert exit_code(name, "--help", monkeypatch) == 0
    assert re.search(r"--(epochs|steps)", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("custom_optimizer", "--epochs=0"),
        ("digits_classifier", "--epochs=many"),
        ("docstring_embeddings", "--steps=-3"),
    ],
)
def test_bad_argument(name, argument, monkeypatch, capsys):
    assert exit_code(name, argument, monkeypatch) == 2
    option, value = argument.split("=")
    said = capsys.readouterr().err
    assert f"error: argument {option}: " in said
    assert value in said


def test_every_example_is_tested():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    # Those of clusters are tested in `tests/distribute`.
    elsewhere = {"clusters", "multi_worker", "parameter_server"}
    assert scripts - {"common"} - elsewhere == set(NAMES)
