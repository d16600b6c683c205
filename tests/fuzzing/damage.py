"""What happens to files: at random, and in places that checksums guard."""

import json
import random
import struct
import zipfile

import bundle_writer

from keras_legacy_opt.checkpoints import bundle_index

INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\x00" * 4,
    b"\xff" * 4,
    b"\xff" * 8,
    b"\xff\xff\xff\x7f",
    b"\x80\x80\x80\x80\x10",
    b"\x1b[2J",
    b"\n",
    b"/",
    b"..",
    b"0",
    b"1e999",
    b"NaN",
    b"null",
    b"[]",
    b"{}",
    b'""',
)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Flips, zeroes, cuts, inserts, removes, repeats: one to three times."""
    result = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(result) + 1)
        length = rng.choice((1, 2, 4, 8, 40))
        kind = rng.choice("flip flip zero cut insert remove repeat put".split())
        if kind == "flip" and at < len(result):
            result[at] ^= 1 << rng.randrange(8)
        elif kind == "zero":
            part = len(result[at : at + length])
            result[at : at + length] = bytes(part)
        elif kind == "cut":
            del result[at:]
        elif kind == "insert":
            result[at:at] = rng.choice(INTERESTING)
        elif kind == "remove":
            del result[at : at + length]
        elif kind == "repeat":
            result[at:at] = result[at : at + length]
        elif kind == "put":
            value = rng.choice(INTERESTING)
            result[at : at + len(value)] = value
    return bytes(result)


def damage(path, rng: random.Random) -> None:
    """Damages a file: sometimes what is in it, with valid checksums."""
    inner = {
        ".index": _index,
        ".data-00000-of-00001": _data,
        ".keras": _archive,
        ".json": _json,
    }.get(path.suffix)
    if inner is None or rng.random() < 0.3:
        path.write_bytes(damaged(path.read_bytes(), rng))
    else:
        inner(path, rng)


def _index(path, rng):
    entries = bundle_index._entries(path)
    key = rng.choice(sorted(entries))
    kind = rng.choice(("value", "value", "key", "swap", "remove"))
    if kind == "value":
        entries[key] = damaged(entries[key], rng)
    elif kind == "key":
        entries[damaged(key, rng)] = entries.pop(key)
    elif kind == "swap":
        other = rng.choice(sorted(entries))
        entries[key], entries[other] = entries[other], entries[key]
    else:
        del entries[key]
    bundle_writer.write(path, entries or {b"a": b""})


def _data(path, rng):
    """A tensor, often the object graph, with the checksum to match."""
    index = path.with_suffix(".index")
    entries = bundle_index._entries(index)
    graph = b"_CHECKPOINTABLE_OBJECT_GRAPH"
    keys = sorted(key for key in entries if key)
    key = graph if graph in keys and rng.random() < 0.8 else rng.choice(keys)
    entry = bundle_index.private_api.bundle_entry(entries[key])
    content = path.read_bytes()
    start, stop = entry.offset, entry.offset + entry.size
    new = content[start:stop]
    if key == graph:
        # A string: its length, the checksum of that, and the text.
        _, begin = bundle_index._varint(new, 0)
        text = damaged(new[begin + 4 :], rng)
        length = struct.pack("<I", len(text))
        masked = struct.pack("<I", bundle_writer._masked_crc(length))
        new = bundle_writer._varint(len(text)) + masked + text
        entry.crc32c = bundle_writer._masked_crc(length + masked + text)
    else:
        new = damaged(new, rng)
        entry.crc32c = bundle_writer._masked_crc(new)
    entry.offset, entry.size = len(content), len(new)
    path.write_bytes(content + new)
    entries[key] = entry.SerializeToString()
    bundle_writer.write(index, entries)


def _archive(path, rng):
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    name = rng.choice(sorted(members))
    if name.endswith(".json") and rng.random() < 0.7:
        members[name] = _other_json(members[name], rng)
    else:
        members[name] = damaged(members[name], rng)
    if rng.random() < 0.05:
        del members[name]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _json(path, rng):
    path.write_bytes(_other_json(path.read_bytes(), rng))


VALUES = (
    None,
    True,
    -1,
    0,
    1e300,
    2**70,
    "",
    "x",
    "../x",
    [],
    {},
    [[]],
    {"": 0},
)


def _other_json(text, rng):
    """Valid JSON, a value of which is another, or gone."""
    root = [json.loads(text)]
    places = []

    def visit(node):
        keys = node if isinstance(node, dict) else range(len(node))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                visit(node[key])

    visit(root)
    for _ in range(rng.choice((1, 1, 2))):
        node, key = rng.choice(places)
        if rng.random() < 0.2 and node is not root and key in [*node]:
            del node[key]
        elif isinstance(node, dict) or key < len(node):
            other, other_key = rng.choice(places)
            copies = isinstance(other, dict) and other_key in other
            value = other[other_key] if copies and rng.random() < 0.2 else None
            if isinstance(value, (dict, list)):
                value = json.loads(json.dumps(value))
            node[key] = rng.choice(VALUES) if value is None else value
    return json.dumps(root[0]).encode()
