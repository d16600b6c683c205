"""Options and fixtures for every test."""

import contextlib
import fcntl
import gc
import os
import pathlib
import runpy
import sys
import tempfile
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
import selection

from keras_legacy_opt import fused
from keras_legacy_opt.fused import build, loader

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.fixture
def rng(request) -> np.random.Generator:
    """Random numbers that are the same in every run of a test."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


def pytest_addoption(parser):
    parser.addoption(
        "--kills",
        type=int,
        default=1,
        help="how often test_kills.py kills each training run",
    )
    parser.addoption(
        "--quick",
        action="store_true",
        help="run one case of each test for each optimizer and each Keras, and"
        " no test that starts processes",
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "processes: starts processes, each of which costs seconds"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if config.getoption("quick"):
        chosen = selection.quick(items)
        kept = set(chosen)
        others = [item for item in items if item not in kept]
        config.hook.pytest_deselected(items=others)
        items[:] = chosen
    for item in items:
        item.add_marker(pytest.mark.xdist_group(selection.group(item)))
    if getattr(config.option, "loadgroup", False):
        # Long ones first, so that none is left for one worker at the end.
        items.sort(key=lambda item: not selection.starts_processes(item))


def pytest_collection_finish(session):
    """Spares the garbage collector what was imported: a million objects."""
    gc.collect()
    gc.freeze()
    if getattr(session.config.option, "loadgroup", False):
        for item in session.items:
            assert "@" in item.nodeid, (
                f"pytest {pytest.__version__} and this pytest-xdist do not keep"
                f" groups of tests together, such as that of {item.nodeid}"
            )


@pytest.fixture
def in_this_process(monkeypatch):
    """A function from an example that ends early to its exit status."""

    def function(name, argument):
        path = EXAMPLES / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), argument])
        monkeypatch.syspath_prepend(EXAMPLES)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name="__main__")
        return end.value.code

    return function


@pytest.fixture
def plain_path():
    """TensorFlow's own kernels, whose bits are legacy's, also on 16 bits."""
    with fused.disabled():
        yield


@pytest.fixture(scope="session")
def native_ops():
    """The loaded native library."""
    if os.environ.get(loader.SWITCH) == "0":
        pytest.skip(f"{loader.SWITCH} is 0")
    if not fused.is_available():
        with _one_at_a_time():
            try:
                build.build()
            except build.BuildError as error:
                pytest.skip(f"the native library cannot be built: {error}")
        loader._load_once.cache_clear()
    assert fused.is_available(), fused.why_not()
    return loader.load()


@contextlib.contextmanager
def _one_at_a_time():
    """Lets one of several test processes build, and the others wait."""
    path = pathlib.Path(tempfile.gettempdir(), f"klo_build_{os.getuid()}.lock")
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pytest_ignore_collect(collection_path):
    """Takes tests only: no examples from scripts, which would be executed."""
    if collection_path.suffix == ".py":
        name = collection_path.name
        return True if not name.startswith(("test_", "conftest")) else None
    return None
