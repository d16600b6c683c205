"""Keras 3's callbacks that write files, on several workers in step.

All workers run them with the same arguments, as in Keras 2: the chief writes,
and the others write to a folder that is then removed.  They have to write, too,
because reading the state of a metric takes all workers.  What was saved is read
by all of them from the chief's folder.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import types
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from keras_legacy_opt.clusters import multi_worker


def correct(keras: types.ModuleType) -> None:
    """Lets only the chief of several workers write what a callback writes."""
    callbacks = keras.callbacks
    _wrap(callbacks.ModelCheckpoint, "_save_model", _elsewhere)
    _wrap(callbacks.BackupAndRestore, "_save_model", _elsewhere)
    _wrap(callbacks.BackupAndRestore, "on_train_begin", _agreed)
    _wrap(callbacks.BackupAndRestore, "on_train_end", _together)
    _wrap(callbacks.CSVLogger, "on_train_begin", _listed_elsewhere)
    _wrap(callbacks.TensorBoard, "set_model", _logged_elsewhere)


def _wrap(cls: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Makes `wrapper(strategy, callback, method)` of a method."""
    method = getattr(cls, name, None)
    if method is None:
        return

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = args[0] if name == "set_model" else self.model
        strategy = getattr(model, "distribute_strategy", None)
        call = functools.partial(method, self, *args, **kwargs)
        if not multi_worker.is_wanted(strategy):
            return call()
        return wrapper(strategy, self, call)

    setattr(cls, name, wrapped)


def _elsewhere(strategy: Any, callback: Any, call: Callable[[], Any]) -> Any:
    if strategy.extended.should_checkpoint:
        return call()
    with (
        tempfile.TemporaryDirectory() as folder,
        _redirected(callback, folder),
    ):
        return call()


@contextlib.contextmanager
def _redirected(callback: Any, folder: str) -> Iterator[None]:
    """Replaces, in what a callback says, its path by one in `folder`."""
    path = str(getattr(callback, "backup_dir", None) or callback.filepath)
    path = os.path.normpath(path)
    there = os.path.join(folder, os.path.basename(path))
    before = dict(vars(callback))
    for name, value in before.items():
        if isinstance(value, (str, os.PathLike)):
            text = os.path.normpath(str(value))
            if text == path or text.startswith(path + os.sep):
                setattr(callback, name, there + text[len(path) :])
    try:
        yield
    finally:
        for name, value in before.items():
            if isinstance(value, (str, os.PathLike)):
                setattr(callback, name, value)


def _agreed(strategy: Any, callback: Any, call: Callable[[], Any]) -> None:
    """All workers go on with the same epoch, or none."""
    call()
    epoch = float(getattr(callback.model, "_initial_epoch", 0) or 0)
    mean = float(strategy.reduce("MEAN", tf.constant(epoch), axis=None))
    if mean != epoch:
        raise ValueError(
            "The workers do not agree on the epoch to go on with: this one has"
            f" found {epoch:.0f} in {callback.backup_dir!r}; the mean of all is"
            f" {mean:g}. BackupAndRestore wants one folder that every worker"
            " reaches by this path; only the chief writes there."
        )


def _together(strategy: Any, callback: Any, call: Callable[[], Any]) -> None:
    """The folder is gone before any worker looks for one again."""
    if strategy.extended.should_checkpoint:
        call()
    strategy.reduce("SUM", tf.constant(0.0), axis=None)


def _logged_elsewhere(
    strategy: Any, callback: Any, call: Callable[[], Any]
) -> None:
    if not strategy.extended.should_checkpoint:
        callback.log_dir = _scratch_folder(callback)
    call()


def _listed_elsewhere(
    strategy: Any, callback: Any, call: Callable[[], Any]
) -> None:
    if not strategy.extended.should_checkpoint:
        callback.filename = os.path.join(_scratch_folder(callback), "log.csv")
    call()


def _scratch_folder(callback: Any) -> str:
    """A folder that is removed when a callback is no longer used."""
    if not hasattr(callback, "_scratch"):
        callback._scratch = tempfile.TemporaryDirectory()
    return callback._scratch.name
