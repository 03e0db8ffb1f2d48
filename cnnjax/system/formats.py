"""The format version in every run folder and checkpoint: older ones are opened, a newer one is refused.

A checkpoint says its format in a file of its own, with a sum of its own, which keeps this form in every format to come:
so it is read before anything else of the checkpoint, and a bit that has changed is not taken for a newer format.
"""

import hashlib
from pathlib import Path
from typing import Any

from cnnjax import __version__
from cnnjax.errors import UserError, printable, quoted
from cnnjax.system.files import read_json, write_json

FILE = "format.json"


class NewerFormat(UserError):
    """What is whole, and only a newer cnnjax can read."""


def written(version: int) -> dict[str, Any]:
    """Return what a file says of its format: the version, and the cnnjax that wrote it."""
    return {"format": version, "cnnjax": __version__}


def check(what: str, data: Any, known: int) -> None:
    """Raise UserError unless ``data`` is an object with a format from 1 to ``known``; of a newer one, say so."""
    if not isinstance(data, dict):
        raise UserError(f"{what} is described by {quoted(data)}; it must be an object with a format")
    found = data.get("format")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"{what} has format {quoted(found)}; it must be 1 or more")
    if found > known:
        writer = data.get("cnnjax")
        needed = f"cnnjax {printable(writer[:40])} or newer" if isinstance(writer, str) else "a newer cnnjax"
        raise NewerFormat(
            f"{what} has format {quoted(found)}, newer than {known}; it needs {needed}, and this is {__version__}"
        )


def write_file(folder: Path, version: int) -> None:
    """Write a folder's `FILE`."""
    said = written(version)
    write_json(folder / FILE, {**said, "sha256": _sum(**said)})


def check_file(what: str, folder: Path, known: int) -> None:
    """Raise UserError unless a folder's `FILE` is whole and of a format up to ``known``; of a newer one, say so."""
    data = read_json(folder / FILE)
    whole = isinstance(data, dict) and isinstance(data.get("format"), int) and isinstance(data.get("cnnjax"), str)
    if not whole or data.get("sha256") != _sum(data["format"], data["cnnjax"]):
        raise UserError(f"{FILE} is not as it was written")
    check(what, data, known)


def _sum(format: int, cnnjax: str) -> str:
    return hashlib.sha256(f"{format} {cnnjax}".encode(errors="replace")).hexdigest()
