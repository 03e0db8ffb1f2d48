"""A sweep of two groups that train in seconds, for the launchers and the search."""

import csv
from pathlib import Path
from typing import Any

import jax

from cnnjax import cli
from cnnjax.sweep.running import SweepLaunch
from cnnjax.sweep.table import CLOCK
from tests.faults.harness import write_digits


def as_this_process() -> tuple[str, str]:
    """Return a variable for the environment of other processes: they compile as this one, so bits can be compared."""
    return "JAX_DISABLE_MOST_OPTIMIZATIONS", str(int(jax.config.read("jax_disable_most_optimizations")))


FILE = '''"""Two batch sizes, two seeds."""

from cnnjax import create
from cnnjax.config import Data, Experiment, Optimizer, Train
from cnnjax.sweep import Sweep, grid

experiment = Experiment(
    model=create("mlp", input_size=12),
    data=Data(source="mnist", dir={data!r}, validation=0.2),
    optimizer=Optimizer(name="momentum", lr=0.02),
    train=Train(epochs={epochs}, batch_size=16, eval_batch_size=80, keep=2),
)
sweep = Sweep(axes=(grid("train.batch_size", (8, 16)), grid("seed", range(2))))
'''


def write_sweep(folder: Path, epochs: int) -> Path:
    """Write the data and the file of the sweep; return the file's path."""
    write_digits(folder / "digits")
    path = folder / "two.py"
    path.write_text(FILE.format(data=str(folder / "digits"), epochs=epochs))
    return path


def launch_of(path: Path, root: Path) -> SweepLaunch:
    loaded = cli.load_sweep(str(path))
    return SweepLaunch(
        loaded.name, loaded.title, loaded.experiment, loaded.sweep, root, loaded.definitions, loaded.path
    )


def table_of(launch: SweepLaunch) -> list[dict[str, Any]]:
    """Return the table of a sweep without the columns that a clock fills."""
    rows = csv.DictReader((launch.folder / "sweep.csv").read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]
