"""Who could have written a file that this process is about to run."""

from __future__ import annotations

import errno
import os
import pathlib
import stat
from collections.abc import Iterator

MODE = 0o755  # at most: others never write what we make

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40  # in one path, as in Linux


class Untrusted(Exception):
    """Somebody else could have written a file; the message says how."""


def check(path: pathlib.Path, folders: int = 0) -> None:
    """Checks that only root and the user of this process could write a file.

    Everything on the way counts, links included: whoever may write a folder
    may replace what it holds.  A folder such as /tmp, in which everyone may
    only replace what is their own, is good enough on the way to the file.

    Args:
      path: an absolute path of a file or folder.
      folders: how many folders above it nobody else may write at all.

    Raises:
      Untrusted: if somebody else could.
      OSError: if there is no such file, or it cannot be looked at.
    """
    owners = {0, _user()}
    real = pathlib.Path(os.path.realpath(path))
    strict = {real, *list(real.parents)[:folders]}
    for entry in _on_the_way(path):
        status = os.lstat(entry)
        _check_owner(entry, status, owners)
        if stat.S_ISLNK(status.st_mode):
            continue  # The modes of links mean nothing.
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if not sticky or entry in strict:
            _check_mode(entry, status, _OTHERS_MAY_WRITE)


def check_as_code(path: pathlib.Path, code: pathlib.Path) -> None:
    """Checks that nobody could write a file but who may write code beside it.

    Args:
      path: a file or folder below `code`.
      code: a folder whose Python modules this process runs in any case.

    Raises:
      Untrusted: if somebody else could.
      OSError: if there is no such file, or it cannot be looked at.
    """
    trusted = os.stat(code)
    owners = {0, _user(), trusted.st_uid}
    while path != code:
        status = os.stat(path)
        _check_owner(path, status, owners)
        _check_mode(path, status, _OTHERS_MAY_WRITE & ~trusted.st_mode)
        path = path.parent


def make_folders(folder: pathlib.Path) -> None:
    """Makes folders that others may not write, whatever the umask is."""
    for path in [*reversed(folder.parents), folder]:
        if not path.is_dir():
            path.mkdir(MODE, exist_ok=True)


def _on_the_way(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folders and links that lead to a file, and the file."""
    here = pathlib.Path(path.root)
    rest = list(reversed(path.parts[1:]))
    links = 0
    yield here
    while rest:
        name = rest.pop()
        if name == "..":
            here = here.parent
            continue
        entry = here / name
        yield entry
        if not entry.is_symlink():
            here = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = pathlib.Path(os.readlink(entry))
        if target.is_absolute():
            here = pathlib.Path(target.root)
        rest.extend(reversed(target.parts[bool(target.root) :]))


def _check_owner(
    path: pathlib.Path, status: os.stat_result, owners: set[int]
) -> None:
    if status.st_uid not in owners:
        raise Untrusted(
            f"{path} belongs to another user (number {status.st_uid})"
        )


def _check_mode(path: pathlib.Path, status: os.stat_result, mask: int) -> None:
    if status.st_mode & mask:
        raise Untrusted(
            f"other users may write {path} (`chmod go-w` forbids it)"
        )


def _user() -> int:
    # Systems without users have no owners either: all have number 0.
    return os.geteuid() if hasattr(os, "geteuid") else 0
