#!/usr/bin/env python3
"""Runs packages that were built on legacy optimizers with this package's.

    scripts/packages.py [PACKAGE...]

Each gets an environment of its own in .packages/, beside the TensorFlow of
.venv (or of the interpreter in $PYTHON), whatever its requirements say.  There,
tests/packages/with_<package>.py trains once with tf_keras' legacy optimizers
and once with ours: all bits have to agree.  Then come the package's own tests
of its optimizers, with both.  The results are written to docs/packages.md.

Needs network for the first run, 2 GB, and some 20 minutes.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "tests" / "packages"
WORK = ROOT / ".packages"
TABLE = ROOT / "docs" / "packages.md"
BASE = os.environ.get("PYTHON", str(ROOT / ".venv" / "bin" / "python"))
# Whose optimizers train, and in which Keras.
KERAS_3, TF_KERAS, LEGACY = "Keras 3", "tf_keras", "legacy"
PYTEST = (
    "-m pytest -c /dev/null -p no:cacheprovider -q -rA --tb=line"
    " --continue-on-collection-errors"
)
MINUTES = 15  # For the tests of one package.


@dataclasses.dataclass(frozen=True)
class Package:
    """What is installed for a package, and what is run.

    Attributes:
      name: of the program, tests/packages/with_<name>.py.
      requirement: what pip installs, without its requirements.
      others: what it imports besides.
      top_level: whether it looks for legacy optimizers in
        `tf.keras.optimizers` rather than in `.legacy`.
      in_tf_keras: whether it imports tf_keras by name.
      tests: its own tests, below its packages or, for one ending in
        .tar.gz on PyPI, below its source.
      from_source: whether the tests are in the source distribution only.
      at_start: what its interpreter executes first.
    """

    name: str
    requirement: str
    others: tuple[str, ...] = ()
    top_level: bool = False
    in_tf_keras: bool = False
    tests: tuple[str, ...] = ()
    from_source: bool = False
    at_start: str = ""


_PROBABILITY = ("tensorflow-probability==0.25.0", "dm-tree", "decorator")
PACKAGES = (
    Package(
        "tensorflow_privacy",
        "tensorflow-privacy==0.9.0",
        (
            *_PROBABILITY,
            "dp-accounting==0.4.3",
            "attrs",
            "mpmath",
            "immutabledict",
        ),
        # It imports estimators, which TensorFlow has no more.
        at_start="import sys, types; sys.skip_tf_privacy_import = True;"
        ' sys.modules["tensorflow.estimator"] = types.ModuleType("estimator");'
        # As its tests, run as programs, do.
        " import absl.flags; absl.flags.FLAGS.mark_as_parsed()",
        tests=tuple(
            f"tensorflow_privacy/privacy/{name}_test.py"
            for name in (
                "optimizers/dp_optimizer_keras",
                "optimizers/dp_optimizer_keras_sparse",
                "bolt_on/optimizers",
            )
        ),
    ),
    Package(
        "tensorflow_recommenders",
        "tensorflow-recommenders==0.7.3",
        tests=("tensorflow_recommenders/experimental/optimizers",),
    ),
    Package(
        "tf_models",
        "tf-models-official==2.20.0",
        ("gin-config", "tensorflow-model-optimization==0.8.1", "dm-tree"),
        in_tf_keras=True,
        tests=("official/modeling/optimization",),
    ),
    Package(
        "transformers",
        "transformers==4.48.3",
        (
            *("huggingface-hub==0.36.0", "tokenizers==0.21.4", "regex"),
            *("safetensors", "tqdm", "fsspec", "hf-xet"),
        ),
        in_tf_keras=True,
    ),
    Package(
        "larq",
        "larq==0.14.0",
        ("terminaltables",),
        tests=("larq/optimizers_test.py",),
    ),
    Package(
        "adabelief_tf",
        "adabelief-tf==0.2.1",
        ("tabulate", "colorama"),
        top_level=True,
    ),
    Package(
        "keras_radam",
        "keras-rectified-adam==0.20.0",
        top_level=True,
        from_source=True,
        tests=("tests/test_optimizers.py",),
    ),
    Package(
        "keras_adabound",
        "keras-adabound==0.6.0",
        ("typeguard",),
        top_level=True,
        from_source=True,
        tests=("tests/test_optimize.py",),
    ),
    Package(
        "deepxde",
        "deepxde==1.15.0",
        (
            *_PROBABILITY,
            *("matplotlib", "scikit-optimize", "pyaml", "contourpy", "cycler"),
            *("fonttools", "kiwisolver", "pyparsing", "python-dateutil"),
        ),
        top_level=True,
    ),
    Package(
        "gpflow",
        "gpflow==2.11.2",
        (
            *_PROBABILITY,
            *("check-shapes", "dropstackframe", "lark", "deprecated"),
            *("multipledispatch", "tabulate"),
        ),
        in_tf_keras=True,
        tests=(
            "tests/gpflow/optimizers/test_natural_gradient.py",
            "tests/gpflow/utilities/test_model_utils.py",
        ),
    ),
    Package("keras_tuner", "keras-tuner==1.4.8", ("kt-legacy",)),
    Package("scikeras", "scikeras==0.13.0"),
)


def environment_of(package):
    """The environment of a package, which sees the packages of the base."""
    path = WORK / package.name
    python = path / "bin" / "python"
    if python.exists():
        return python
    subprocess.run(
        [BASE, "-m", "venv", "--clear", "--without-pip", path], check=True
    )
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    of_base, own = (
        pathlib.Path(
            subprocess.check_output([p, "-c", purelib], text=True).strip()
        )
        for p in (BASE, python)
    )
    own.joinpath("base.pth").write_text(f"{of_base}\n{package.at_start}\n")
    pip = [BASE, "-m", "pip", "--python", python]
    subprocess.run(
        [
            *[*pip, "install", "--quiet", "--no-deps", "--no-build-isolation"],
            *[package.requirement, *package.others],
        ],
        check=True,
    )
    if package.from_source:
        subprocess.run(
            [
                *[BASE, "-m", "pip", "download", "--quiet", "--no-deps"],
                *["--no-build-isolation", "--no-binary=:all:"],
                *["--dest", path, package.requirement],
            ],
            check=True,
        )
        [archive] = path.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(path / "source", filter="data")
    return python


def run(python, package, side, arguments, cwd, **environment):
    """Runs a program or module on a side; returns its status and output."""
    environment = {
        **os.environ,
        **environment,
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
        "COLUMNS": "400",  # For whole errors in pytest's summary.
        "TF_USE_LEGACY_KERAS": "0" if side == KERAS_3 else "1",
    }
    if side == LEGACY:
        command = [python, PROGRAMS / "as_legacy.py"]
        command += ["--top-level"] if package.top_level else []
    else:
        command = [python, "-m", "keras_legacy_opt", "run"]
        command += [] if package.top_level else ["--legacy-only"]
    log = WORK / package.name / f"{side}.log"
    with log.open("a") as file:
        print("$", *command, *arguments, file=file, flush=True)
        try:
            status = subprocess.run(
                [*command, *arguments],
                env=environment,
                cwd=cwd,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=60 * MINUTES,
            ).returncode
        except subprocess.TimeoutExpired:
            print(f"longer than {MINUTES} minutes", file=file)
            status = 124
    return status, log.read_text().rpartition("\n$ ")[2]


def error_line(output):
    """The last line of an output that tells what is wrong."""
    errors = r"^(?:E +)?((?:\w+\.)*\w*(?:Error|Exception).*)$"
    lines = re.findall(errors, output, re.M) or output.strip().splitlines()
    return shortened(lines[-1] if lines else "no output")


def shortened(line):
    """A line with no more than what tells one error from another."""
    line = re.sub(r"0x\w+", "0x...", line)
    return line if len(line) < 200 else line[:197] + "..."


COMPARE = """
import sys, numpy as np
ours, legacy = map(np.load, sys.argv[1:])
names = sorted({*ours, *legacy})
different = []
for name in names:
    one, other = (file.get(name, np.zeros(())) for file in (ours, legacy))
    same = one.dtype == other.dtype and one.shape == other.shape
    if not same or one.tobytes() != other.tobytes():
        different.append(name)
        by = f"by {abs(one - other).max()}" if same else "by kind"
        print(f"{name} differs {by} of {abs(other).max()}")
