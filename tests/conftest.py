"""Strict surroundings for every test, and small real and made-up data."""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from cnnjax import data
from cnnjax.config import Data, EarlyStopping, Experiment, Optimizer, Train
from cnnjax.data.idx import write_idx
from cnnjax.data.sources import IDX_FILES
from cnnjax.models import create
from cnnjax.ops.native.library import LIBRARY
from cnnjax.runs.folder import RunFolder
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


# Where hypothesis draws examples: always the same ones, fewer of them outside CI and `make test-all`.
settings.register_profile(
    "local", max_examples=8, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
settings.register_profile("ci", settings.get_profile("local"), max_examples=40)
settings.load_profile(os.environ.get("CNNJAX_TESTS", "local"))

LEFT_OUT = pytest.StashKey[int]()
"""How many tests the expression after -m has left out, in this process or, with pytest-xdist, in each worker."""
COMPILED = pytest.StashKey[tempfile.TemporaryDirectory]()
"""The folder of programs that this session has compiled."""


def pytest_deselected(items):
    config = items[0].config
    if config.option.keyword:  # a choice of names is no choice of quick tests
        return
    config.stash[LEFT_OUT] = config.stash.get(LEFT_OUT, 0) + len(items)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Hear from one of pytest-xdist's workers how many tests were left out."""
    left_out = getattr(node, "workeroutput", {}).get("left_out", 0)
    node.config.stash[LEFT_OUT] = max(left_out, node.config.stash.get(LEFT_OUT, 0))


def pytest_configure(config):
    """Let all workers of this session share what they compile: many tests train the same network."""
    if not hasattr(config, "workerinput"):
        config.stash[COMPILED] = tempfile.TemporaryDirectory(prefix="cnnjax-tests-")
        os.environ["CNNJAX_TESTS_COMPILED"] = config.stash[COMPILED].name  # which workers inherit
    keep_compiled(os.environ["CNNJAX_TESTS_COMPILED"])


def keep_compiled(folder: str):
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def pytest_unconfigure(config):
    """Say how to run the rest, after pytest's own last line."""
    if hasattr(config, "workerinput"):
        return
    config.stash[COMPILED].cleanup()
    if left_out := config.stash.get(LEFT_OUT, 0):
        print(
            f"slower tests left out: {left_out:,}; make test-all runs every test, make oracle and make faults the rest"
        )


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


@pytest.fixture(scope="session")
def experiment(digits) -> Experiment:
    """A training of a second or two; a value, so that all tests can share it."""
    return Experiment(
        model=create("lenet", activation="relu", pooling="max"),
        data=Data(source="mnist", dir=str(digits), validation=0.2),
        optimizer=Optimizer(name="adam", lr=3e-3),
        train=Train(epochs=3, batch_size=32, eval_batch_size=50),
        early_stopping=EarlyStopping(patience=None),
    )


@pytest.fixture(scope="session")
def trained_run(experiment, tmp_path_factory) -> Path:
    """The folder of ``experiment`` as `fit` leaves it after its three epochs; to read, and to copy before a change."""
    folder = RunFolder(tmp_path_factory.mktemp("trained") / "run")
    folder.start("run", experiment)
    fit_run(experiment, folder, SilentProgress())
    return folder.path


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
