"""Where `convert` writes: the old file or the new one, at any moment."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator

import tensorflow as tf

from keras_legacy_opt.checkpoints import bundle_index
from keras_legacy_opt.checkpoints.report import CheckpointError


class Destination:
    """A name for the output of a conversion.

    Args:
      path: an `.h5` or `.hdf5` file, or else the prefix of a checkpoint.
      overwrite: whether it may exist.

    Raises:
      CheckpointError: if nothing can be written there.
    """

    def __init__(self, path: str, overwrite: bool):
        self.path = path
        self.is_h5 = path.endswith((".h5", ".hdf5"))
        self._overwrite = overwrite
        self._target = path if self.is_h5 else f"{path}.index"
        self._new: os.stat_result | None = None
        self._folder = os.path.dirname(os.path.abspath(path))
        if os.path.basename(path) in ("", ".", ".."):
            raise CheckpointError(
                f"The destination {path!r} has no file name: pass that of an"
                " .h5 file, or the prefix of a checkpoint."
            )
        if not os.path.isdir(self._folder):
            raise CheckpointError(f"There is no folder {self._folder}.")
        self._check()

    def _check(self) -> None:
        if os.path.isdir(self._target):
            raise CheckpointError(f"{self._target} is a folder.")
        if os.path.exists(self._target) and not self._overwrite:
            raise CheckpointError(
                f"{self._target} exists: pass --overwrite to replace it."
            )

    @contextlib.contextmanager
    def folder(self) -> Iterator[str]:
        """A temporary folder beside it, which keeps other conversions away.

        Raises:
          CheckpointError: if one is at work on it.
        """
        name = os.path.basename(self.path).encode(errors="surrogateescape")
        name = f".keras_legacy_opt-{hashlib.sha256(name).hexdigest()[:16]}"
        folder = os.path.join(self._folder, name)
        with self.writing():
            lock = self._locked(folder)
        try:
            with self.writing():
                # What a conversion left that was killed.
                for leftover in os.scandir(folder):
                    if leftover.is_dir(follow_symlinks=False):
                        shutil.rmtree(leftover)
                    elif leftover.name != "lock":
                        os.unlink(leftover)
            self._check()  # Another one may have been faster.
            yield folder
        finally:
            # Whoever comes next makes a folder of its own.
            done = f"{folder}-{os.getpid()}"
            with contextlib.suppress(OSError):
                os.rename(folder, done)
            shutil.rmtree(done, ignore_errors=True)
            os.close(lock)

    def _locked(self, folder: str) -> int:
        while True:
            os.makedirs(folder, exist_ok=True)
            path = os.path.join(folder, "lock")
            try:
                lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:
                continue  # The other one has just ended.
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(path)):
                    return lock
            except BlockingIOError:
                os.close(lock)
                raise CheckpointError(
                    f"Another conversion is writing {self.path}: wait for it."
                ) from None
            except FileNotFoundError:
                pass
            except OSError:
                return lock  # A file system without locks.
            os.close(lock)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turns what a full or read-only disk leads to into one error."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise CheckpointError(
                f"{self.path} cannot be written, and is what it was before:"
                f" {reason}"
            ) from error

    @property
    def is_replaced(self) -> bool:
        """Whether the new output has its name, and the old one is gone."""
        if self._new is None:
            return False
        try:
            return os.path.samestat(os.stat(self._target), self._new)
        except OSError:
            return False

    def taken_shards(self) -> int | None:
        """The number of data files that the new checkpoint must not have.

        It is part of their names: with another one, the old checkpoint stays
        whole until the index is replaced.
        """
        return bundle_index.number_of_shards(self.path)

    def take(self, path: str) -> None:
        """Gives a finished file, or checkpoint, the name of the destination."""
        last = path if self.is_h5 else f"{path}.index"
        new: set[str] = set()
        with self.writing():
            try:
                if not self.is_h5:
                    data = glob.glob(f"{glob.escape(path)}.data-*")
                    for part in sorted(data):
                        _sync(part)
                        named = self.path + part.removeprefix(path)
                        new.add(named)
                        os.replace(part, named)
                _sync(last)
                _sync(self._folder)
                self._new = os.stat(last)
                os.replace(last, self._target)
            except BaseException:
                if not self.is_replaced:
                    _remove(new)
                raise
        # From here on, nothing can go wrong that would matter.
        with contextlib.suppress(OSError):
            _sync(self._folder)
        if not self.is_h5:
            data = f"{glob.escape(self.path)}.data-*-of-*"
            _remove(set(glob.glob(data)) - new)


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.remove(path)


def _sync(path: str) -> None:
    """Has the system write a file or folder to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
