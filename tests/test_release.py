"""What an sdist and wheels have in them, and which systems they are for."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest

from keras_legacy_opt.fused import library

pytestmark = pytest.mark.processes

ROOT = pathlib.Path(__file__).parents[1]
PLATFORM = sysconfig.get_platform().replace("-", "_").replace(".", "_")
VERSIONS = ("2.20.0", "2.21.0")


def run_backend(folder, hook, target, **environment):
    """Calls a hook of pyproject.toml's build backend; the path of its file."""
    target.mkdir(exist_ok=True)
    code = f"from setuptools import build_meta as b; b.{hook}({str(target)!r})"
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
        timeout=300,
    )
    (path,) = target.iterdir()
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the source tree as it is in a clone."""
    folder = tmp_path_factory.mktemp("release") / "source"
    made = (".*", "build", "dist", "lib", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*made))
    return folder


@pytest.fixture(scope="module")
def unpacked(source):
    """The folder of an unpacked sdist."""
    path = run_backend(source, "build_sdist", source.with_name("sdist"))
    with tarfile.open(path) as archive:
        archive.extractall(path.parent, filter="data")
    return path.with_name(path.name.removesuffix(".tar.gz"))


@pytest.fixture
def libraries(tmp_path):
    """A folder as of builds for several TensorFlows."""
    for version in VERSIONS:
        folder = tmp_path / "libraries" / f"tf{version}-g++-12.2.0"
        folder.mkdir(parents=True)
        for name in (library.LIBRARY, library.MANIFEST):
            (folder / name).write_text(version)
    return tmp_path / "libraries"


def content(path):
    """The names in a wheel, and its WHEEL file."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (wheel,) = (name for name in names if name.endswith("/WHEEL"))
        return names, archive.read(wheel).decode()


def test_the_sdist_is_the_source_tree(source, unpacked):
    def files(folder):
        paths = (path for path in folder.rglob("*") if path.is_file())
        names = {path.relative_to(folder).as_posix() for path in paths}
        return {name for name in names if ".egg-info/" not in name}

    assert files(unpacked) == files(source) | {"PKG-INFO", "setup.cfg"}


def test_a_wheel_without_a_library_is_for_all(unpacked, tmp_path):
    wheel = run_backend(
        unpacked, "build_wheel", tmp_path / "out", KERAS_LEGACY_OPT_NATIVE="0"
    )
    names, tags = content(wheel)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "Root-Is-Purelib: true" in tags
    assert "keras_legacy_opt/tf_custom_ops/math/adam.h" in names
    assert "keras_legacy_opt/py.typed" in names
    assert not [name for name in names if name.endswith(".so")]
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "keras_legacy_opt"
    }


def test_a_wheel_with_libraries_is_for_a_system_and_every_python(
    unpacked, tmp_path, libraries
):
    wheel = run_backend(
        unpacked,
        "build_wheel",
        tmp_path / "out",
        KERAS_LEGACY_OPT_LIBRARIES=str(libraries),
    )
    names, tags = content(wheel)
    assert wheel.name.endswith(f"-py3-none-{PLATFORM}.whl")
    assert "Root-Is-Purelib: false" in tags
    place = "keras_legacy_opt/fused/lib"
    for version in VERSIONS:
        for name in (library.LIBRARY, library.MANIFEST):
            assert f"{place}/tf{version}-g++-12.2.0/{name}" in names
