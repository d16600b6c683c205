"""Fixtures for the tests of the native ops."""

import pathlib
import sys

import pytest

from keras_legacy_opt.backends import native
from keras_legacy_opt.step import plan

# For `stepping`, which these tests share with those.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "conformance"))


@pytest.fixture
def calls(monkeypatch):
    """Names of the native updates that were run or traced."""
    seen = []
    for name in ("update_dense", "update_group", "update_sparse"):
        original = getattr(native, name)

        def spy(*args, name=name, original=original, **kwargs):
            seen.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(native, name, spy)
    return seen


@pytest.fixture
def planned(monkeypatch):
    """Whether the plans that there were have taken their steps."""
    found, run = [], plan.Plan.run

    def counted(*args):
        found.append(run(*args))
        return found[-1]

    monkeypatch.setattr(plan.Plan, "run", counted)
    return found
