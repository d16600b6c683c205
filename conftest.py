"""Names that every docstring example may use."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

import keras_legacy_opt


@pytest.fixture(autouse=True)
def _names_in_examples(doctest_namespace):
    doctest_namespace.update(tf=tf, keras_legacy_opt=keras_legacy_opt)


# Its import would install this package's names for all tests.
collect_ignore = ["keras_legacy_opt/auto.py"]
