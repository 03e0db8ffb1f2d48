"""A lock file that allows only one process to write to a folder, and names the process that holds it.

The kernel releases a lock when its process ends, however it ends. On file systems without such locks, a file that only
one process can create takes their place; if that process is gone, the file is removed.
"""

import contextlib
import errno
import fcntl
import functools
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cnnjax.errors import UserError
from cnnjax.system.files import open_own, open_plain

NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
HELD = ".held"
"""Suffix of a lock file whose existence is the lock."""


class LostLock(UserError):
    """The lock file is no longer the one that this process holds; another process may hold the new one."""


class Held(UserError):
    """Another process holds the lock."""


@contextlib.contextmanager
def waiting_for(path: Path, notice: Callable[[], None], seconds: float = 0.2) -> Iterator[Callable[[], None]]:
    """Hold the lock file ``path`` as `locked` does, but wait for it; ``notice`` is called once if that takes time."""
    notified = False
    while True:
        with contextlib.ExitStack() as stack:
            try:
                require = stack.enter_context(locked(path))
            except Held:
                if not notified:
                    notice()
                    notified = True
                time.sleep(seconds)
                continue
            yield require
            return


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock file ``path``, which stays; yield a function that raises LostLock if it was deleted or replaced.

    Raises:
        Held: another process holds it; the message names its pid and host.
    """
    try:
        descriptor = _acquire(path)
    except BlockingIOError:
        raise _held_by_another(path) from None
    if descriptor is None:
        with _existence_lock(path.with_name(path.name + HELD)) as require:
            yield require
        return
    try:
        with contextlib.suppress(OSError):  # the name is optional; other writes report a full disk
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _own_id())
        yield functools.partial(_require_held, path, descriptor)
    finally:
        os.close(descriptor)


def _acquire(path: Path) -> int | None:
    """Return the open, locked file, or None if the file system does not support locks."""
    while True:
        descriptor = open_own(path, os.O_WRONLY | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):  # otherwise it was deleted between the two calls
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in NO_LOCKS_HERE:
                return None
            raise
        os.close(descriptor)


@contextlib.contextmanager
def _existence_lock(path: Path) -> Iterator[Callable[[], None]]:
    if _is_stale(holder := _holder(path)):
        _remove_stale(path, holder)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        raise _held_by_another(path, f", or delete {path} if that process is gone") from None
    try:
        os.write(descriptor, _own_id())
        yield functools.partial(_require_held, path, descriptor)
    finally:
        if _is_at(path, descriptor):
            path.unlink()
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _require_held(path: Path, descriptor: int) -> None:
    if not _is_at(path, descriptor):
        raise LostLock(
            f"{path} was moved, deleted or replaced, so another process may be training there; this process stopped "
            "writing; if no other process trains there, run the same command to resume"
        )


def _remove_stale(path: Path, holder: str) -> None:
    """Remove a stale lock, unless another process has already replaced it with its own."""
    renamed = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(renamed)
        if _holder(renamed) != holder:
            with contextlib.suppress(OSError):
                os.link(renamed, path)
        renamed.unlink()


def _is_stale(holder: str) -> bool:
    match = re.fullmatch(r"pid (\d{1,9}) on host (.*)", holder)
    if not match or match[2] != socket.gethostname():
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is running as another user
        return False
    return False


def _own_id() -> bytes:
    return f"pid {os.getpid()} on host {socket.gethostname()}\n".encode()


def _holder(path: Path) -> str:
    try:
        with open_plain(path) as file:
            text = file.read(200).decode(errors="replace").strip()
    except (OSError, UserError):
        return ""
    return text if re.fullmatch(r"pid \d{1,9} on host \S*", text) else ""


def _held_by_another(path: Path, advice: str = "") -> Held:
    holder = _holder(path)
    name = f" ({holder})" if holder else ""
    return Held(f"another process{name} is training in {path.parent}; wait for it, or choose another --out{advice}")
