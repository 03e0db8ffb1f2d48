import contextlib
import errno
import fcntl
import multiprocessing
import os
import socket
import subprocess
import sys
import threading

import pytest

from cnnjax.errors import UserError
from cnnjax.system.lock import LostLock, locked, waiting_for

HOST = socket.gethostname()
HOLDER = """
import sys
from pathlib import Path
from cnnjax.system.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["flock", "no flock"])
def path(request, tmp_path, monkeypatch):
    """A lock file, on a file system with and without flock."""
    if request.param == "no flock":

        def refuse(file, operation):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
    return tmp_path / ".lock"


def test_a_second_lock_is_refused_with_the_pid_and_host_of_the_first(path):
    expected = rf"another process \(pid {os.getpid()} on host {HOST}\) is training"
    with locked(path), pytest.raises(UserError, match=expected), locked(path):
        pass
    with locked(path):
        pass


def test_waiting_for_a_lock_says_so_once_and_acquires_it_when_it_is_released(path):
    with contextlib.ExitStack() as held:
        held.enter_context(locked(path))
        release = threading.Timer(0.3, held.close)
        release.start()
        notices = []
        with waiting_for(path, lambda: notices.append("waits"), seconds=0.02) as require:
            require()
        release.join()
    assert notices == ["waits"]
    with waiting_for(path, lambda: notices.append("waits")):
        pass
    assert len(notices) == 1


def test_an_error_releases_the_lock(path):
    with pytest.raises(ZeroDivisionError), locked(path):
        raise ZeroDivisionError
    with locked(path):
        pass


def held_file(path):
    """Return the file that holds the lock: ``path`` itself with flock, otherwise ``.lock.held``."""
    return next(file for file in (path.with_name(".lock.held"), path) if file.exists())


def test_a_deleted_lock_is_lost(path):
    with locked(path) as require:
        require()
        held_file(path).unlink()
        with pytest.raises(LostLock, match=r"\.lock.* was moved, deleted or replaced"):
            require()


def test_deleting_the_lock_admits_a_second_process_undisturbed_by_the_first(path):
    with contextlib.ExitStack() as first:
        require = first.enter_context(locked(path))
        held_file(path).unlink()
        with locked(path) as require_second:
            with pytest.raises(LostLock):
                require()
            first.close()
            require_second()


def test_a_lock_deleted_during_acquisition_is_acquired_again(tmp_path, monkeypatch):
    path, deleted = tmp_path / ".lock", []
    flock = fcntl.flock

    def delete_first(descriptor, operation):
        if not deleted:
            deleted.append(path.unlink())
        return flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", delete_first)
    with locked(path) as require:
        require()
        with pytest.raises(UserError, match="another process"), locked(path):
            pass
    assert deleted


def ended_pid():
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    return process.pid


def test_the_lock_of_a_dead_process_is_acquired(path):
    left = f"pid {ended_pid()} on host {HOST}\n"
    path.write_text(left)
    path.with_name(".lock.held").write_text(left)
    with locked(path):
        pass


@pytest.mark.parametrize("left", ["pid 1 on host elsewhere\n", f"pid 1 on host {HOST}\n", ""])
def test_without_flock_the_lock_of_a_possibly_live_process_is_refused(tmp_path, monkeypatch, left):
    def refuse(file, operation):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    held = tmp_path / ".lock.held"
    held.write_text(left)
    with (
        pytest.raises(UserError, match=r"or delete .*/\.lock\.held if that process is gone"),
        locked(tmp_path / ".lock"),
    ):
        pass
    assert held.read_text() == left


def test_other_errors_of_flock_are_raised(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path / ".lock"):
        pass


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"another process \(pid {process.pid} on host"), locked(path):
            pass
        process.kill()
    with locked(path):
        pass
