"""The folder of a run: what was run, on what, and what came of it.

config.json        the experiment and its name; `scripts/train.py RUN/config.json` reproduces the run
environment.json   one entry for each start: versions, device, commit, how things were computed
metrics.jsonl      one line an epoch, each epoch once
checkpoints/       see `cnnjax.checkpoint`
results.json       the figures of the best parameters; there when the run is finished
*.png report.html  see `cnnjax.report`
"""

import hashlib
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from cnnjax import __version__, models
from cnnjax.config import Data, Experiment
from cnnjax.errors import UserError
from cnnjax.files import read_json, write_bytes, write_json

FORMAT = 1
LONGEST_NAME = 150
PLACES_NOT_CONTENT = ("data.dir",)
"""Options that say where something lies: they neither name a run nor make it another one."""


def experiment_from_dict(data: Any) -> Experiment:
    """Read what `Experiment.to_dict` wrote; as data, nothing in it is run."""
    if not isinstance(data, dict):
        raise UserError(f"the experiment is {data!r}; it must be an object")
    return Experiment.from_dict({**data, "model": models.from_dict(data.get("model"))})


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested data by dotted names: ``{"optimizer.lr": 0.1}``."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def differences(old: Experiment, new: Experiment) -> dict[str, tuple[Any, Any]]:
    """Return the options in which two experiments differ, with both values; what only says a place is left out."""
    a, b = flatten(old.to_dict()), flatten(new.to_dict())
    names = [name for name in {**a, **b} if name not in PLACES_NOT_CONTENT]
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}


def run_name(name: str, base: Experiment, experiment: Experiment) -> str:
    """Return the run's name: the experiment's, and the values that were overridden."""
    changed = {option: new for option, (_, new) in differences(base, experiment).items() if new is not None}
    parts = [name] + [f"{option}={_short(value)}" for option, value in sorted(changed.items())]
    full = ",".join(parts).replace("/", "_")
    if len(full) <= LONGEST_NAME:
        return full
    return f"{full[: LONGEST_NAME - 9]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def _short(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


class RunFolder:
    """Reads and writes a run's files."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"

    @property
    def finished(self) -> bool:
        return (self.path / "results.json").exists()

    def start(self, name: str, experiment: Experiment) -> None:
        """Make the folder, or find it made for the same experiment; another experiment is refused."""
        config = self.path / "config.json"
        if config.exists():
            _, recorded = read_config(config)
            if found := differences(recorded, experiment):
                listed = "; ".join(f"{option} was {a!r} and is now {b!r}" for option, (a, b) in found.items())
                raise UserError(
                    f"{self.path} holds a run of another config: {listed}; choose another folder with --out"
                )
            return
        if self.path.exists() and any(self.path.iterdir()):
            raise UserError(
                f"{self.path} is not empty and holds no config.json of a run; choose another folder with --out"
            )
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_json(config, {"format": FORMAT, "name": name, "experiment": experiment.to_dict()})

    def record_environment(self, entry: dict[str, Any]) -> None:
        """Add an entry for this start."""
        path = self.path / "environment.json"
        write_json(path, [*(read_json(path) if path.exists() else []), entry])

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one epoch's line."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the epochs' rows; a last line that a kill cut short is left out."""
        path = self.path / "metrics.jsonl"
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def trim_metrics(self, epochs: int) -> None:
        """Forget the epochs after the first ``epochs``: they were not saved and will be run again."""
        rows = [row for row in self.read_metrics() if row["epoch"] <= epochs]
        write_bytes(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())

    def write_results(self, results: dict[str, Any]) -> None:
        write_json(self.path / "results.json", results)

    def read_results(self) -> dict[str, Any]:
        return read_json(self.path / "results.json")


def read_config(path: Path) -> tuple[str, Experiment]:
    """Return the name and the experiment in a config.json."""
    data = read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("name"), str) or not isinstance(data.get("format"), int):
        raise UserError(f"{path} is not a run's config.json: it needs 'format', 'name' and 'experiment'")
    if data["format"] > FORMAT:
        raise UserError(f"{path} has format {data['format']}, newer than {FORMAT}; use a newer cnnjax")
    return data["name"], experiment_from_dict(data.get("experiment"))


def environment(lowering: dict[str, Any]) -> dict[str, Any]:
    """Return what a figure depends on besides the config: versions, device, commit, and the lowering choices."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "packages": {"cnnjax": __version__} | {name: version(name) for name in packages},
        "machine": f"{platform.system()} {platform.machine()}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "backend": jax.default_backend(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if (status := _git("status", "--porcelain")) is None else bool(status),
        "lowering": lowering,
    }


def _git(*arguments: str) -> str | None:
    """Return what git says of the checkout this package lies in, or None where it lies in none."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def recorded_data(run: Path) -> Data:
    """Return the data that a run was trained on; the defaults where the folder does not say."""
    config = run / "config.json"
    return read_config(config)[1].data if config.exists() else Data()
