"""Files that are whole or not there: written aside, synced, renamed."""

import hashlib
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

from cnnjax.errors import UserError

DEEPEST_JSON, LARGEST_JSON = 50, 1e300
"""How many lists and objects may lie within each other in a JSON file, and the largest number: shares and sums of such
are floats."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part."""
    aside = path.with_name(f".{path.name}.writing")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def json_bytes(value: Any) -> bytes:
    """Return strict JSON (no NaN), indented; the same value gives the same bytes."""
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Write `json_bytes` as `write_bytes` does."""
    write_bytes(path, json_bytes(value))


def open_plain(path: Path) -> io.BufferedReader:
    """Open a file that may be a stranger's; what is no plain file, such as a pipe or a device, is a UserError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes to is not waited for
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path} is not a plain file; give one")
    return io.BufferedReader(io.FileIO(descriptor))


def read_bytes(path: Path, most_mib: int = 16) -> bytes:
    """Read a file that may be a stranger's; one of more than ``most_mib`` MiB is a UserError that names it."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_mib * 2**20:
            raise UserError(f"{path} has {size / 2**20:.0f} MiB; no such file has more than {most_mib} MiB")
        return file.read()


def read_json(path: Path) -> Any:
    """Read a JSON file; what is missing, too large or malformed is a UserError that names the file."""
    try:
        return parse_json(read_bytes(path))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; check the path") from None
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error


def parse_json(data: bytes) -> Any:
    """Read JSON of which all can be written again and every number be computed with; else ValueError."""
    value = json.loads(data.decode("utf-8"))
    _require_sound(value, DEEPEST_JSON)
    return value


def _require_sound(value: Any, deeper: int) -> None:
    if isinstance(value, dict | list):
        if not deeper:
            raise ValueError(f"more than {DEEPEST_JSON} lists and objects lie within each other")
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            _require_sound(part, deeper - 1)
    elif isinstance(value, str):
        value.encode()  # half of a pair of surrogates is no text
    elif isinstance(value, int | float) and not abs(value) <= LARGEST_JSON:
        raise ValueError(f"a number is NaN, or larger than {LARGEST_JSON}")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, and ask the disk to keep the entry of each."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Ask the disk to keep a folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Ask the disk to keep every file and folder below ``folder``, and ``folder`` itself."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def sha256(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
