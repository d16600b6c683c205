"""Fixtures for every test."""

import os
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

from keras_legacy_opt import fused


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


@pytest.fixture
def plain_path():
    """TensorFlow's own kernels, whose bits are legacy's, also on 16 bits."""
    with fused.disabled():
        yield


def pytest_ignore_collect(collection_path):
    """Takes tests only: no examples from scripts, which would be executed."""
    if collection_path.suffix == ".py":
        name = collection_path.name
        return True if not name.startswith(("test_", "conftest")) else None
    return None
