"""Errors that must be of two types.

TensorFlow's kernels reported an unfit gradient as `InvalidArgumentError` in
eager execution, and as `ValueError` or `TypeError` when a graph was built.
These are both, so that code which catches either still works.
"""

from __future__ import annotations

import tensorflow as tf


class GradientShapeError(tf.errors.InvalidArgumentError, ValueError):
    """The shape of a gradient does not fit its variable."""

    def __init__(self, message: str):
        super().__init__(None, None, message)


class GradientDtypeError(tf.errors.InvalidArgumentError, TypeError):
    """The dtype of a gradient is not that of its variable."""

    def __init__(self, message: str):
        super().__init__(None, None, message)
