"""Opening HDF5 files that may be anyone's.

HDF5 lets a file speak of others, whose content then reads as its own: links to
objects in them, and datasets that are stored in them.  None of Keras' files
does.  Also, a few bytes can announce any number of values, and a damaged heap
of strings keeps HDF5 busy for ever.
"""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_legacy_opt.checkpoints.limits import Limits
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.checkpoints.values import Value

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# gzip, shuffle, Fletcher's checksum, szip, bits, scaled integers, and h5py's
# LZF. All others are plugins.
_FILTERS = frozenset([1, 2, 3, 4, 5, 6, 32000])
# A list of strings is one of references, any number of which may be to the same
# string. No attribute that Keras wrote has more of them.
_LONGEST_LIST = 1 << 12
# How a heap of strings begins: its signature and version, before its size.
_HEAP = b"GCOL\x01\0\0\0"
_HEAP_HEADER = 16
_CHUNK = 1 << 24
# Of a string: its number, how often it is used, and its length.
_STRING = struct.Struct("<HH4xQ")


def is_hdf5(path: str) -> bool:
    """Whether a file begins as HDF5 files do."""
    with open(path, "rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE


@contextlib.contextmanager
def open_file(path: str, limits: Limits) -> Iterator[Any]:
    """An open `h5py.File`, all of which was found to be in this one file.

    Args:
      path: of the file.
      limits: of the file, or of the archive that it is from.

    Raises:
      CheckpointError: if it speaks of other files, or announces too much.
    """
    import h5py

    _check_heaps(path, limits)
    with h5py.File(path, "r") as file:
        _check(file, limits)
        yield file


def value(name: str, dataset: Any) -> Value:
    """The value of a dataset, not read yet."""
    if (
        dataset.shape is None
        or dataset.dtype.kind not in "biufcV"
        or (dataset.dtype.names is not None)
    ):
        raise CheckpointError(
            f"{dataset.file.filename}: {name!r} holds {dataset.dtype}, not"
            " numbers as the variables of Keras do."
        )
    return Value(
        name,
        tuple(dataset.shape),
        dataset.dtype,
        functools.partial(_read, dataset),
    )


def _read(dataset: Any) -> np.ndarray:
    return np.asarray(dataset[()])


def _check_heaps(path: str, limits: Limits) -> None:
    """Refuses heaps that HDF5 could not go through to their end."""
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        for start in _starts_of_heaps(content):
            size = int.from_bytes(content[start + 8 : start + 16], "little")
            position, end = start + _HEAP_HEADER, start + size
            while position + _STRING.size <= min(end, len(content)):
                number, _, length = _STRING.unpack_from(content, position)
                # Number 0 is what is free, with its header.
                step = -(-length // 8) * 8 + _STRING.size if number else length
                if step < _STRING.size:
                    raise _refusal(limits, "a string", "is of no length")
                position += step


def _starts_of_heaps(content: mmap.mmap) -> Iterator[int]:
    """Where something begins that HDF5 might take for a heap."""
    for begin in range(0, len(content), _CHUNK):
        end = begin + _CHUNK + len(_HEAP) - 1
        start = content.find(_HEAP, begin, end)
        while start >= 0:
            yield start
            start = content.find(_HEAP, start + 1, end)
        # What was read need not stay in memory.
        size = min(_CHUNK, len(content) - begin)
        content.madvise(mmap.MADV_DONTNEED, begin, size)


def _check(file: Any, limits: Limits) -> None:
    import h5py.h5d as h5d
    import h5py.h5g as h5g
    import h5py.h5l as h5l
    import h5py.h5o as h5o

    total = 0
    visited = set()
    queue = [("/", h5g.open(file.id, b"/"))]
    while queue:
        name, node = queue.pop()
        address = h5o.get_info(node).addr
        if address in visited:
            continue
        visited.add(address)
        _check_attributes(name, node, limits)
        if isinstance(node, h5d.DatasetID):
            total += _size_of(name, node, limits)
            limits.check_values(total)
        if not isinstance(node, h5g.GroupID):
            continue
        for part in node:
            inner = f"{name.rstrip('/')}/{part.decode(errors='replace')}"
            if node.links.get_info(part).type != h5l.TYPE_HARD:
                raise _refusal(limits, inner, "is a link to somewhere else")
            queue.append((inner, h5o.open(node, part)))


def _check_attributes(name: str, node: Any, limits: Limits) -> None:
    import h5py.h5a as h5a

    for index in range(h5a.get_num_attrs(node)):
        attribute = h5a.open(node, index=index)
        what = f"attribute {attribute.name.decode(errors='replace')!r}"
        count = math.prod(attribute.shape or ())
        size = count * attribute.dtype.itemsize
        limits.check_text(size, f"{what} of {name!r}")
        if attribute.dtype.hasobject and count > _LONGEST_LIST:
            raise _refusal(limits, name, f"has too long a list as {what}")


def _size_of(name: str, dataset: Any, limits: Limits) -> int:
    """What the values of a dataset take, read."""
    import h5py.h5d as h5d

    created = dataset.get_create_plist()
    layout = created.get_layout()
    if created.get_external_count() or layout == h5d.VIRTUAL:
        raise _refusal(limits, name, "is stored in other files")
    for number in range(created.get_nfilters()):
        if created.get_filter(number)[0] not in _FILTERS:
            raise _refusal(limits, name, "is compressed in an unusual way")
    chunk = created.get_chunk() if layout == h5d.CHUNKED else ()
    count = max(math.prod(dataset.shape or ()), math.prod(chunk))
    return count * dataset.dtype.itemsize


def _refusal(limits: Limits, name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{limits.path}: {name!r} {what}, as nothing in a file of Keras is. It"
        " is not read."
    )
