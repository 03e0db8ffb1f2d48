"""The folder of a run: what was run, on what, and what came of it.

config.json        the experiment and its name; `scripts/train.py RUN/config.json` reproduces the run
environment.json   one entry for each start: versions, device, commit, how things were computed
metrics.jsonl      one line an epoch, each epoch once
checkpoints/       see `cnnjax.checkpoint`
.lock              held by the process that writes to the folder; see `cnnjax.system.lock`
results.json       the figures of the best parameters; there when the run is finished
profile/           what JAX's profiler saw, where `--profile` asked for it
*.png report.html  see `cnnjax.report`
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from cnnjax import __version__, models
from cnnjax.config import MOST_EPOCHS, MOST_SECONDS, MOST_STEPS, Data, Experiment
from cnnjax.errors import UserError, quoted
from cnnjax.system import formats
from cnnjax.system.files import make_folder, open_own, open_plain, parse_json, read_json, write_bytes, write_json
from cnnjax.system.lock import HELD, locked

FORMAT = 1
LONGEST_NAME = 150
LONGEST_ROW, MOST_FIGURES = 4096, 32
"""Bytes and figures of a line of metrics.jsonl; ours have some 230 and 10."""
LOCK = ".lock"
BEFORE_CONFIG = (LOCK, f"{LOCK}{HELD}", ".config.json.writing")
"""What a run that was killed in its first moment may have left."""
ROW = (
    "epoch", "step", "lr", "train_loss", "train_top1", "validation_loss", "validation_top1", "seconds",
    "images_per_second",
)  # fmt: skip
"""What each line of metrics.jsonl has, and more."""
RESULTS, FIGURES = ("epochs", "best_epoch", "stopped_early", "seconds", "images_per_second"), ("loss", "top1", "images")
"""What results.json has, and what it has of each part."""
PARTS = ("train", "validation", "test")
PLACES_NOT_CONTENT = ("data.dir",)
"""Options that say where something lies: they neither name a run nor make it another one."""
DECISIVE = ("backend", "device", "cpus", "packages.jax", "packages.jaxlib")
"""What in an environment's entry decides the bits of a result, besides everything in its lowering."""


