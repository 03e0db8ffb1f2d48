"""Untrusted run folders: nothing outside them is written, deleted or waited for."""

import errno
import fcntl
import os
import signal

import pytest
from rich.console import Console

from cnnjax import checkpoint
from cnnjax.errors import UserError
from cnnjax.runs import launch
from cnnjax.runs.folder import LOCK, RunFolder
from cnnjax.training.profiling import Profile
from tests.hostile.attacks import KERNEL

MOST_SECONDS = 120
REPLACED = ("metrics.jsonl", "results.json", "curves.png", "examples.png", "report.html", "environment.json")


@pytest.fixture(autouse=True)
def time_limit():
    """Fail tests that hang."""

    def time_out(*_):
        raise TimeoutError(f"it took more than {MOST_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, time_out)
    signal.alarm(MOST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def outside(tmp_path):
    """A folder outside the run, which the run may not touch."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "thesis").write_text("[]")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["thesis"]
    assert (folder / "thesis").read_text() == "[]"


@pytest.fixture
def run(tmp_path, experiment):
    """A run that has not started: only its config."""
    folder = RunFolder(tmp_path / "run")
    folder.start("run", experiment)
    return folder


def train(experiment, folder):
    experiment = experiment.replace(train=experiment.train.replace(epochs=1))
    return launch.run(launch.Launch("run", experiment, folder), Console(quiet=True))


@pytest.mark.many_processes
def test_symlinks_in_place_of_written_files_are_replaced(tmp_path, experiment, outside):
    folder = tmp_path / "run"
    short = experiment.replace(train=experiment.train.replace(epochs=1))
    RunFolder(folder).start("run", short)
    for name in REPLACED:
        (folder / name).symlink_to(outside / ("new" if name == "results.json" else "thesis"))
        (folder / f".{name}.writing").symlink_to(outside / "thesis")
    (folder / "checkpoints" / ".step-00000010.writing").symlink_to(outside)
    train(experiment, folder)
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert not [*folder.rglob("*.writing")]


@pytest.mark.many_processes
def test_the_run_folder_itself_may_be_a_symlink(tmp_path, experiment):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to("elsewhere")
    train(experiment, tmp_path / "run")
    assert (tmp_path / "elsewhere" / "report.html").exists()


LOCKS = {
    "a symlink": lambda path, outside: path.symlink_to(outside / "thesis"),
    "a dangling symlink": lambda path, outside: path.symlink_to(outside / "new"),
    "a pipe": lambda path, outside: os.mkfifo(path),
    "a device": lambda path, outside: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", LOCKS)
def test_a_lock_that_is_not_a_regular_file_is_refused(run, outside, kind):
    LOCKS[kind](run.path / LOCK, outside)
    with pytest.raises(UserError, match=r"\.lock is not a regular file; move it away"), run.locked():
        pass


@pytest.mark.parametrize("kind", LOCKS)
def test_a_lock_without_flock_that_is_not_a_regular_file_is_refused(run, outside, kind, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    LOCKS[kind](run.path / f"{LOCK}.held", outside)
    with pytest.raises(UserError, match=r"another process is training in .* or delete .*\.lock\.held"), run.locked():
        pass


@pytest.mark.parametrize("kind", LOCKS)
def test_metrics_are_not_appended_through_a_symlink(run, outside, kind):
    LOCKS[kind](run.path / "metrics.jsonl", outside)
    with pytest.raises(UserError, match=r"metrics\.jsonl is not a regular file; move it away"):
        run.append_metrics({"epoch": 1})


@pytest.mark.parametrize("target", ["outside", "nothing"])
def test_a_symlinked_checkpoint_folder_is_refused_before_writing(run, experiment, outside, target):
    run.checkpoints.rmdir()
    run.checkpoints.symlink_to(outside.parent / target)
    with pytest.raises(UserError, match="checkpoints is a symlink, and a run deletes old files there"):
        launch.run(launch.Launch("run", experiment, run.path), Console(quiet=True))
    assert not (run.path / LOCK).exists()


def test_a_trace_is_not_written_through_a_symlink(run, outside):
    (run.path / "profile").mkdir()
    (run.path / "profile" / "plugins").symlink_to(outside)
    with pytest.raises(UserError, match="profile/plugins is neither a regular file nor a folder"):
        Profile(range(1), run.path / "profile")


def test_symlinked_checkpoints_are_set_aside_or_deleted_without_following_them(tmp_path, outside):
    folder = tmp_path / "checkpoints"
    checkpoint.save(folder, 1, {"variables": KERNEL}, {})
    for name in ("step-00000002", "step-00000003", ".step-00000004.writing"):
        (folder / name).symlink_to(outside)
    loaded, notices = checkpoint.newest_good(folder)
    assert loaded.step == 1
    assert ["is a symlink" in notice for notice in notices] == [True, True]
    for step in (2, 3):
        (folder / f"step-{step:08d}").symlink_to(outside)
    checkpoint.save(folder, 3, {"variables": KERNEL}, {})
    checkpoint.prune(folder, keep=1, best_step=1)
    assert [path.name for path in checkpoint.list_paths(folder)] == ["step-00000001", "step-00000003"]
    assert not [*folder.glob(".*")]
