"""Hashes of weight files: the published one, and the sha256 that the first verified file leaves behind."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from cnnjax.errors import UserError
from cnnjax.pretrained import Published
from cnnjax.system.files import open_plain, read_json, write_json

RECORD = "record.json"


class Digests(NamedTuple):
    """Hashes of a file, in hexadecimal, and its size in bytes."""

    sha256: str
    md5: str
    size: int


def digests(path: Path) -> Digests:
    """Read a file once and return its hashes."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with open_plain(path) as file:
        while chunk := file.read(2**20):
            sha256.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return Digests(sha256.hexdigest(), md5.hexdigest(), size)


def mismatch(entry: Published, folder: Path, found: Digests) -> str | None:
    """Return how a file's hash differs from the one recorded in ``folder``, or from the published one before that."""
    if recorded := recorded_sha256(folder):
        kind, expected, origin = "sha256", recorded, "that of the first verified file"
    elif entry.hash:
        (kind, _, expected), origin = entry.hash.partition(":"), "as published"
    else:
        return None
    actual = getattr(found, kind)
    if actual.startswith(expected):
        return None
    return f"has the {kind} {actual[: len(expected)]}, and {entry.name} needs {expected} ({origin})"


def recorded_sha256(folder: Path) -> str | None:
    """Return the sha256 of the file that was verified first, or None if there was none."""
    path = folder / RECORD
    if not path.exists():
        return None
    record = read_json(path)
    sha256 = record.get("sha256") if isinstance(record, dict) else None
    if not isinstance(sha256, str) or len(sha256) != 64:
        raise UserError(f"{path} is damaged: it must state a sha256; delete it, then run the same command again")
    return sha256


def record(entry: Published, folder: Path, file_name: str, found: Digests) -> None:
    """Record the hash of a verified file, which is required from then on."""
    if recorded_sha256(folder) is None:
        content = {"name": entry.name, "file": file_name, "bytes": found.size, "sha256": found.sha256}
        write_json(folder / RECORD, content)