def experiment_from_dict(data: Any) -> Experiment:
    """Read what `Experiment.to_dict` wrote; as data, nothing in it is run."""
    if not isinstance(data, dict):
        raise UserError(f"the experiment is {quoted(data)}; it must be an object")
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
    pairs = {name: (a.get(name, "not there"), b.get(name, "not there")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def run_name(name: str, base: Experiment, experiment: Experiment) -> str:
    """Return the run's name: the experiment's, and the values that were overridden."""
    options = flatten(experiment.to_dict())
    changed = {option: options[option] for option in differences(base, experiment) if option in options}
    first, *earlier = name.split(",")
    named = {**dict(part.partition("=")[::2] for part in earlier), **{k: _short(v) for k, v in changed.items()}}
    full = ",".join([first, *(f"{option}={value}" for option, value in sorted(named.items()))]).replace("/", "_")
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
        self.require_lock: Callable[[], None] = _nothing
        """Raises LostLock where the folder was locked here, and may be another process's by now."""

    @property
    def finished(self) -> bool:
        return all((self.path / name).exists() for name in ("results.json", "report.html"))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder where it is missing, and keep every other process out while this one writes to it."""
        make_folder(self.path)
        with locked(self.path / LOCK) as self.require_lock:
            try:
                yield
            finally:
                self.require_lock = _nothing

    def check(self, experiment: Experiment) -> None:
        """Refuse a folder that holds something else than a run of this experiment; nothing is written."""
        if self.checkpoints.is_symlink():
            raise UserError(
                f"{self.checkpoints} is a link, and a run deletes what it no longer needs there; put the folder itself "
                "in its place, or make the whole run's folder a link"
            )
        config = self.path / "config.json"
        if config.exists():
            _, recorded = read_config(config)
            if changed := differences(recorded, experiment):
                listed = "; ".join(
                    f"{option} was {quoted(a)} and is now {quoted(b)}" for option, (a, b) in changed.items()
                )
                raise UserError(
                    f"{self.path} holds a run of another config: {listed}; choose another folder with --out"
                )
            return
        if self.path.exists() and any(path.name not in BEFORE_CONFIG for path in self.path.iterdir()):
            raise UserError(
                f"{self.path} is not empty and holds no config.json of a run; choose another folder with --out"
            )

    def start(self, name: str, experiment: Experiment) -> None:
        """Make the folder's config.json, or find it made for the same experiment; another experiment is refused."""
        self.check(experiment)
        make_folder(self.path)
        if experiment.data.dir is not None:  # so that it is found from another working folder too
            experiment = experiment.replace(data=experiment.data.replace(dir=str(Path(experiment.data.dir).resolve())))
        config = self.path / "config.json"
        name, recorded = read_config(config) if config.exists() else (name, None)
        if recorded != experiment:  # a new run, or one whose data have moved
            write_json(config, {**formats.written(FORMAT), "name": name, "experiment": experiment.to_dict()})
        make_folder(self.checkpoints)

    def record_environment(self, entry: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Add an entry for this start; return what decides the bits and was another at the start before, both values.

        What only one of the two entries knows is left out.
        """
        path = self.path / "environment.json"
        before = read_json(path) if path.exists() else []
        if not isinstance(before, list) or not all(isinstance(known, dict) for known in before):
            raise UserError(f"{path} is damaged: it must hold a list; move it away and run the same command again")
        write_json(path, [*before, entry])
        old, new = flatten(before[-1]) if before else {}, flatten(entry)
        decisive = [name for name in new if name in old and (name in DECISIVE or name.startswith("lowering."))]
        return {name: (old[name], new[name]) for name in decisive if old[name] != new[name]}

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one epoch's line; where that fails, no part of it stays."""
        self.require_lock()
        with open(self.path / "metrics.jsonl", "ab", buffering=0, opener=open_own) as file:
            before = file.tell()
            try:
                file.write(line := metrics_line(row))
                if file.tell() != before + len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(before)
                raise

    def write_metrics(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write all lines anew."""
        self.require_lock()
        write_bytes(self.path / "metrics.jsonl", b"".join(map(metrics_line, rows)))

    def has_metrics(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Return whether metrics.jsonl holds these rows and nothing else."""
        wanted = b"".join(map(metrics_line, rows))
        try:
            with open_plain(self.path / "metrics.jsonl") as file:
                return file.read(len(wanted) + 1) == wanted
        except (OSError, UserError):
            return False

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the epochs' rows, up to the first line that is not the next epoch's: a kill may have cut it short."""
        return read_rows(self.path / "metrics.jsonl")

    def write_results(self, results: dict[str, Any]) -> None:
        self.require_lock()
        write_json(self.path / "results.json", results)

    def read_results(self) -> dict[str, Any]:
        path = self.path / "results.json"
        results = read_json(path)
        sound = _has_numbers(results, RESULTS) and all(type(results[name]) is int for name in RESULTS[:2])
        if not sound or not all(_has_numbers(results.get(part), FIGURES) for part in PARTS):
            raise UserError(f"{path} is damaged; delete it, and the same command writes it anew")
        return results


def _nothing() -> None:
    """Require nothing."""


def metrics_line(row: dict[str, Any]) -> bytes:
    """Return an epoch's line of metrics.jsonl."""
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def read_rows(path: Path, most: int = MOST_EPOCHS) -> list[dict[str, Any]]:
    """Return at most so many rows of a metrics.jsonl, up to the first line that is not the next epoch's."""
    try:
        with open_plain(path) as file:
            return _rows(iter(functools.partial(file.readline, LONGEST_ROW), b""), most)
    except FileNotFoundError:
        return []


def _rows(lines: Iterator[bytes], most: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for line in itertools.islice(lines, most):
        try:
            row = parse_json(line)
        except (ValueError, RecursionError):
            break
        if not _has_numbers(row, ROW) or row["epoch"] != len(rows) + 1:
            break
        if len(row) > MOST_FIGURES or not _has_numbers(row, list(row)):
            break
        if not (0 <= row["step"] <= MOST_STEPS and 0 <= row["seconds"] <= MOST_SECONDS):
            break
        rows.append(row)
    return rows


def saved_rows(path: Path, epochs: int) -> list[dict[str, Any]]:
    """Return the rows of the first ``epochs`` in a metrics.jsonl, of which a checkpoint says that they were saved."""
    rows = read_rows(path, epochs)
    if len(rows) < epochs:
        raise UserError(
            f"{path} is damaged after epoch {len(rows)}, and {epochs} epochs were saved; "
            "bring it back from a copy, or train anew with another --out"
        )
    return rows


def _has_numbers(data: Any, names: Sequence[str]) -> bool:
    return isinstance(data, dict) and all(isinstance(data.get(name), int | float) for name in names)


def read_config(path: Path) -> tuple[str, Experiment]:
    """Return the name and the experiment in a config.json."""
    data = read_json(path)
    has_format = isinstance(data, dict) and isinstance(data.get("format"), int)
    if has_format:
        formats.check(str(path), data, FORMAT)  # first: a newer one may have other fields
    if not has_format or not isinstance(data.get("name"), str):
        raise UserError(f"{path} is not a run's config.json: it needs 'format', 'name' and 'experiment'")
    name = data["name"]
    if not (name.isprintable() and 0 < len(name) <= LONGEST_NAME and "/" not in name) or name in (".", ".."):
        raise UserError(f"{path} names its run {name[:80]!r}; a name has up to {LONGEST_NAME} printable characters")
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
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def recorded_data(run: Path) -> Data | None:
    """Return the data that a run was trained on, or None where the folder does not say."""
    config = run / "config.json"
    return read_config(config)[1].data if config.exists() else None
