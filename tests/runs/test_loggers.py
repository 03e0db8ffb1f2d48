"""Loggers with stand-ins for their packages, which write what they receive to a file."""

import json
import sys

import pytest
from conftest import SilentProgress, fit_run
from rich.console import Console

import cnnjax
from cnnjax import create
from cnnjax.errors import UserError
from cnnjax.runs import loggers
from cnnjax.runs.folder import RunFolder
from tests.script import run_script
from tests.training.test_loop import figures

TENSORBOARD = """
import json, pathlib, tempfile
class SummaryWriter:
    def __init__(self, logdir):
        pathlib.Path(logdir).mkdir(exist_ok=True)
        self.file = open(tempfile.mktemp(prefix="events.out.tfevents.", dir=logdir), "w")
    def add_scalar(self, tag, value, step):
        print(json.dumps([tag, value, step]), file=self.file)
    def flush(self):
        self.file.flush()
    def close(self):
        self.file.close()
"""
WANDB = """
import json, pathlib
class Run:
    def __init__(self, path):
        self.path = path
        self.path.touch()
    @property
    def step(self):
        steps = [json.loads(line)[1] for line in self.path.read_text().splitlines()]
        return max(steps, default=-1) + 1
    def log(self, values, step):
        assert step >= self.step, "W&B drops older steps"
        with open(self.path, "a") as file:
            print(json.dumps([values, step]), file=file)
    def finish(self):
        pass
def init(*, project, name, id, dir, resume, config):
    assert (project, resume, config["model"]["family"]) == ("cnnjax", "allow", "mlp")
    return Run(pathlib.Path(dir) / f"history-{id}")
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    for name, code in (("tensorboardX", TENSORBOARD), ("wandb", WANDB)):
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def small(experiment):
    return experiment.replace(model=create("mlp"))


class Stopper(SilentProgress):
    """Stops after an epoch, whose checkpoint is saved and which no logger has seen."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def epoch(self, snapshot):
        super().epoch(snapshot)
        if len(snapshot.rows) == self.last:
            raise KeyboardInterrupt


def train(experiment, path, progress):
    folder = RunFolder(path)
    folder.start("run", experiment)
    hooks = loggers.with_loggers(progress, ["tensorboard", "wandb", "tensorboard"], path, "run", experiment)
    try:
        return fit_run(experiment, folder, hooks)
    finally:
        hooks.close()


def logged(path):
    """Return the steps of each tag in TensorBoard's event files, and the history of W&B."""
    events, [history] = {}, path.glob("history-*")
    for file in (path / "tensorboard").iterdir():
        for line in file.read_text().splitlines():
            tag, value, step = json.loads(line)
            events.setdefault(tag, []).append((step, value))
    return events, [json.loads(line) for line in history.read_text().splitlines()]


@pytest.mark.trains_long
def test_a_resumed_run_logs_each_step_once(small, tmp_path, packages):
    path = tmp_path / "run"
    for last in (2, 3):  # killed twice between the checkpoint of an epoch and its logging
        with pytest.raises(KeyboardInterrupt):
            train(small, path, Stopper(last))
    progress = SilentProgress()
    rows = train(small, path, progress).rows
    assert not [notice for notice in progress.notices if "logger" in notice]
    events, history = logged(path)
    for tag, name in (("train/loss", "train_loss"), ("validation/top1", "validation_top1"), ("lr", "lr")):
        assert events[tag] == [(row["step"], row[name]) for row in rows]
    assert {len(points) for points in events.values()} == {3}
    assert [step for _, step in history] == [10, 20, 30]
    assert [values["train/loss"] for values, _ in history] == [row["train_loss"] for row in rows]


@pytest.mark.trains_long
def test_a_logger_that_fails_is_reported_once_and_changes_nothing(small, tmp_path, packages, monkeypatch):
    monkeypatch.setattr(loggers.TensorBoard, "write", lambda self, row: 1 / 0)
    monkeypatch.setattr(loggers.WandB, "open", lambda *a: exit("no key"))
    progress = SilentProgress()
    rows = train(small, tmp_path / "run", progress).rows
    failed = [notice for notice in progress.notices if "logger" in notice]
    assert len(failed) == 2
    assert "the logger wandb failed (SystemExit: no key); training continues without it" in failed[0]
    assert "the logger tensorboard failed (ZeroDivisionError: division by zero)" in failed[1]
    folder = RunFolder(tmp_path / "plain")
    folder.start("run", small)
    assert figures(fit_run(small, folder, SilentProgress()).rows) == figures(rows)


def test_a_missing_package_is_one_sentence_before_anything_is_written(small, tmp_path, monkeypatch):
    missing = {"wandb": loggers.LoggerEntry(loggers.WandB, "no_such_package")}
    monkeypatch.setattr(loggers, "LOGGERS", missing)
    with pytest.raises(UserError, match=r"needs the package no_such_package.*pip install cnnjax\[wandb\]"):
        cnnjax.train(small, tmp_path / "run", loggers=["wandb"], console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_an_unknown_logger_is_refused(tmp_path):
    done = run_script("train.py", "lenet_mini", "--loggers", "tensorbord", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "tensorboard" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_symlink_in_place_of_the_event_folder_is_not_followed(small, tmp_path, packages):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "events.out.tfevents.1").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").symlink_to(tmp_path / "precious")
    run = loggers.LoggedRun(tmp_path / "run", "run", small)
    with pytest.raises(UserError, match="is a symlink"):
        loggers.TensorBoard().open(run, [])
    assert (tmp_path / "precious" / "events.out.tfevents.1").exists()