print(f"{len(names) - len(different)} of {len(names)} arrays equal")
"""


def train(python, package, side):
    """Runs the training program; returns the file it wrote, and an error."""
    file = WORK / package.name / f"{side}.npz"
    file.unlink(missing_ok=True)
    program = PROGRAMS / f"with_{package.name}.py"
    # In a function TensorFlow rewrites legacy's operations, but no native ones.
    plain = {"KERAS_LEGACY_OPT_FUSED": "0"}
    arguments = [program, file]
    status, output = run(python, package, side, arguments, WORK, **plain)
    return file, error_line(output) if status else None


def compare_training(python, package, side):
    """Trains with ours; returns {"equal": how much is, or "error": why not}."""
    file, error = train(python, package, side)
    if error:
        return {"error": error}
    legacy = WORK / package.name / f"{LEGACY}.npz"
    output = subprocess.check_output(
        [python, "-c", COMPARE, file, legacy], text=True
    )
    *differences, count = output.strip().splitlines()
    return {"equal": count, "differences": differences}


def run_tests(python, package, side):
    """Runs a package's own tests; returns {test: error line, or None}."""
    directory = WORK / package.name / "source"
    if package.from_source:
        [directory] = directory.iterdir()
    else:
        [directory] = (WORK / package.name).glob("lib/python*/site-packages")
    if directory.joinpath("tests").is_dir():  # As in the repository.
        directory.joinpath("tests", "__init__.py").touch()
    arguments = [*PYTEST.split(), "--rootdir", directory, *package.tests]
    _, output = run(python, package, side, arguments, directory)
    found = re.findall(
        r"^(PASSED|FAILED|ERROR) (\S+?)(?: - (.*))?$", output, re.M
    )
    collected = r"ERROR collecting %s _+\n(.*?)(?=\n_{3}|\n={3})"
    errors = {}
    for result, test, error in found:
        while_collecting = re.search(
            collected % re.escape(test), output, re.DOTALL
        )
        if while_collecting:
            error = error_line(while_collecting[1])
        errors[test] = None if result == "PASSED" else error or result
    return errors or {"collection": error_line(output)}


