"""The index of a TensorFlow checkpoint, checked before TensorFlow reads it.

TensorFlow ends the process when an index announces a shape that cannot be, and
takes the memory of any other.  The index is a table of LevelDB's format: blocks
of sorted keys, which share prefixes, with a protocol buffer for each.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.checkpoints.limits import Limits

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_NOT_COMPRESSED = 0
_LARGEST_RANK = 254
_STRING = 24
# How much longer than the index its keys may be, as they share prefixes.
_KEYS = 100


def number_of_shards(prefix: str) -> int | None:
    """How many data files a checkpoint has; `None` if it cannot be read."""
    try:
        return _header(_entries(f"{prefix}.index")).num_shards
    except Exception:  # Whatever damage leads to.
        return None


def check(prefix: str, limits: Limits) -> None:
    """Checks that TensorFlow can read a checkpoint.

    Args:
      prefix: of the checkpoint.
      limits: of its files.

    Raises:
      CheckpointError: if the index announces more than the limits allow.
      Exception: of any kind, if it is damaged or a data file is missing.
    """
    entries = _entries(f"{prefix}.index")
    count = _header(entries).num_shards
    sizes: dict[int, int] = {}
    total = 0
    for key, entry in entries.items():
        if not key:
            continue
        name = key.decode(errors="replace")
        entry = private_api.bundle_entry(entry)
        dims = [dim.size for dim in entry.shape.dim]
        if min(dims, default=0) < 0 or len(dims) > _LARGEST_RANK:
            raise ValueError(f"{name!r} cannot have the shape {dims[:9]}")
        total += math.prod(dims) * _item_size(entry.dtype)
        if entry.slices:  # Each has an entry of its own.
            continue
        shard = entry.shard_id
        if not 0 <= shard < count:
            raise ValueError(f"{name!r} is in no data file")
        if shard not in sizes:
            data = f"{prefix}.data-{shard:05d}-of-{count:05d}"
            sizes[shard] = os.path.getsize(data)
        if (
            min(entry.offset, entry.size) < 0
            or entry.offset + entry.size > sizes[shard]
        ):
            raise ValueError(f"{name!r} is not in its data file")
    limits.check_values(total)


def _item_size(dtype: int) -> int:
    # A string takes this much, beside its text.
    return tf.as_dtype(dtype).size or _STRING


def _header(entries: dict[bytes, bytes]) -> Any:
    if b"" not in entries:
        raise ValueError("the index has no header")
    return private_api.bundle_header(entries[b""])


def _entries(path: str) -> dict[bytes, bytes]:
    """{key: value} of a table."""
    with open(path, "rb") as file:
        table = file.read()
    footer = table[-_FOOTER:]
    if int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise ValueError("the index is no table")
    _, _, position = _handle(footer, 0)  # Of a block that nobody reads.
    offset, size, _ = _handle(footer, position)
    result: dict[bytes, bytes] = {}
    length = 0
    for _, handle in _block(table, offset, size):
        offset, size, _ = _handle(handle, 0)
        for key, value in _block(table, offset, size):
            result[key] = value
            length += len(key)  # Few bytes can stand for a long key.
            if length > _KEYS * len(table):
                raise ValueError("the index has too long keys")
    return result


def _handle(data: bytes, position: int) -> tuple[int, int, int]:
    """(offset of a block, its size, position after that)."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return offset, size, position


def _block(
    table: bytes, offset: int, size: int
) -> Iterator[tuple[bytes, bytes]]:
    """The (key, value) of a block: what they share with the last, then them."""
    block = table[offset : offset + size]
    if len(block) < size or table[offset + size] != _NOT_COMPRESSED:
        raise ValueError("the index is cut off, or compressed")
    restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 * (restarts + 1)
    key, position = b"", 0
    starts = {0}
    while position < end:
        start = position
        shared, position = _varint(block, position)
        own, position = _varint(block, position)
        length, position = _varint(block, position)
        if not shared:
            starts.add(start)
        key = key[:shared] + block[position : position + own]
        position += own
        yield key, block[position : position + length]
        position += length
    # TensorFlow looks for a key from one of these on.
    array = block[position:-4]
    if position != end or not starts.issuperset(
        int.from_bytes(array[i : i + 4], "little")
        for i in range(0, len(array), 4)
    ):
        raise ValueError("the index contradicts itself")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, and the position after it."""
    result = 0
    for shift in range(0, 64, 7):
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
    raise ValueError("the index has a number that never ends")
