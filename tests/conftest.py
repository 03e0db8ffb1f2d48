"""Strict surroundings for every test, and small real and made-up data."""

import os
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from cnnjax import data
from cnnjax.config import Data, EarlyStopping, Experiment, Optimizer, Train
from cnnjax.data.idx import write_idx
from cnnjax.data.sources import IDX_FILES
from cnnjax.models import create
from cnnjax.ops.native.library import LIBRARY
from cnnjax.runs.launch import fit_in_folder
from cnnjax.training.hooks import Hook
from cnnjax.training.loop import Outcome

# A sum of an int and a float array, or of shapes that differ in rank, is a slip until it is written out.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the tests' time is compilation. Scripts that tests start, and the oracle tests, compile as users do.
jax.config.update("jax_disable_most_optimizations", True)
# Scripts, in this process or in one of their own, keep nothing in the user's cache folder.
os.environ["CNNJAX_CACHE"] = "0"
# A script run in this process would begin the process again with another allocator; the tests' own processes have it.
os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
# Where the native part is not built, each script would say so on standard error.
if not LIBRARY.exists():
    os.environ["CNNJAX_NATIVE"] = "0"


def examples(most: int) -> int:
    """Return how many drawn examples a property is tried on: all in `make test-all`, a quarter elsewhere."""
    return most if os.environ.get("CNNJAX_TESTS") == "all" else max(most // 4, 3)


def pytest_addoption(parser):
    parser.addoption("--update", action="store_true", help="write the golden files anew")


@pytest.fixture
def update(request) -> bool:
    return request.config.getoption("--update")


def write_digits(folder: Path, train: int = 400, test: int = 130, suffix: str = "") -> Path:
    """Write MNIST-like IDX files whose classes a network can learn: each is a bright square in a place of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 4)
            image[2 + 8 * row : 10 + 8 * row, 1 + 7 * column : 7 + 7 * column] += 120
        for stem, array in zip(IDX_FILES[part], (images, labels), strict=True):
            write_idx(folder / f"{stem}{suffix}", array)
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """A folder with made-up digits in IDX files: 400 training and 130 test images."""
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """The folder of a data set of tensorflow-datasets: 60 training and 12 test images, grey, in 3 classes."""
    from tests.data.prepared import prepare

    return prepare(tmp_path_factory.mktemp("tfds"))


@pytest.fixture
def experiment(digits) -> Experiment:
    """A training of a second or two."""
    return Experiment(
        model=create("lenet", activation="relu", pooling="max"),
        data=Data(source="mnist", dir=str(digits), validation=0.2),
        optimizer=Optimizer(name="adam", lr=3e-3),
        train=Train(epochs=3, batch_size=32, eval_batch_size=50),
        early_stopping=EarlyStopping(patience=None),
    )


class SilentProgress(Hook):
    """Takes what the loop reports and keeps it for the test."""

    def __init__(self):
        self.rows, self.notices, self.steps = [], [], []

    def start(self, plan):
        self.steps_done = plan.steps_done

    def step(self, epoch, step, loss, top1):
        self.steps.append((epoch, step, loss, top1))

    def epoch(self, snapshot):
        self.rows.append(snapshot.rows[-1])

    def notice(self, text):
        self.notices.append(text)


class Fitted(NamedTuple):
    """How a training in a folder ended, and why metrics.jsonl lacks some of it."""

    outcome: Outcome
    problem: str | None

    @property
    def epochs(self) -> int:
        return self.outcome.epochs

    @property
    def rows(self):
        return self.outcome.rows


def fit_run(experiment, folder, progress, **options) -> Fitted:
    """Train an experiment in a run folder, from its newest checkpoint."""
    return Fitted(*fit_in_folder(experiment, data.load(experiment.data), folder, progress, **options))


@pytest.fixture
def progress() -> SilentProgress:
    return SilentProgress()