def versions(python, package):
    """{name: version} of a package, TensorFlow and both Kerases."""
    code = (
        "import sys, importlib.metadata as m\n"
        "for name in sys.argv[1:]: print(name, m.version(name))"
    )
    name = package.requirement.partition("==")[0]
    output = subprocess.check_output(
        [python, "-c", code, name, "tensorflow", "keras", "tf_keras"], text=True
    )
    return dict(line.split() for line in output.splitlines())


def try_package(package):
    """Runs all of a package, and writes what came of it."""
    python = environment_of(package)
    for log in (WORK / package.name).glob("*.log"):
        log.unlink()
    result = {"versions": versions(python, package)}
    _, error = train(python, package, LEGACY)
    assert not error, f"with tf_keras' legacy optimizers: {error}"
    if package.tests:
        result[LEGACY] = {"tests": run_tests(python, package, LEGACY)}
    sides = [TF_KERAS] if package.in_tf_keras else [KERAS_3]
    for side in sides:
        of_side = result[side] = compare_training(python, package, side)
        if package.tests:
            of_side["tests"] = run_tests(python, package, side)
        fails = "error" in of_side or any(of_side.get("tests", {}).values())
        if side == KERAS_3 and fails:
            sides.append(TF_KERAS)
    return result


HEAD = """# Real packages

`scripts/packages.py` installs packages that were built on the legacy
optimizers, each in an environment of its own, and runs them, unedited, by
`python -m keras_legacy_opt run`. Whatever TensorFlow their requirements name,
they get this one.

- Training: programs of ours, in `tests/packages`, train with their optimizers
  as their users do, once with tf_keras' own legacy optimizers and once with
  these, without native ops: in functions, TensorFlow rewrites what legacy does
  around its kernels, in the last bit, and cannot rewrite a native op. Equal are
  arrays of which all bits are: variables, slots, iterations.
- Own tests: the tests of its optimizers that a package brings, with these
  optimizers; in parentheses, with tf_keras' own.

| package | Keras | TensorFlow | training | own tests |
|---|---|---|---|---|
"""


