"""If metrics.jsonl cannot be written, training continues, checkpoints hold the rows, and the final error reports it."""

import shutil

import pytest
from conftest import fit_run, mostly_slow
from rich.console import Console

from cnnjax import checkpoint, report
from cnnjax.errors import PartlyDone, UserError
from cnnjax.runs import launch
from cnnjax.runs.folder import RunFolder


@pytest.fixture
def blocked(experiment, tmp_path):
    """A run whose metrics.jsonl is a folder, so that not even root can write it."""
    folder = RunFolder(tmp_path / "run")
    folder.start("run", experiment)
    (folder.path / "metrics.jsonl").mkdir()
    return folder


def train(experiment, folder, progress):
    return fit_run(experiment, folder, progress)


@pytest.mark.trains_long
def test_training_continues_and_reports_the_problem_once(experiment, blocked, progress):
    outcome = train(experiment, blocked, progress)
    assert [row["epoch"] for row in outcome.rows] == [1, 2, 3]
    assert "metrics.jsonl cannot be written (" in outcome.problem
    assert len([notice for notice in progress.notices if "cannot be written" in notice]) == 1


@pytest.mark.trains_long
def test_missing_rows_are_written_once_the_file_is_writable(experiment, blocked, progress):
    class Repairing(type(progress)):
        def epoch(self, snapshot):
            if len(snapshot.rows) == 2:
                (blocked.path / "metrics.jsonl").rmdir()

    outcome = train(experiment, blocked, Repairing())
    assert outcome.problem is None
    assert blocked.read_metrics() == outcome.rows


@pytest.mark.parametrize(
    "damage",
    mostly_slow(
        [
            lambda path: path.unlink(),
            lambda path: path.write_bytes(path.read_bytes()[:-20]),
            lambda path: (
                path.with_name("other").write_bytes(path.read_bytes()) and path.with_name("other").replace(path)
            ),
        ],
        1,
        pytest.mark.trains_long,
    ),
)
def test_damage_during_training_is_repaired_after_the_next_epoch(experiment, tmp_path, progress, damage):
    folder = RunFolder(tmp_path / "run")
    folder.start("run", experiment)
    path = folder.path / "metrics.jsonl"

    class Damaging(type(progress)):
        def epoch(self, snapshot):
            if len(snapshot.rows) == 2:
                damage(path)
                self.inode = path.stat().st_ino if path.exists() else None

    progress = Damaging()
    outcome = train(experiment, folder, progress)
    assert outcome.problem is None
    assert folder.has_metrics(outcome.rows)
    assert path.stat().st_ino != progress.inode


@pytest.mark.parametrize("damage", ["lost", "cut", "another line"])
def test_a_damaged_file_is_rebuilt_from_the_newest_checkpoint(experiment, tmp_path, progress, trained_run, damage):
    folder = RunFolder(shutil.copytree(trained_run, tmp_path / "run"))
    rows = folder.read_metrics()
    path = folder.path / "metrics.jsonl"
    {
        "lost": path.unlink,
        "cut": lambda: path.write_bytes(path.read_bytes()[:-20]),
        "another line": lambda: path.write_bytes(b'{"epoch": 7}\n' + path.read_bytes()),
    }[damage]()
    train(experiment, folder, progress)
    assert folder.read_metrics() == rows


@pytest.mark.trains_long
def test_a_run_without_metrics_or_report_is_partly_done_and_repaired_by_the_next_start(
    experiment, blocked, monkeypatch
):  # fmt: skip
    run = launch.Launch("run", experiment, blocked.path)

    def fail(*arguments):
        raise RuntimeError("no fonts")

    with monkeypatch.context() as patch:
        patch.setattr(report, "write", fail)
        with pytest.raises(PartlyDone) as error:
            launch.run(run, Console(), resume_command="train.py")
    for expected in ("has finished training, but", "metrics.jsonl cannot be written", "no fonts", "train.py"):
        assert expected in str(error.value)
    assert not blocked.finished
    (blocked.path / "metrics.jsonl").rmdir()
    launch.run(run, Console())
    assert blocked.finished
    assert [row["epoch"] for row in blocked.read_metrics()] == [1, 2, 3]


def test_a_deleted_run_folder_is_one_error_and_is_not_recreated(experiment, tmp_path, progress):
    folder = RunFolder(tmp_path / "run")
    folder.start("run", experiment)

    class Deleting(type(progress)):
        def epoch(self, snapshot):
            shutil.rmtree(folder.path)

    with pytest.raises(UserError, match=r"step-00000020 could not be saved \(No such file or directory\)"):
        train(experiment, folder, Deleting())
    assert not folder.path.exists()


def test_each_checkpoint_holds_the_rows_so_far(trained_run):
    folder = RunFolder(trained_run)
    for path in checkpoint.list_paths(folder.checkpoints):
        lines = (path / "metrics.jsonl").read_bytes()
        assert (folder.path / "metrics.jsonl").read_bytes().startswith(lines)
        assert lines.count(b"\n") == int(path.name.removeprefix("step-")) // 10
