"""Writes indices of TensorFlow checkpoints that TensorFlow would not."""

import struct

from keras_legacy_opt import private_api
from keras_legacy_opt.checkpoints import bundle_index

_MAGIC = 0xDB4775248B80FB57


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc_table()


def _masked_crc(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(number):
    result = b""
    while number > 127:
        result += bytes([number & 127 | 128])
        number >>= 7
    return result + bytes([number])


def _block(entries):
    block, restarts = b"", []
    for key, value in entries:
        restarts.append(len(block))
        block += _varint(0) + _varint(len(key)) + _varint(len(value))
        block += key + value
    restarts = restarts or [0]
    numbers = [*restarts, len(restarts)]
    return block + struct.pack(f"<{len(numbers)}I", *numbers)


def write(path, entries):
    """Writes {key: value} as a table with valid checksums."""
    table = b""

    def add(block):
        nonlocal table
        handle = _varint(len(table)) + _varint(len(block))
        block += b"\0"
        table += block + struct.pack("<I", _masked_crc(block))
        return handle

    data = add(_block(sorted(entries.items())))
    footer = add(_block([])) + add(_block([(max(entries) + b"~", data)]))
    with open(path, "wb") as file:
        file.write(table + footer.ljust(40, b"\0") + struct.pack("<Q", _MAGIC))


def rewrite(path, change, key=b"a"):
    """Applies `change` to the protocol buffer of a tensor in an index."""
    entries = bundle_index._entries(path)
    entry = private_api.bundle_entry(entries[key])
    change(entry)
    write(path, {**entries, key: entry.SerializeToString()})
