"""Zip archives from strangers: image folders, Keras's and torch's files. Nothing of them is written to the disk."""

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
"""Of the list of members at a zip's end: some 170,000 files. Python takes up to 250 MB to hold such a list."""
ENCRYPTED = 1


class Zip(NamedTuple):
    """An open archive whose members have plain names, each once, and unpack with a bound."""

    path: Path
    archive: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]

    def read(self, name: str, largest: int) -> bytes:
        """Return a member; what it claims to have, and so what it unpacks to, is within ``largest`` bytes."""
        if (size := self.members[name].file_size) > largest:
            raise UserError(f"{self.path}: its {_told(name)} has {size:,} bytes, and it may have {largest:,} here")
        with self.archive.open(self.members[name]) as file:
            return file.read(largest)


class _BoundedFile(io.BufferedReader):
    """A file of which no more than `LARGEST_DIRECTORY` bytes are taken at once: zipfile takes the list at once."""

    bounded = True

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.bounded:
            return super().read(size)
        found = super().read(LARGEST_DIRECTORY + 1 if size is None or size < 0 else min(size, LARGEST_DIRECTORY + 1))
        if len(found) > LARGEST_DIRECTORY:
            raise ValueError(f"its list of files has more than {LARGEST_DIRECTORY >> 20} MiB, as of some 170,000 files")
        return found


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[Zip]:
    """Open an archive to read members of it.

    Raises:
        UserError: it is no whole zip, it has too many members, or one of them is a link, a path that leads out of the
            archive, there twice, encrypted, or compressed so that it would unpack without a bound.
    """
    try:
        file = _BoundedFile(open_plain(path).detach())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from error
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # zipfile and its helpers say in many ways that a file is damaged
            raise UserError(f"{path} cannot be read as a zip ({error}); give a complete zip, or recreate it") from error
        file.bounded = False
        with archive:
            members: dict[str, zipfile.ZipInfo] = {}
            for member in archive.infolist():
                _check(path, member)
                if member.filename in members:
                    raise UserError(f"{path} holds a file twice, {_told(member.filename)}; recreate the zip")
                members[member.filename] = member
            yield Zip(path, archive, members)


def _check(path: Path, member: zipfile.ZipInfo) -> None:
    place = PureWindowsPath(member.filename)  # it knows both kinds of slashes, and drives
    if place.anchor or ".." in place.parts or stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(
            f"{path} holds {_told(member.filename)}, a symlink or a path outside the zip; recreate the zip "
            "from plain files"
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a bound
        raise UserError(
            f"{path}: {_told(member.filename)} uses an unsupported compression; recreate the zip with deflate or "
            "without compression"
        )
    if member.flag_bits & ENCRYPTED:
        raise UserError(f"{path}: {_told(member.filename)} is encrypted; recreate the zip without a password")


def _told(name: str) -> str:
    return repr(printable(name[:200]))
