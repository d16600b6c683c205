"""The tensors of TensorFlow's checkpoints, of either kind."""

from __future__ import annotations

import functools
import glob
import os
import re

import numpy as np
import tensorflow as tf

from keras_legacy_opt.checkpoints import bundle_index
from keras_legacy_opt.checkpoints.limits import Limits
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.checkpoints.values import Value, readable


def prefix_of(path: str) -> str | None:
    """The prefix of the checkpoint at `path`, if there is one.

    Args:
      path: a prefix, one of the files of a checkpoint, a folder with
        checkpoints (the latest counts), or a SavedModel's folder.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        variables = os.path.join(path, "variables", "variables")
        if os.path.exists(variables + ".index"):
            return variables
        return _latest_in(path)
    path = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path)
    return path if os.path.exists(path + ".index") else None


def _latest_in(folder: str) -> str | None:
    """The prefix of the latest checkpoint in `folder`.

    The file that tells may have been written elsewhere, and may be anyone's:
    what counts is the name, and a path if that is in the folder.
    """
    with readable(folder):
        state = tf.train.get_checkpoint_state(folder)
        if state is None or not state.model_checkpoint_path:
            return None
        told = os.path.realpath(state.model_checkpoint_path)
        inside = told.startswith(os.path.realpath(folder) + os.sep)
        name = os.path.basename(state.model_checkpoint_path)
        prefix = told if inside else os.path.join(folder, name)
        return prefix if os.path.exists(f"{prefix}.index") else None


class Bundle:
    """A TensorFlow checkpoint: an index, and files with data.

    Args:
      prefix: of the checkpoint.
      max_size: what it may unpack to, in bytes; see `Limits.of`.

    Raises:
      CheckpointError: if it cannot be read, or a data file is missing.
    """

    def __init__(self, prefix: str, max_size: int | None = None):
        self.prefix = prefix
        with readable(prefix):
            files = glob.glob(f"{glob.escape(prefix)}.*")
            limits = Limits.of(prefix, max_size, files)
            bundle_index.check(prefix, limits)
            self._reader = tf.train.load_checkpoint(prefix)
            self.shapes = self._reader.get_variable_to_shape_map()
            self.dtypes = self._reader.get_variable_to_dtype_map()
        if not self.shapes:
            raise CheckpointError(f"{prefix} holds no tensors.")

    def value(self, key: str) -> Value:
        """The value of a tensor, not read yet."""
        return Value(
            key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"),
            tuple(self.shapes[key]),
            self.dtypes[key].as_numpy_dtype,
            functools.partial(self.tensor, key),
        )

    def tensor(self, key: str) -> np.ndarray:
        """A tensor, read now."""
        with readable(self.prefix):
            value = self._reader.get_tensor(key)
            # NumPy's own strings lose zeros at the end.
            is_text = isinstance(value, bytes)
            return np.asarray(value, object if is_text else None)
