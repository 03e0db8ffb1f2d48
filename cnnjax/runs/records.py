"""Records: the small files of runs, kept under version control. All published tables are made from them.

    experiments/records/NAME/seed-0/config.json  environment.json  metrics.jsonl  results.json  [experiment.py]

NAME is the run's name without its seed. A record contains no path of the machine that made it.
"""

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax.config import Experiment, flatten
from cnnjax.data.division import PARTS
from cnnjax.errors import UserError
from cnnjax.runs.definitions import COPY, of_run
from cnnjax.runs.environment import DECISIVE
from cnnjax.runs.folder import RunFolder, read_config
from cnnjax.runs.naming import short_origin
from cnnjax.system.files import make_folder, read_bytes, read_json, sync_folder, sync_tree, write_bytes, write_json

COPIED = ("environment.json", "metrics.jsonl", "results.json")
TIMES = ("seconds", "images_per_second")
"""Figures that differ from run to run; a repeated run reproduces all others bit for bit."""


class Record(NamedTuple):
    """One recorded run."""

    name: str
    experiment: Experiment
    environment: dict[str, Any]
    """The entry of the last start."""
    rows: list[dict[str, Any]]
    results: dict[str, Any]


class Comparison(NamedTuple):
    """Comparison of a repeated run with its record."""

    figures: int
    """Number of figures compared."""
    first: str
    """The first figure that differs, with both values; empty if all are equal."""
    different: int
    """Number of figures that differ."""
    largest: float
    """The largest absolute difference."""
    reasons: dict[str, tuple[Any, Any]]
    """Fields of environment.json that affect the exact bits and differ, each with its recorded and its new value."""

    @property
    def equal(self) -> bool:
        return not self.different


def record(run: Path, records: Path) -> Path:
    """Copy the small files of a finished run to the records; return the record's folder.

    The record omits the data folder, and the folder of the parameters that the run started from, because they are paths
    of this machine.

    Raises:
        UserError: the run is not finished, or another run is recorded under the same name and seed.
    """
    folder = RunFolder(run)
    if not (run / "config.json").is_file() or not folder.finished:
        raise UserError(f"{run} holds no finished run; run scripts/train.py {run} to finish it, then record it")
    config = read_json(run / "config.json")
    name, experiment = read_config(run / "config.json", of_run(run, trust_code=(run / COPY).is_file()))
    target = records / record_name(name) / f"seed-{experiment.seed}"
    config["name"], config["experiment"]["data"]["dir"] = record_name(name), None
    if experiment.init is not None:
        config["experiment"]["init"] = short_origin(experiment.init)
    if experiment.continue_from is not None:
        config["experiment"]["continue_from"] = Path(experiment.continue_from).name
    if target.exists():
        recorded = read_json(target / "config.json")
        if recorded["experiment"] != config["experiment"]:
            changed = _changed(flatten(recorded["experiment"]), flatten(config["experiment"]))
            raise UserError(
                f"{target} holds a run with another config ({next(iter(changed))} differs); delete that record first"
            )
    make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        write_json(temporary / "config.json", config)
        for file in COPIED:
            write_bytes(temporary / file, read_bytes(run / file))
        if (run / COPY).is_file():
            write_bytes(temporary / COPY, read_bytes(run / COPY))
        sync_tree(temporary)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(target.parent)
    return target


def record_name(run_name: str) -> str:
    """Return a run's name without its seed: ``"lenet,train.epochs=3"`` for ``"lenet,seed=1,train.epochs=3"``."""
    return ",".join(part for part in run_name.split(",") if not part.startswith("seed="))


def read_record(folder: Path) -> Record:
    """Return the record in a folder such as ``experiments/records/lenet_fashion/seed-0``.

    A copy of an experiment file in the folder is executed, because records are part of the repository.
    """
    run = RunFolder(folder, of_run(folder, trust_code=(folder / COPY).is_file()))
    name, experiment = read_config(folder / "config.json", run.definitions)
    return Record(name, experiment, run.read_environment(), run.read_metrics(), run.read_results())


def read_records(records: Path) -> dict[str, list[Record]]:
    """Return all records by name, ordered by seed."""
    by_name: dict[str, list[Record]] = {}
    for config in sorted(records.glob("*/seed-*/config.json")):
        record = read_record(config.parent)
        by_name.setdefault(record.name, []).append(record)
    return {name: sorted(group, key=lambda record: record.experiment.seed) for name, group in by_name.items()}


def compare(recorded: Record, repeated: Record) -> Comparison:
    """Compare the figures of a repeated run with its record, except times."""
    pairs = list(_pairs(_figures(recorded), _figures(repeated)))
    different = [(name, a, b) for name, a, b in pairs if a != b]
    first = "{} is {!r} and was {!r}".format(different[0][0], *different[0][:0:-1]) if different else ""
    sizes = [abs(b - a) for _, a, b in different if isinstance(a, int | float) and isinstance(b, int | float)]
    before, now = (
        {
            key: value
            for key, value in flatten(entry).items()
            if key in DECISIVE or key.startswith(("lowering.", "data."))
        }
        for entry in (recorded.environment, repeated.environment)
    )
    return Comparison(len(pairs), first, len(different), max(sizes, default=0.0), _changed(before, now))


def _figures(record: Record) -> dict[str, Any]:
    """Return all figures of a run except times, in the order in which they were computed."""
    rows = {f"{key} of epoch {row['epoch']}": value for row in record.rows for key, value in row.items()
            if key not in TIMES}  # fmt: skip
    whole = {key: value for key, value in record.results.items() if key not in (*TIMES, *PARTS)}
    parts = {f"{key} of {part}": value for part in PARTS for key, value in record.results[part].items()}
    return {**rows, **whole, **parts}


def _pairs(a: dict[str, Any], b: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in {**a, **b}:
        yield name, a.get(name), b.get(name)


def _changed(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (x, y) for name, x, y in _pairs(a, b) if x != y}
