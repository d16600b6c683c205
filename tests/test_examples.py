"""Every example reaches its goal, says so, and explains bad arguments."""

import pathlib
import re

import preforked
import pytest

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
NAMES = [
    "custom_optimizer",
    "digits_classifier",
    "docstring_embeddings",
    "identifier_recommender",
]


@pytest.fixture
def run(tmp_path):
    """A function from an example to its exit status and output."""

    def function(name, *arguments):
        path = EXAMPLES / f"{name}.py"
        return preforked.run(path, *arguments, env={}, log=tmp_path / "log")

    return function


@pytest.fixture
def run_to_goal(run):
    """A function from an example that reaches its goal to its output."""

    def function(name, *arguments):
        status, output = run(name, *arguments)
        assert status == 0, output
        assert output.splitlines()[-1].endswith(": True")
        assert "WARNING:tensorflow" not in output
        return output

    return function


@pytest.mark.processes
def test_digits_classifier(run_to_goal):
    output = run_to_goal("digits_classifier")
    accuracies = re.findall(r"test accuracy ([\d.]+)%", output)
    assert len(accuracies) == 3
    assert all(float(accuracy) > 96 for accuracy in accuracies)
    for loop in ("Keras 3", "tf_keras", "GradientTape"):
        assert re.search(rf"{loop}.*: epoch 20: loss \d", output)


@pytest.mark.processes
def test_docstring_embeddings(run_to_goal):
    output = run_to_goal("docstring_embeddings", "--steps=2000")
    assert re.search(r"^year: .*\b(month|week|day)s?\b", output, re.MULTILINE)


@pytest.mark.processes
def test_custom_optimizer(run_to_goal):
    output = run_to_goal("custom_optimizer")
    assert "Lion comes back from its configuration: True" in output


@pytest.mark.processes
def test_identifier_recommender(run_to_goal):
    output = run_to_goal("identifier_recommender", "--steps=400")
    times = re.findall(r"^(Adam|LazyAdam): .* ms per step$", output, re.M)
    assert times == ["Adam", "LazyAdam"]


@pytest.mark.processes
def test_a_missed_goal_is_an_error_status(run):
    status, output = run("custom_optimizer", "--epochs=1")
    assert status == 1, output
    assert "above 91%: False" in output


def test_custom_optimizer_is_short():
    source = (EXAMPLES / "custom_optimizer.py").read_text()
    body = re.search(r"^class Lion.*?(?=^\S)", source, re.DOTALL | re.MULTILINE)
    assert len([line for line in body[0].splitlines() if line.strip()]) < 40


@pytest.mark.parametrize("name", NAMES)
def test_help(name, in_this_process, capsys):
    assert in_this_process(name, "--help") == 0
    assert re.search(r"--(epochs|steps)", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("custom_optimizer", "--epochs=0"),
        ("digits_classifier", "--epochs=many"),
        ("docstring_embeddings", "--steps=-3"),
    ],
)
def test_bad_argument(name, argument, in_this_process, capsys):
    assert in_this_process(name, argument) == 2
    option, value = argument.split("=")
    said = capsys.readouterr().err
    assert f"error: argument {option}: " in said
    assert value in said


def test_every_example_is_tested():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    # Those of clusters are tested in `tests/distribute`.
    elsewhere = {"clusters", "multi_worker", "parameter_server"}
    assert scripts - {"common"} - elsewhere == set(NAMES)
