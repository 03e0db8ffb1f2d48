"""Format versions of run folders and checkpoints: older formats are read, newer ones are rejected.

A checkpoint stores its format in a separate file with its own checksum, whose layout will not change in later formats.
It is read first, so that a newer format is recognized and a changed bit is not mistaken for one.
"""

import hashlib
from pathlib import Path
from typing import Any

from cnnjax import __version__
from cnnjax.errors import UserError, printable, quoted
from cnnjax.system.files import read_json, write_json

FILE = "format.json"


class NewerFormat(UserError):
    """An intact file or folder that only a newer cnnjax can read."""


def written(version: int) -> dict[str, Any]:
    """Return the format entries of a file: the version, and the cnnjax that wrote it."""
    return {"format": version, "cnnjax": __version__}


def check(what: str, data: Any, known: int) -> None:
    """Raise UserError unless ``data`` is an object with a format from 1 to ``known``; NewerFormat for a newer one."""
    if not isinstance(data, dict):
        raise UserError(f"{what} is described by {quoted(data)}; it must be an object with a format")
    version = data.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(f"{what} has format {quoted(version)}; it must be 1 or more")
    if version > known:
        writer = data.get("cnnjax")
        needed = f"cnnjax {printable(writer[:40])} or newer" if isinstance(writer, str) else "a newer cnnjax"
        raise NewerFormat(
            f"{what} has format {quoted(version)}, newer than {known}; it needs {needed}, and this is {__version__}"
        )


def write_file(folder: Path, version: int) -> None:
    """Write a folder's `FILE`."""
    entries = written(version)
    write_json(folder / FILE, {**entries, "sha256": _checksum(**entries)})


def check_file(what: str, folder: Path, known: int) -> None:
    """Raise UserError unless a folder's `FILE` is intact and its format known; NewerFormat for a newer one."""
    data = read_json(folder / FILE)
    complete = isinstance(data, dict) and isinstance(data.get("format"), int) and isinstance(data.get("cnnjax"), str)
    if not complete or data.get("sha256") != _checksum(data["format"], data["cnnjax"]):
        raise UserError(f"{FILE} is incomplete or does not match its checksum")
    check(what, data, known)


def _checksum(format: int, cnnjax: str) -> str:
    return hashlib.sha256(f"{format} {cnnjax}".encode(errors="replace")).hexdigest()
