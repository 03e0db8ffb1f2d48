"""Zip archives from untrusted sources: image folders, Keras and torch files. Nothing is extracted to disk."""

import contextlib
import io
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from cnnjax.errors import UserError, printable
from cnnjax.system.files import open_plain

LARGEST_DIRECTORY = 16 * 2**20
"""Maximum bytes of a zip's central directory: about 170,000 members. Python needs up to 250 MB to hold it."""
ENCRYPTED = 1


class Zip(NamedTuple):
    """An open archive. Member names are relative and unique, and unpacked sizes are bounded."""

    path: Path
    archive: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]

    def read(self, name: str, largest: int) -> bytes:
        """Return a member; raise UserError if its declared size, which bounds the data, exceeds ``largest`` bytes."""
        if (size := self.members[name].file_size) > largest:
            raise UserError(f"{self.path}: {_quoted(name)} has {size:,} bytes; the limit is {largest:,}")
        with self.archive.open(self.members[name]) as file:
            return file.read(largest)


class _BoundedFile(io.BufferedReader):
    """A file whose reads are limited to `LARGEST_DIRECTORY` bytes, because zipfile reads the directory in one go."""

    bounded = True

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.bounded:
            return super().read(size)
        data = super().read(LARGEST_DIRECTORY + 1 if size is None or size < 0 else min(size, LARGEST_DIRECTORY + 1))
        if len(data) > LARGEST_DIRECTORY:
            raise ValueError(f"its list of files exceeds {LARGEST_DIRECTORY >> 20} MiB, about 170,000 files")
        return data


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[Zip]:
    """Open an archive for reading.

    Raises:
        UserError: the file is not a complete zip, has too many members, or contains a symlink, a path outside the
            archive, a duplicate name, an encrypted member or a compression method without a size bound.
    """
    try:
        file = _BoundedFile(open_plain(path).detach())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from error
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # zipfile raises exceptions of many types for damaged files
            raise UserError(f"{path} cannot be read as a zip ({error}); give a complete zip, or recreate it") from error
        file.bounded = False
        with archive:
            members: dict[str, zipfile.ZipInfo] = {}
            for member in archive.infolist():
                _check(path, member)
                if member.filename in members:
                    raise UserError(f"{path} contains {_quoted(member.filename)} twice; recreate the zip")
                members[member.filename] = member
            yield Zip(path, archive, members)


def _check(path: Path, member: zipfile.ZipInfo) -> None:
    name = PureWindowsPath(member.filename)  # parses both kinds of slashes, and drives
    if name.anchor or ".." in name.parts or stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(
            f"{path} contains {_quoted(member.filename)}, a symlink or a path outside the zip; recreate the zip "
            "from plain files"
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others have no size bound
        raise UserError(
            f"{path}: {_quoted(member.filename)} uses an unsupported compression; recreate the zip with deflate or "
            "without compression"
        )
    if member.flag_bits & ENCRYPTED:
        raise UserError(f"{path}: {_quoted(member.filename)} is encrypted; recreate the zip without a password")


def _quoted(name: str) -> str:
    return repr(printable(name[:200]))
