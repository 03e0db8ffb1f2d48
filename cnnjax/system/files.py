"""Files that are whole or not there: written aside, synced, renamed. None is written through a link."""

import errno
import hashlib
import io
import json
import os
import shutil
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
    aside.unlink(missing_ok=True)  # a kill's, or a stranger's link
    try:
        with aside.open("xb") as file:
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
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # a file name in another encoding
        around = text[max(error.start - 40, 0) : error.end + 40].strip()
        raise UserError(f"{around!a} is not valid UTF-8; rename that file, folder or class") from None


def write_json(path: Path, value: Any) -> None:
    """Write `json_bytes` as `write_bytes` does."""
    write_bytes(path, json_bytes(value))


def open_plain(path: Path | str) -> io.BufferedReader:
    """Open a file that may be a stranger's; what is no plain file, such as a pipe or a device, is a UserError."""
    return open(path, "rb", opener=lambda path, flags: _open_plain(path, flags, "give one"))


def open_own(path: str | Path, flags: int) -> int:
    """Open a file of ours to write to it in place, as an ``opener`` does; a link or a pipe there is a UserError."""
    return _open_plain(path, flags | os.O_NOFOLLOW, "move it away, then run the same command to resume")


def _open_plain(path: str | Path, flags: int, advice: str) -> int:
    refused = UserError(f"{path} is not a regular file; {advice}")
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)  # a pipe without another end is not waited for
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link that is not to be followed; a pipe or a socket
            raise refused from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise refused
    return descriptor


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


def plain_files(folder: Path) -> list[Path]:
    """Return every file below ``folder``; a link, a pipe or a device there is a UserError, and is not opened."""
    if folder.is_symlink():
        raise UserError(f"{folder} is a link")
    files, folders = [], [folder]
    for place in folders:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    files.append(Path(entry.path))
                else:
                    raise UserError(f"{entry.path} is neither a regular file nor a folder")
    return sorted(files)


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder; nothing is deleted through a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
