"""Fixtures for the tests of the native ops."""

import pathlib
import sys

import pytest

from keras_legacy_opt.fused import plan

# For `stepping`, which these tests share with those.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "conformance"))


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
