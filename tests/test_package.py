"""What installing and importing the package does, and does not."""

import ast
import importlib.metadata
import importlib.resources
import os
import pathlib
import re
import subprocess
import sys

import pytest
from absl import logging

import keras_legacy_opt
from keras_legacy_opt import supported

PACKAGE = pathlib.Path(keras_legacy_opt.__file__).parent
# Distributions are named as in the metadata, modules as in an import.
MODULES_OF = {"absl-py": "absl"}


def requirements(extra=None):
    """Names of the required distributions, of an extra if one is named."""
    names = set()
    for line in importlib.metadata.requires("keras_legacy_opt"):
        requirement, _, marker = line.partition(";")
        of_extra = "extra ==" in marker
        if of_extra == bool(extra) and (not extra or f'"{extra}"' in marker):
            name = requirement.split("[")[0]
            for operator in "<>=!~ ":
                name = name.split(operator)[0]
            names.add(name)
    return names


def imported_modules(path):
    """Top-level names of what a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield node.module.partition(".")[0]


def loaded_by(first, second, **environment):
    """Top-level modules that a new process has loaded after each import."""
    code = f"import sys\nimport {first}\nprint(*sys.modules)\n"
    code += f"import {second}\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return [
        {name.partition(".")[0] for name in line.split()}
        for line in result.stdout.splitlines()
    ]


def test_version():
    installed = importlib.metadata.version("keras_legacy_opt")
    assert keras_legacy_opt.__version__ == installed


def test_types_are_shipped():
    assert (
        importlib.resources.files(keras_legacy_opt)
        .joinpath("py.typed")
        .is_file()
    )


def test_public_names():
    assert sorted(keras_legacy_opt.__all__) == sorted(
        set(keras_legacy_opt.__all__)
    )
    for name in keras_legacy_opt.__all__:
        value = getattr(keras_legacy_opt, name)
        assert value.__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("extra", [None, "migrate"])
def test_imports_are_the_requirements(extra):
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        if ("migrate" in path.parts) == bool(extra):
            imported.update(imported_modules(path))
    third_party = imported - sys.stdlib_module_names - {"keras_legacy_opt"}
    declared = {MODULES_OF.get(name, name) for name in requirements(extra)}
    assert third_party == declared


def test_test_packages_are_extras():
    extras = requirements("test")
    assert {"hypothesis", "pytest", "scikit-learn", "tf_keras"} <= extras
    assert not extras & requirements()


@pytest.mark.parametrize("legacy", ["0", "1"])
@pytest.mark.processes
def test_import_adds_only_us_to_tensorflow(legacy):
    """In particular no second Keras; TensorFlow imports the first one."""
    before, after = loaded_by(
        "tensorflow", "keras_legacy_opt", TF_USE_LEGACY_KERAS=legacy
    )
    assert after - before - sys.stdlib_module_names == {"keras_legacy_opt"}
    assert ("tf_keras" if legacy == "0" else "keras") not in after


# What is supported.


def test_the_readme_says_what_is_supported():
    root = pathlib.Path(__file__).parents[1]
    tensorflow = supported.TENSORFLOW
    readme = (root / "README.md").read_text()
    assert f"| TensorFlow | {tensorflow} |" in readme


def test_scripts_read_what_is_supported():
    """By a bare Python, in which nothing is installed."""

    def told(*arguments):
        command = [sys.executable, "-S", supported.__file__, *arguments]
        return subprocess.check_output(command, text=True).splitlines()

    assert told() == [supported.any_tensorflow()]
    lines = told("environments")
    assert len(lines) == 2 * len(supported.RELEASES)
    assert lines[0] == ("3.10 tensorflow==2.16.* tf_keras==2.16.* keras==3.0.0")


def test_no_newer_tensorflow_is_forbidden():
    text = (pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text()
    found = re.findall(r'"(tensor\w+|tf_keras)([<>=!~][^"]*)"', text)
    assert len(found) == 3
    oldest = "{}.{}".format(*supported.TENSORFLOW.oldest)
    assert [bounds for _, bounds in found] == [f">={oldest}"] * 3


@pytest.mark.parametrize("package", supported.PACKAGES)
def test_versions_outside_are_remarked(package):
    major, minor = package.newest
    assert package.remark(f"{major}.{minor}.7") is None
    assert package.remark("{}.{}.0".format(*package.oldest)) is None
    assert "newer" in package.remark(f"{major}.{minor + 1}.0-dev20260101")
    assert "too old" in package.remark("1.15.0")
    assert "not known" in package.remark("unknown")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("klo_some_module", "tensorflow-cpu"),
        ("klo_some_module", "keras-nightly"),
        ("klo_some_module", "klo-some-module"),
    ],
)
def test_packages_of_other_names_are_known(tmp_path, monkeypatch, module, name):
    def install(name, version):
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        (info / "top_level.txt").write_text(module)
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(tmp_path)
    package = supported.Supported("Some", module, (2, 0), (2, 1))
    assert supported.describe(package) == "not installed"
    install(name, "2.2.dev1")
    told = supported.describe(package)
    assert told.startswith("2.2.dev1")
    assert "newer than what was tested, Some 2.0 to 2.1" in told
    assert (name in told) == (name != "klo-some-module")
    install("another-build", "2.0")
    assert "overwrite each other" in supported.describe(package)


def test_an_unknown_tensorflow_is_warned_of(monkeypatch):
    told = []
    monkeypatch.setattr(logging, "warning", lambda *a: told.append(a))
    supported.warn_if_unknown()
    assert not told
    monkeypatch.setattr("tensorflow.__version__", "2.99.0-rc1")
    supported.warn_if_unknown()
    assert "2.99.0-rc1" in told[0]


def test_no_modules_import_each_other_in_circles():
    """Nor inside functions: what is below knows nothing of what is above."""
    paths = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        paths[".".join((PACKAGE.name, *parts))] = path

    def imports(name):
        for node in ast.walk(ast.parse(paths[name].read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from {n if n in paths else node.module for n in names}

    left = {name: {*imports(name)} & paths.keys() for name in paths}
    while free := [name for name, above in left.items() if not above & {*left}]:
        for name in free:
            del left[name]
    assert not left
