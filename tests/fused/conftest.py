"""The native library, built if it must be, for the tests of this folder."""

import contextlib
import fcntl
import os
import pathlib
import sys
import tempfile

import pytest

from keras_legacy_opt import fused
from keras_legacy_opt.fused import build, loader, plan

# For `stepping`, which these tests share with those.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "conformance"))


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


@pytest.fixture
def calls(monkeypatch):
    """Names of the native updates that were run or traced."""
    seen = []
    for name in ("call_dense", "call_group", "update_sparse"):
        original = getattr(plan, name)

        def spy(*args, name=name, original=original, **kwargs):
            seen.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(plan, name, spy)
    return seen


@contextlib.contextmanager
def _one_at_a_time():
    """Lets one of several test processes build, and the others wait."""
    path = pathlib.Path(tempfile.gettempdir(), f"klo_build_{os.getuid()}.lock")
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
