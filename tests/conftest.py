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
