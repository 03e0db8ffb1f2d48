"""Strict settings for every test, and small data sets, real and synthetic."""

import contextlib
import ctypes
import gc
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
from cnnjax.runs import launch
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.launch import fit_in_folder
from cnnjax.training.hooks import Hook
from cnnjax.training.loop import Outcome, shared_dispatch
from cnnjax.training.turns import finish

# Implicit promotion of dtypes or ranks is an error.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the time goes into compilation. Scripts started as processes and the oracle tests compile as users do.
jax.config.update("jax_disable_most_optimizations", True)
# Traces leave millions of objects, which the default thresholds scan thousands of times: 7 % of the time of the tests.
gc.set_threshold(50_000, 20, 100)
# The comparisons with Keras run it on JAX; TensorFlow, its default, is not installed.
os.environ.setdefault("KERAS_BACKEND", "jax")
# Scripts must not write to the user's cache folder.
os.environ["CNNJAX_CACHE"] = "0"
# With this set, a script does not restart the process to change its allocator settings.
os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
# Without the native library, each script would print a notice on standard error.
if not LIBRARY.exists():
    os.environ["CNNJAX_NATIVE"] = "0"


# Hypothesis draws the same examples every time, and fewer outside CI and `make test-all`.
settings.register_profile(
    "local", max_examples=8, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
settings.register_profile("ci", settings.get_profile("local"), max_examples=40)
settings.load_profile(os.environ.get("CNNJAX_TESTS", "local"))


def mostly_slow(values, fast: int, mark=pytest.mark.compiles_large):
    """Mark all parameters after the first ``fast`` as slow: `make test` leaves them out, `make test-all` runs them."""
    marked = [pytest.param(*value, marks=mark) if isinstance(value, tuple) else pytest.param(value, marks=mark)
              for value in values[fast:]]  # fmt: skip
    return [*values[:fast], *marked]


MOST_RESIDENT = 4 * 2**30
"""Memory of a worker, in bytes, at which it frees what it has compiled."""
LONGEST_MESSAGE = 400
"""Maximum characters of an error message, file names aside."""
LEFT_OUT = pytest.StashKey[int]()
"""Number of tests that -m has deselected, in this process or, with pytest-xdist, in each worker."""
COMPILED = pytest.StashKey[tempfile.TemporaryDirectory]()
"""Folder of the compilation cache of this test run."""


def pytest_deselected(items):
    config = items[0].config
    if config.option.keyword:  # -k selects by name, not by speed
        return
    config.stash[LEFT_OUT] = config.stash.get(LEFT_OUT, 0) + len(items)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Add the number of deselected tests of a pytest-xdist worker."""
    left_out = getattr(node, "workeroutput", {}).get("left_out", 0)
    node.config.stash[LEFT_OUT] = max(left_out, node.config.stash.get(LEFT_OUT, 0))


def pytest_configure(config):
    """Share a compilation cache between the workers, because many tests train the same network."""
    if not hasattr(config, "workerinput"):
        config.stash[COMPILED] = tempfile.TemporaryDirectory(prefix="cnnjax-tests-")
        os.environ["CNNJAX_TESTS_COMPILED"] = config.stash[COMPILED].name  # inherited by the workers
    keep_compiled(os.environ["CNNJAX_TESTS_COMPILED"])


def keep_compiled(folder: str):
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def resident_bytes() -> int:
    statm = Path("/proc/self/statm")  # Linux
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def pytest_runtest_teardown(item, nextitem):
    """Free compiled programs and traces if they fill the memory; those of the whole suite take 10 GB."""
    if nextitem is None or nextitem.module is item.module or resident_bytes() < MOST_RESIDENT:
        return
    jax.clear_caches()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc
        trim(0)


def pytest_unconfigure(config):
    """Print how to run the other tests, after pytest's summary."""
    if hasattr(config, "workerinput"):
        return
    config.stash[COMPILED].cleanup()
    if left_out := config.stash.get(LEFT_OUT, 0):
        print(
            f"slow tests deselected: {left_out:,}; make test-all runs them; make oracle and make faults run more tests"
        )


def pytest_addoption(parser):
    parser.addoption("--update", action="store_true", help="rewrite the golden files")


@pytest.fixture
def update(request) -> bool:
    return request.config.getoption("--update")


def write_digits(folder: Path, train: int = 400, test: int = 130, suffix: str = "") -> Path:
    """Write MNIST-like IDX files with learnable classes: each class is a bright square at its own position."""
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
    """A folder with synthetic digits in IDX files: 400 training and 130 test images."""
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """The folder of a prepared tensorflow-datasets data set: 60 training and 12 test images, grayscale, 3 classes."""
    from tests.data.prepared import prepare

    return prepare(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="session")
def experiment(digits) -> Experiment:
    """An experiment that trains in a second or two; immutable, so all tests can share it."""
    return Experiment(
        model=create("lenet", activation="relu", pooling="max"),
        data=Data(source="mnist", dir=str(digits), validation=0.2),
        optimizer=Optimizer(name="adam", lr=3e-3),
        train=Train(epochs=3, batch_size=32, eval_batch_size=50),
        early_stopping=EarlyStopping(patience=None),
    )


@pytest.fixture(scope="session")
def trained_run(experiment, tmp_path_factory) -> Path:
    """The run folder of ``experiment`` after its three epochs; tests copy it before they change it."""
    folder = RunFolder(tmp_path_factory.mktemp("trained") / "run")
    folder.start("run", experiment)
    fit_run(experiment, folder, SilentProgress())
    return folder.path


class SilentProgress(Hook):
    """Records what the loop reports."""

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
    """Outcome of a run in a folder, and the problem with metrics.jsonl, if any."""

    outcome: Outcome
    problem: str | None

    @property
    def epochs(self) -> int:
        return self.outcome.epochs

    @property
    def rows(self):
        return self.outcome.rows


def fit_run(experiment, folder, progress, **options) -> Fitted:
    """Train an experiment in a run folder, resuming from its newest checkpoint."""
    return Fitted(*finish(fit_in_folder(experiment, data.load(experiment.data), folder, progress, **options)))


@contextlib.contextmanager
def without_figures():
    """Let a finished run write an empty report, because drawing its figures takes longer than a small training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch.report, "write", lambda *arguments: (arguments[4] / "report.html").write_text(""))
        yield


@pytest.fixture
def no_figures():
    with without_figures():
        yield


@pytest.fixture(scope="module")
def no_sweep_figures():
    """As `without_figures`, for the members and the page of a sweep."""
    with without_figures(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnnjax.sweep.figures.write", lambda *_: None)
        yield


@pytest.fixture
def progress() -> SilentProgress:
    return SilentProgress()


@pytest.fixture(autouse=True)
def own_programs():
    """Discard compiled programs before each test: an earlier test may have changed how programs are made."""
    shared_dispatch.cache_clear()
    yield
    shared_dispatch.cache_clear()


@pytest.fixture(autouse=True)
def short_messages(monkeypatch):
    """Check that every error message in the tests is short, file names aside."""
    from cnnjax.errors import CnnjaxError

    def init(error, *arguments):
        Exception.__init__(error, *arguments)
        words = " ".join(map(str, arguments)).split(" ")
        assert len(" ".join(word for word in words if "/" not in word)) <= LONGEST_MESSAGE, arguments

    monkeypatch.setattr(CnnjaxError, "__init__", init)