def rows(package, result):
    """The lines of the table for a package: one for each Keras it ran in."""
    versions = result["versions"]
    name, _, version = package.requirement.partition("==")
    for side in (KERAS_3, TF_KERAS):
        if side not in result:
            continue
        of_side = result[side]
        keras = "keras" if side == KERAS_3 else "tf_keras"
        training = of_side.get("equal", "")
        if "error" in of_side:
            training = "does not run, see below"
        cells = [
            *[f"{name} {version}", f"{keras} {versions[keras]}"],
            *[versions["tensorflow"], training, passed(result, side)],
        ]
        yield f"| {' | '.join(cells)} |"


def passed(result, side):
    """How many of the package's own tests pass, and did with legacy."""
    tests = result[side].get("tests", {})
    if not tests:
        return "none"
    if "collection" in tests:
        return "do not run, see below"
    of_legacy = result[LEGACY]["tests"]
    ours, legacy = (
        f"{list(t.values()).count(None)} of {len(t)}"
        for t in (tests, of_legacy)
    )
    return f"{ours} ({legacy})"


def reasons(package, result):
    """The lines about what does not run, each error once."""
    name = package.requirement.partition("==")[0]
    of_legacy = result.get(LEGACY, {}).get("tests", {})
    for side in (KERAS_3, TF_KERAS):
        of_side = result.get(side, {})
        by_error = collections.defaultdict(list)
        if "error" in of_side:
            by_error[of_side["error"]].append("the training")
        for test, error in of_side.get("tests", {}).items():
            if error:
                by_error[shortened(error)].append(test)
        for difference in of_side.get("differences", ()):
            by_error[difference].append("the training")
        for error, what in by_error.items():
            tests = sorted({test.rpartition("::")[2] for test in what})
            if len(tests) > 4:
                tests = [f"{len(what)} tests"]
            known = all(of_legacy.get(test) for test in what)
            also = " (with tf_keras' own, too)" if known else ""
            error = error.replace("`", "'")
            yield f"- {name} in {side}: {', '.join(tests)}{also}: `{error}`"


def write_table():
    """Writes docs/packages.md from the results of all packages so far."""
    lines, errors = [], []
    for package in PACKAGES:
        file = WORK / package.name / "result.json"
        if file.exists():
            result = json.loads(file.read_text())
            lines += rows(package, result)
            errors += reasons(package, result)
    text = HEAD + "\n".join(lines) + "\n"
    if errors:
        text += "\n## What does not run\n\n" + "\n".join(errors) + "\n"
    TABLE.write_text(text)


def main():
    """Runs the packages that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [package.name for package in PACKAGES]
    parser.add_argument(
        "packages", nargs="*", metavar="PACKAGE", help=f"of {', '.join(names)}"
    )
    chosen = parser.parse_args().packages or names
    if unknown := set(chosen) - set(names):
        parser.error(
            f"unknown: {', '.join(unknown)}; known: {', '.join(names)}"
        )
    WORK.mkdir(exist_ok=True)
    for package in PACKAGES:
        if package.name in chosen:
            print(f"== {package.name}", flush=True)
            result = try_package(package)
            file = WORK / package.name / "result.json"
            file.write_text(json.dumps(result, indent=1))
            print(*rows(package, result), *reasons(package, result), sep="\n")
            write_table()


if __name__ == "__main__":
    main()
