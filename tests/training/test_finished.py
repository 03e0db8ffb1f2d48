"""Starting a finished run again repairs missing or damaged files and changes nothing else."""

import pytest
from rich.console import Console

from cnnjax import checkpoint
from cnnjax.config import Train
from cnnjax.errors import PartlyDone
from cnnjax.runs import launch
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.saving import tidy


@pytest.fixture
def finish(experiment, tmp_path):
    """Return a function that trains the run or starts it again. The name of its folder looks like markup."""
    this = launch.Launch("run", experiment.replace(train=experiment.train.replace(keep=1)), tmp_path / "run[/z]")

    def start():
        return launch.run(this, Console())

    start.folder = RunFolder(this.folder)
    return start


def names(folder):
    return sorted(path.name for path in folder.checkpoints.iterdir())


@pytest.mark.trains_long
def test_a_finished_run_is_repaired_from_its_last_checkpoint(finish, monkeypatch, capsys):
    folder, path = finish.folder, finish.folder.path / "metrics.jsonl"
    with monkeypatch.context() as patch:  # as if each process was killed before it pruned
        patch.setattr(checkpoint, "prune", lambda *arguments: None)
        results = finish()
    assert names(folder) == ["step-00000010", "step-00000020", "step-00000030"]
    (folder.checkpoints / ".step-00000010.writing").mkdir()
    rows = path.read_bytes()
    path.unlink()
    assert finish() == results
    assert path.read_bytes() == rows
    best = 10 * results["best_epoch"]
    assert names(folder) == [f"step-{step:08d}" for step in sorted({best, 30})]
    before = path.stat()
    finish()
    assert path.stat() == before
    assert f"results: {folder.path}/" in capsys.readouterr().out

    path.unlink()
    path.mkdir()
    with pytest.raises(PartlyDone, match=r"metrics.jsonl cannot be written"):
        finish()


@pytest.mark.trains_long
def test_a_damaged_last_checkpoint_is_not_used_and_not_moved(finish):
    folder = finish.folder
    finish()
    before = names(folder)
    (folder.checkpoints / before[-1] / "info.json").write_text("{}")
    (folder.path / "metrics.jsonl").unlink()
    assert tidy(folder, Train(epochs=3, keep=1), epochs=3, notice=print) is None
    assert names(folder) == before
    assert not (folder.path / "metrics.jsonl").exists()
