"""Atomic writes (temporary file, sync, rename) and bounded reads. Nothing is written through a symlink."""

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnnjax.errors import UserError

DEEPEST_JSON, LARGEST_JSON = 50, 1e300
"""Maximum nesting depth and maximum absolute value in a JSON file; sums and ratios of its numbers are finite."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: a crash leaves the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.writing")
    temporary.unlink(missing_ok=True)  # left by a killed process, or an untrusted symlink
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def json_bytes(value: Any) -> bytes:
    """Return strict JSON (no NaN), indented; the same value gives the same bytes.

    The bytes of a path that are not UTF-8, which Python holds as lone surrogates, are escaped.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        excerpt = text[max(error.start - 40, 0) : error.end + 40].strip()
        raise UserError(f"{excerpt!a} is not valid UTF-8; rename that file, folder or class") from None
    return text.encode(errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write `json_bytes` of the value atomically."""
    write_bytes(path, json_bytes(value))


def open_plain(path: Path | str) -> io.BufferedReader:
    """Open a possibly untrusted file for reading; raise UserError for a pipe, a device or another special file."""
    return open(path, "rb", opener=lambda path, flags: _open_plain(path, flags, "give one"))


def open_own(path: str | Path, flags: int) -> int:
    """Open one of our own files for writing in place, as an ``opener``; raise UserError for a symlink or a pipe."""
    return _open_plain(path, flags | os.O_NOFOLLOW, "move it away, then run the same command to resume")


def _open_plain(path: str | Path, flags: int, advice: str) -> int:
    not_regular = UserError(f"{path} is not a regular file; {advice}")
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)  # does not wait for the other end of a pipe
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a symlink; a pipe or a socket
            raise not_regular from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise not_regular
    return descriptor


def read_bytes(path: Path, most_mib: int = 16) -> bytes:
    """Read a possibly untrusted file; raise UserError if it has more than ``most_mib`` MiB."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_mib * 2**20:
            raise UserError(f"{path} is {size / 2**20:.0f} MiB; the limit is {most_mib} MiB")
        return file.read()


def read_json(path: Path) -> Any:
    """Read a JSON file; raise UserError with its name if it is missing, too large or malformed."""
    try:
        return parse_json(read_bytes(path))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; check the path") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error


def parse_json(data: bytes) -> Any:
    """Parse JSON; raise ValueError unless it can be written again and all its numbers are finite and bounded."""
    value = json.loads(data.decode("utf-8"))
    _require_valid(value, DEEPEST_JSON)
    return value


def _require_valid(value: Any, levels: int) -> None:
    if isinstance(value, dict | list):
        if not levels:
            raise ValueError(f"lists and objects are nested more than {DEEPEST_JSON} deep")
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            _require_valid(part, levels - 1)
    elif isinstance(value, str):
        value.encode(errors="surrogateescape")  # raises for a lone surrogate that is not a byte of a path
    elif isinstance(value, int | float) and not abs(value) <= LARGEST_JSON:
        raise ValueError(f"a number is NaN, or larger than {LARGEST_JSON}")


def require_writable(folder: Path) -> None:
    """Raise UserError if an output folder, or the folder in which it would be created, is not writable."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise UserError(f"{place} is a file, and the output needs a folder of that name; choose another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"the folder {place} is not writable; choose another output folder, or change its permissions")


def require_utf8(folder: Path) -> None:
    """Raise UserError if the path of a folder is not UTF-8, which orbax needs to write and read checkpoints."""
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{folder} cannot hold checkpoints, because its path is not UTF-8 in this locale; rename its folders, or "
            "choose another place"
        ) from None


def require_empty(folder: Path) -> None:
    """Raise UserError if a folder that will be written exists and is not empty."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise UserError(f"{folder} exists and is not an empty folder; choose another name")


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, and sync the entry of each to disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path``, which is missing or empty, unless the block raises."""
    make_folder(path.parent)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    temporary.mkdir()  # with the permissions of the umask
    try:
        yield temporary
        sync_tree(temporary)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Sync a file to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Sync ``folder`` and every file and folder below it to disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sync_file(path)
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def plain_files(folder: Path) -> list[Path]:
    """Return every file below ``folder``; raise UserError for a symlink, a pipe or a device, without opening it."""
    if folder.is_symlink():
        raise UserError(f"{folder} is a symlink")
    files, folders = [], [folder]
    for current in folders:
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    files.append(Path(entry.path))
                else:
                    raise UserError(f"{entry.path} is neither a regular file nor a folder")
    return sorted(files)


def remove(path: Path) -> None:
    """Delete a file, a symlink or a whole folder; symlinks are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def free_name(path: Path) -> Path:
    """Return ``path``, or ``path-2``, ``path-3`` and so on if it exists."""
    names = [path, *(path.with_name(f"{path.name}-{n}") for n in range(2, 1000))]
    return next(name for name in names if not os.path.lexists(name))


def sha256(path: Path) -> str:
    """Return a file's sha256 in hexadecimal."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
