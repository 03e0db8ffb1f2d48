"""Files are synced before they are renamed, and never written through a symlink."""

import os
import socket

import pytest

from cnnjax.errors import UserError
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.metrics import ROW
from cnnjax.system.files import open_own, open_plain, plain_files, remove, write_bytes


@pytest.fixture
def events(monkeypatch):
    """Syncs (with inode and size) and renames (with inode), in order."""
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        status = os.fstat(descriptor)
        events.append(("synced", status.st_ino, status.st_size))
        fsync(descriptor)

    def replaced(source, target):
        events.append(("renamed", os.stat(source).st_ino))  # noqa: PTH116
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return events


def write_all(folder, experiment):
    folder.start("a", experiment)
    folder.record_environment({})
    folder.write_metrics([{"epoch": 1}])
    folder.write_results({})
    write_bytes(folder.path / "report.html", b"x" * 100_000)


def test_each_file_of_a_run_is_synced_before_its_rename_and_its_folder_after_it(tmp_path, experiment, events):
    folder = RunFolder(tmp_path / "run")
    write_all(folder, experiment)
    names = {"config.json", "environment.json", "metrics.jsonl", "results.json", "report.html"}
    assert names == {path.name for path in folder.path.iterdir() if path.is_file()}
    for path in map(folder.path.joinpath, names):
        inode, size = path.stat().st_ino, path.stat().st_size
        renamed = events.index(("renamed", inode))
        assert ("synced", inode, size) in events[:renamed]
        assert events[renamed + 1][:2] == ("synced", folder.path.stat().st_ino)


def test_a_line_of_metrics_is_synced_before_training_continues(tmp_path, events):
    folder = RunFolder(tmp_path)
    for epoch in (1, 2):
        folder.append_metrics({**dict.fromkeys(ROW, 0.5), "epoch": epoch})
        status = (tmp_path / "metrics.jsonl").stat()
        assert events[-1] == ("synced", status.st_ino, status.st_size)


def test_writing_replaces_a_symlink(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("theirs")
    for name in ("a", ".a.writing"):
        (tmp_path / name).symlink_to(outside)
    write_bytes(tmp_path / "a", b"ours")
    assert outside.read_text() == "theirs"
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "a").read_bytes() == b"ours"
    assert not (tmp_path / ".a.writing").is_symlink()


def make_socket(path, monkeypatch):
    monkeypatch.chdir(path.parent)  # a socket path is limited to 108 bytes
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


@pytest.mark.parametrize("kind", ["link", "dangling link", "link to itself", "pipe", "socket", "device"])
def test_only_regular_files_are_written_in_place(tmp_path, kind, monkeypatch):
    outside, path = tmp_path / "outside", tmp_path / "file"
    if kind == "link":
        outside.write_text("theirs")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        make_socket(path, monkeypatch)
    else:
        path.symlink_to({"link to itself": path, "device": "/dev/null"}.get(kind, outside))
    with pytest.raises(UserError, match="file is not a regular file; move it away"):
        open_own(path, os.O_WRONLY | os.O_CREAT)
    assert outside.exists() == (kind == "link")
    if kind != "link":
        with pytest.raises((UserError, FileNotFoundError)):
            open_plain(path)


def test_only_regular_files_and_folders_are_listed(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").touch()
    (tmp_path / "d").touch()
    assert plain_files(tmp_path) == [tmp_path / "a" / "b" / "c", tmp_path / "d"]
    for target in ("c", "nothing", ".."):
        link = tmp_path / "a" / "b" / "link"
        link.symlink_to(target)
        with pytest.raises(UserError, match="link is neither a regular file nor a folder"):
            plain_files(tmp_path)
        link.unlink()


def test_removal_does_not_follow_symlinks(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").symlink_to("../outside")
    (tmp_path / "link").symlink_to("outside")
    for name in ("folder", "link", "nothing"):
        remove(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (tmp_path / "outside" / "file").exists()
