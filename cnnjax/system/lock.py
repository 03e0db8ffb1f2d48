"""One folder, one writer: a lock file that names the process which holds it.

The kernel lets go of a lock when its process ends, however it ends. On a file system that knows no such locks, a file
that only one process can make takes their place; left by a process that is gone, it is taken away.
"""

import contextlib
import errno
import fcntl
import functools
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from cnnjax.errors import UserError
from cnnjax.system.files import open_own, open_plain

NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
HELD = ".held"
"""What is added to the lock file's name where its existence is the lock."""


class LostLock(UserError):
    """The lock's file is no longer the one that this process holds: what lies there may be another process's."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock file ``path``, which stays; yield what raises LostLock once the file was deleted or replaced.

    Raises:
        UserError: another process holds it; the sentence names its pid and host.
    """
    try:
        descriptor = _take(path)
    except BlockingIOError:
        raise _refused(path) from None
    if descriptor is None:
        with _held_by_existence(path.with_name(path.name + HELD)) as require:
            yield require
        return
    try:
        with contextlib.suppress(OSError):  # the name is a courtesy: a full disk is told of where it matters
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _own_name())
        yield functools.partial(_require, path, descriptor)
    finally:
        os.close(descriptor)


def _take(path: Path) -> int | None:
    """Return the open and locked file; None where the file system knows no locks."""
    while True:
        descriptor = open_own(path, os.O_WRONLY | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):  # or it was deleted between the two calls, and locks nothing
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in NO_LOCKS_HERE:
                return None
            raise
        os.close(descriptor)


@contextlib.contextmanager
def _held_by_existence(path: Path) -> Iterator[Callable[[], None]]:
    if _is_stale(holder := _holder(path)):
        _take_away(path, holder)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        raise _refused(path, f", or delete {path} if that process is gone") from None
    try:
        os.write(descriptor, _own_name())
        yield functools.partial(_require, path, descriptor)
    finally:
        if _is_at(path, descriptor):
            path.unlink()
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _require(path: Path, descriptor: int) -> None:
    if not _is_at(path, descriptor):
        raise LostLock(
            f"{path} was moved, deleted or replaced while this process held it, and another one may be training there; "
            "this process stopped writing; if no other process trains there, run the same command to resume"
        )


def _take_away(path: Path, holder: str) -> None:
    """Remove a stale lock; another process may have done so in the meantime, and made its own."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        if _holder(aside) != holder:
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _is_stale(holder: str) -> bool:
    match = re.fullmatch(r"pid (\d{1,9}) on host (.*)", holder)
    if not match or match[2] != socket.gethostname():
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives, and is another user's
        return False
    return False


def _own_name() -> bytes:
    return f"pid {os.getpid()} on host {socket.gethostname()}\n".encode()


def _holder(path: Path) -> str:
    try:
        with open_plain(path) as file:
            text = file.read(200).decode(errors="replace").strip()
    except (OSError, UserError):
        return ""
    return text if re.fullmatch(r"pid \d{1,9} on host \S*", text) else ""


def _refused(path: Path, advice: str = "") -> UserError:
    holder = _holder(path)
    named = f" ({holder})" if holder else ""
    return UserError(
        f"another process{named} is training in {path.parent}; wait for it, or choose another --out{advice}"
    )
