"""Damage to files, as functions of a random generator, so that a seed reproduces the damage."""

import gzip
import io
import json
import random
import struct
import zipfile
import zlib
from typing import Any

NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 3, 2**31, 2**64, 10**400, 1.5, float("nan"), float("inf"), -0.0, "", "x", "ä" * 500,
    "\x00\n\x1b[2J", "../..", [], {}, [[]], {"a": 1}, ["x"] * 1000, [1, "x", None],
)  # fmt: skip


def mutate(rng: random.Random, content: bytes) -> bytes:
    """Return the content with a few changes, either to its bytes or inside its compressed or structured parts."""
    if rng.random() < 0.6:
        try:
            inner = _mutate_inside(rng, content)
        except (ValueError, zipfile.BadZipFile, OSError):
            inner = None
        if inner is not None:
            return inner
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        content = rng.choice(CHANGES)(rng, content)
    return content


def _mutate_inside(rng: random.Random, content: bytes) -> bytes | None:
    """Change the content of a zip, a gzip, a PNG, a JSON text or a safetensors header, and repack it validly."""
    if content.startswith(b"PK\x03\x04"):
        return _in_zip(rng, content)
    if content.startswith(b"\x1f\x8b"):
        return gzip.compress(mutate(rng, gzip.decompress(content)), mtime=0)
    if content.startswith(b"\x89PNG"):
        return _in_png(rng, content)
    if content[:1] in (b"{", b"["):
        lines = content.splitlines() if content.count(b"\n{") else [content]
        index = rng.randrange(len(lines))
        lines[index] = json.dumps(change_json(rng, json.loads(lines[index]))).encode()
        return b"\n".join(lines)
    if content[8:9] == b"{":
        length = int.from_bytes(content[:8], "little")
        header = json.dumps(change_json(rng, json.loads(content[8 : 8 + length]))).encode()
        return len(header).to_bytes(8, "little") + header + content[8 + length :]
    return None


def _in_zip(rng: random.Random, content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    chosen = rng.randrange(len(members)) if rng.random() < 0.5 else 0  # the first member may describe the others
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for index, (info, data) in enumerate(members):
            kept = zipfile.ZipInfo(info.filename)
            kept.compress_type = info.compress_type
            archive.writestr(kept, mutate(rng, data) if index == chosen else data)
    return packed.getvalue()


def _in_png(rng: random.Random, content: bytes) -> bytes:
    """Change a chunk's data or type, and correct its checksum."""
    chunks, offset = [], 8
    while offset + 8 <= len(content):
        length = int.from_bytes(content[offset : offset + 4], "big")
        chunks.append([content[offset + 4 : offset + 8], content[offset + 8 : offset + 8 + length]])
        offset += 12 + length
    chunk = rng.choice(chunks)
    if chunk[0] == b"IDAT" and rng.random() < 0.5:
        chunk[1] = zlib.compress(_few_changes(rng, zlib.decompress(chunk[1])))
    elif rng.random() < 0.2:
        chunk[0] = rng.choice((b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"IEND"))
    else:
        chunk[1] = _few_changes(rng, chunk[1])
    packed = b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
    return content[:8] + packed


def change_json(rng: random.Random, value: Any) -> Any:
    """Return plain data with one part replaced, removed, renamed or nested."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.2:
            return {(rng.choice(("x", "", k[:-1], "é\n")) if k == key else k): v for k, v in value.items()}
        return {k: change_json(rng, v) if k == key else v for k, v in value.items()}
    if isinstance(value, list) and value and rng.random() < 0.7:
        index = rng.randrange(len(value))
        return [change_json(rng, v) if i == index else v for i, v in enumerate(value)]
    if rng.random() < 0.1:
        for _ in range(rng.choice((2, 30, 500, 900))):
            value = [value] if rng.random() < 0.5 else {"a": value}
        return value
    return rng.choice(ODD_VALUES)


def _few_changes(rng: random.Random, content: bytes) -> bytes:
    for _ in range(rng.choice((1, 1, 2))):
        content = rng.choice(CHANGES)(rng, content)
    return content


def _offset(rng: random.Random, content: bytes) -> int:
    """Return an offset, often near the start or the end, where formats keep their headers."""
    near = min(len(content), rng.choice((16, 64, 512)))
    kind = rng.random()
    if kind < 0.35:
        return rng.randrange(near + 1)
    if kind < 0.55:
        return len(content) - rng.randrange(near + 1)
    return rng.randrange(len(content) + 1)


def _flip_bit(rng: random.Random, content: bytes) -> bytes:
    if not content:
        return content
    offset = min(_offset(rng, content), len(content) - 1)
    return content[:offset] + bytes([content[offset] ^ 1 << rng.randrange(8)]) + content[offset + 1 :]


def _set_byte(rng: random.Random, content: bytes) -> bytes:
    offset = _offset(rng, content)
    return content[:offset] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) + content[offset + 1 :]


def _set_number(rng: random.Random, content: bytes) -> bytes:
    """Overwrite bytes with an integer, such as a length or an offset."""
    offset, size = _offset(rng, content), rng.choice((2, 4, 8))
    number = rng.choice((*NUMBERS, len(content), rng.randrange(2**16))) % 2 ** (8 * size)
    packed = struct.pack("<>"[rng.randrange(2)] + {2: "H", 4: "I", 8: "Q"}[size], number)
    return content[:offset] + packed + content[offset + size :]


def _truncate(rng: random.Random, content: bytes) -> bytes:
    return content[: _offset(rng, content)]


def _insert(rng: random.Random, content: bytes) -> bytes:
    offset = _offset(rng, content)
    return content[:offset] + rng.randbytes(rng.choice((1, 2, 8, 100))) + content[offset:]


def _remove(rng: random.Random, content: bytes) -> bytes:
    offset = _offset(rng, content)
    return content[:offset] + content[offset + rng.choice((1, 2, 8, 100, 1000)) :]


def _splice(rng: random.Random, content: bytes) -> bytes:
    """Copy a piece of the content to another offset, once or several times."""
    start, offset = _offset(rng, content), _offset(rng, content)
    piece = content[start : start + rng.choice((4, 16, 64, 1000))] * rng.choice((1, 1, 1, 50))
    return content[:offset] + piece + content[offset + rng.choice((0, len(piece))) :]


CHANGES = (_flip_bit, _flip_bit, _set_byte, _set_byte, _set_number, _set_number, _truncate, _insert, _remove, _splice)
