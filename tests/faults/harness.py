"""A tiny training run in its own process, and the checks that every fault needs."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax import checkpoint
from cnnjax.data.idx import write_idx
from cnnjax.data.sources import IDX_FILES
from cnnjax.ops.native.library import LIBRARY
from cnnjax.optim import make_hyperparameters
from cnnjax.runs import predictor
from cnnjax.runs.folder import RunFolder, read_config
from cnnjax.runs.saving import read_state

ROOT = Path(__file__).resolve().parents[2]
CLOCK = ("seconds", "images_per_second")
LONG = ("--train.epochs", 40)
"""Enough epochs for a fault to hit after the second one, even on a busy machine."""
TIMEOUT = 240
EXPERIMENT = """
from cnnjax import create
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Train

experiment = Experiment(
    model=create("lenet", activation="relu", pooling="max", input_size=12),
    data=Data(source="mnist", dir={data!r}, validation=0.2),
    augmentation=Augmentation(pad_crop=1),
    optimizer=Optimizer(name="momentum", lr=0.02),
    train=Train(epochs=10, batch_size=16, ema_decay=0.99, keep=2),
    early_stopping=EarlyStopping(patience=None),
)
"""
STEPS = 20
"""Steps per epoch: 400 images, a fifth of them for validation, in batches of 16."""


class GuaranteeBroken(Exception):
    """A guarantee was not kept."""


class Row(NamedTuple):
    """A row of the table: a fault, the number of trials, and how many lost nothing."""

    fault: str
    times: int
    survived: int
    note: str = ""
    problems: tuple[str, ...] = ()

    @property
    def lost(self) -> int:
        return self.times - self.survived


def check(condition: bool, message: str) -> None:
    if not condition:
        raise GuaranteeBroken(message)


class Completed(NamedTuple):
    """Exit code and output of a process."""

    code: int
    out: str
    err: str

    def check_error(self, code: int, *expected: str) -> None:
        """Check the exit code, and that standard error is one error message that contains the expected texts."""
        details = f"exit code {self.code} (not {code}), standard error:\n{self.err}"
        lines = self.err.splitlines()
        check(self.code == code and len(lines) == 1 and lines[0].startswith("error: "), details)
        for text in expected:
            check(text in self.err, f"{text!r} is missing in: {self.err}")


class Harness:
    """A working folder with undisturbed reference runs to compare with."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.experiment = folder / "tiny.py"
        self.cache = folder / "cache"
        self._references: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._comparing, self._creating = threading.Lock(), threading.Lock()
        write_digits(folder / "digits")
        self.experiment.write_text(EXPERIMENT.format(data=str(folder / "digits")))

    def command(self, run: Path, *options: Any, experiment: Path | None = None) -> list[str]:
        return [
            sys.executable, str(ROOT / "scripts" / "train.py"), str(experiment or self.experiment), "--out", str(run),
            *map(str, options),
        ]  # fmt: skip

    def environment(self, **more: str) -> dict[str, str]:
        native = "1" if LIBRARY.exists() else "0"  # a missing library prints a notice on standard error
        defaults = {"CNNJAX_NATIVE": native, **os.environ}
        return {**defaults, "CNNJAX_CACHE": str(self.cache), "PYTHONPATH": str(ROOT), **more}

    def start(
        self, run: Path, *options: Any, experiment: Path | None = None, **environment: str
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(run, *options, experiment=experiment), cwd=self.folder, env=self.environment(**environment),
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def train(self, run: Path, *options: Any, **environment: str) -> Completed:
        """Run the script until it exits."""
        return finish(self.start(run, *options, **environment))

    def new_run(self, name: str) -> Path:
        """Return the path of a new run."""
        path = self.folder / "runs" / name
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(exist_ok=True)
        return path

    def reference(self, *options: Any) -> dict[str, Any]:
        """Return the outcome of an undisturbed run with these options."""
        with self._creating:
            if options not in self._references:
                run = self.new_run("reference-" + hashlib.sha256(repr(options).encode()).hexdigest()[:8])
                ended = self.train(run, *options)
                check(ended.code == 0, f"the reference run failed: {ended.err}")
                self._references[options] = self.outcome(run)
            return self._references[options]

    def outcome(self, run: Path) -> dict[str, Any]:
        """Return everything that must be equal: metrics, parameters, optimizer state, the best checkpoint."""
        with self._comparing:
            newest, notices = checkpoint.newest_good(run / "checkpoints")
            check(newest is not None and not notices, f"checkpoints of the finished run: {notices or 'none'}")
            assert newest
            _, experiment = read_config(run / "config.json")
            state = read_state(newest, experiment, make_hyperparameters(experiment, 100))
            best = predictor.load(run)
            results = json.loads((run / "results.json").read_text())
            check((run / "report.html").exists(), "there is no report")
            return {
                "checkpoints": [path.name for path in checkpoint.list_paths(run / "checkpoints")],
                "training": digest((state.step, state.opt_state, state.metrics, state.ema)),
                "parameters": digest(state.variables),
                "best": (best.checkpoint.name, digest(best.variables)),
                "early_stopping": newest.info["early_stopping"],
                "metrics": [without_clock(row) for row in RunFolder(run).read_metrics()],
                "results": without_clock(results),
            }

    def check_same(self, run: Path, *options: Any) -> None:
        """Check that a finished run equals the reference run and left no temporary files."""
        expected, actual = self.reference(*options), self.outcome(run)
        for name, value in expected.items():
            check(actual[name] == value, f"{name}: {actual[name]}, in the reference run {value}")
        left = [path.name for path in run.rglob("*.writing")]
        check(not left, f"left behind: {left}")

    def resume(self, run: Path, *options: Any) -> None:
        """Resume the run, let it finish, and check that nothing is lost."""
        ended = self.train(run, *options)
        check(ended.code == 0, f"resuming: exit code {ended.code}: {ended.err}")
        self.check_same(run, *options)


def digest(tree: Any) -> str:
    """Return a hash of the names, shapes and bits of all arrays."""
    result = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.asarray(leaf)
        result.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
        result.update(np.ascontiguousarray(array).tobytes())
    return result.hexdigest()


def without_clock(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name not in CLOCK}


def finish(process: "subprocess.Popen[str]", limit: float = TIMEOUT) -> Completed:
    """Wait for a process; kill it if it hangs."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise GuaranteeBroken(f"hung for {limit} s") from None
    return Completed(process.returncode, out, err)


def wait_for(
    process: "subprocess.Popen[str]", condition: Callable[[], bool], pause: float = 0.001, limit: float = TIMEOUT
) -> bool:
    """Wait until the condition holds; return False if the process ends first."""
    deadline = time.monotonic() + limit
    while not condition():
        if process.poll() is not None:
            return False
        check(time.monotonic() < deadline, "timeout: the expected condition never held")
        time.sleep(pause)
    return True


def epochs_done(run: Path) -> int:
    """Return the number of lines of metrics."""
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def is_saving(run: Path) -> bool:
    """Return whether a checkpoint is being written."""
    try:
        return any((run / "checkpoints").glob(".*.writing"))
    except OSError:
        return False


@contextlib.contextmanager
def running(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    """Kill the process on exit."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def write_digits(folder: Path, train: int = 400, test: int = 60) -> None:
    """Write IDX files of 12x12 images; each class is a bright bar at its own position."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = rng.integers(0, 90, (count, 12, 12), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 5)
            image[6 * row : 6 * row + 6, 2 * column + 1 : 2 * column + 3] += 120
        for stem, array in zip(IDX_FILES[part], (images, labels), strict=True):
            write_idx(folder / stem, array)
