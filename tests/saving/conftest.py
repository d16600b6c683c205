"""Fixtures for the tests of files."""

import pathlib

import golden_sets
import pytest


@pytest.fixture(scope="session")
def golden(tmp_path_factory) -> pathlib.Path:
    """The folder with the golden sets."""
    folder = tmp_path_factory.mktemp("golden")
    golden_sets.unpack(folder)
    return folder
