"""The run folder: experiment, environment, metrics, checkpoints and results.

config.json        the experiment and its name; `scripts/train.py RUN/config.json` reproduces the run
experiment.py      the user's file, if it defines a network, loss or data set; executed only if the user trusts it
continued.json     with --continue-from: the other run, its config and what changed; see `cnnjax.runs.continuation`
files.json         the paths of the training, validation and test images, if they are files, and of the files left out
environment.json   one entry per start: versions, device, commit, lowering choices
metrics.jsonl      one line per epoch
checkpoints/       see `cnnjax.checkpoint`
.lock              held by the process that writes to the folder; see `cnnjax.system.lock`
results.json       the metrics of the best parameters; written last, so it marks the run as finished
tensorboard/       event files, with `--loggers tensorboard`; wandb.json the run's id, with `--loggers wandb`
profile/           the trace of JAX's profiler, with `--profile`
*.png report.html  see `cnnjax.report`
"""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cnnjax import losses, models
from cnnjax.config import Data, Experiment, flatten
from cnnjax.data.division import PARTS
from cnnjax.errors import UserError, quoted
from cnnjax.runs.definitions import BUILT_IN, COPY, Definitions, hint
from cnnjax.runs.environment import DECISIVE
from cnnjax.runs.metrics import has_numbers, metrics_line, read_rows
from cnnjax.runs.naming import LONGEST_NAME, described, differences, not_continuable
from cnnjax.system import formats
from cnnjax.system.files import (
    make_folder,
    open_own,
    open_plain,
    read_bytes,
    read_json,
    require_utf8,
    write_bytes,
    write_json,
)
from cnnjax.system.lock import HELD, locked

FORMAT = 2
LOCK = ".lock"
BEFORE_CONFIG = (LOCK, f"{LOCK}{HELD}", ".config.json.writing")
"""Files that may remain if a run is killed before it has written config.json."""
RESULTS, FIGURES = ("epochs", "best_epoch", "stopped_early", "seconds", "images_per_second"), ("loss", "top1", "images")
"""Required keys of results.json, and of its entry for each split; ``raw`` has such entries for raw parameters."""
PHASE = ("phase", "epochs", "best_epoch", "best_step", "stopped_early", "trained_parameters", "on_embeddings")
"""Required numbers of the record of a phase, besides the figures of each split."""
FROZEN = ("parameters", "statistics", "moments")
"""Required numbers of its entry for what is frozen."""
FILES, MOST_FILES_MIB = "files.json", 256
INITIAL, PHASES = "initial", "phases"
"""Folders of the starting parameters and of the phases of transfer learning."""


def experiment_from_dict(data: Any, definitions: Definitions = BUILT_IN) -> Experiment:
    """Parse the output of `Experiment.to_dict` as data, without executing any code."""
    if not isinstance(data, dict):
        raise UserError(f"the experiment is {quoted(data)}; it must be an object")
    parts: dict[str, Any] = {"model": models.from_dict(data.get("model"), definitions.families)}
    if "loss" in data:
        parts["loss"] = losses.from_dict(data["loss"], definitions.losses)
    return Experiment.from_dict({**data, **parts})


class RunFolder:
    """Reads and writes a run's files."""

    def __init__(self, path: Path, definitions: Definitions = BUILT_IN):
        self.path, self.definitions = path, definitions
        self.checkpoints = path / "checkpoints"
        self.require_lock: Callable[[], None] = _no_lock_required
        """Function that raises LostLock if this process locked the folder but may have lost it to another process."""

    @property
    def finished(self) -> bool:
        return all((self.path / name).exists() for name in ("results.json", "report.html"))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if it is missing, and keep all other processes from writing to it."""
        make_folder(self.path)
        with locked(self.path / LOCK) as self.require_lock:
            try:
                yield
            finally:
                self.require_lock = _no_lock_required

    def check(self, experiment: Experiment) -> None:
        """Raise UserError if the folder holds anything but a run of this experiment. Nothing is written."""
        refuse_links(self.checkpoints, self.path / INITIAL, self.path / PHASES)
        require_utf8(self.path)
        config = self.path / "config.json"
        if config.exists():
            _, recorded = read_config(config, self.definitions)
            if changed := differences(recorded, experiment):
                advice = "" if not_continuable(recorded, experiment) else f", or add --continue-from {self.path}"
                raise UserError(
                    f"{self.path} holds a run with another config: {described(changed)}; choose another folder with "
                    f"--out{advice}"
                )
            return
        if self.path.exists() and any(path.name not in BEFORE_CONFIG for path in self.path.iterdir()):
            raise UserError(
                f"{self.path} is not empty and holds no config.json of a run; choose another folder with --out"
            )

    def start(self, name: str, experiment: Experiment) -> None:
        """Create the folder and its config.json, or check that it holds the same experiment."""
        self.check(experiment)
        make_folder(self.path)
        if experiment.data.dir is not None:  # so that it is found from any working directory
            experiment = experiment.replace(data=experiment.data.replace(dir=str(Path(experiment.data.dir).resolve())))
        config = self.path / "config.json"
        name, recorded = read_config(config, self.definitions) if config.exists() else (name, None)
        if recorded != experiment:  # a new run, or its data has moved
            write_json(config, {**formats.written(FORMAT), "name": name, "experiment": experiment.to_dict()})
        if self.definitions.code is not None and not (self.path / COPY).exists():
            write_bytes(self.path / COPY, self.definitions.code)
        make_folder(self.checkpoints)

    def code_has_changed(self) -> bool:
        """Return whether the code that defines parts of the experiment differs from the copy in the folder."""
        copy = self.path / COPY
        return self.definitions.code is not None and copy.exists() and read_bytes(copy) != self.definitions.code

    def record_files(
        self, names: Mapping[str, Sequence[str]], left_out: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> None:
        """Write the paths of the images of each part, if they are files, and of the damaged and unused files.

        A resumed run keeps its first ones.
        """
        if names and not (self.path / FILES).exists():
            text = json.dumps({part: list(paths) for part, paths in {**names, **left_out}.items()}, indent=0)
            write_bytes(self.path / FILES, text.encode())  # ASCII, since a path need not be UTF-8

    def read_files(self) -> dict[str, list[str]] | None:
        """Return the paths of the images of each part, or None if the run has not recorded any."""
        path = self.path / FILES
        if not path.exists():
            return None
        try:
            names = json.loads(read_bytes(path, MOST_FILES_MIB))
        except (ValueError, RecursionError):
            names = None
        if not isinstance(names, dict) or not names.keys() >= set(PARTS) or not all(map(_is_texts, names.values())):
            raise UserError(f"{path} is damaged: it must hold a list of paths for each of {', '.join(PARTS)}")
        return {part: names[part] for part in PARTS}

    def record_environment(self, entry: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Add an entry for this start; return the changed fields that affect the exact bits of a result.

        Each field comes with its values at the previous start and now. Fields that only one entry has are left out.
        """
        path = self.path / "environment.json"
        entries = read_json(path) if path.exists() else []
        if not isinstance(entries, list) or not all(isinstance(earlier, dict) for earlier in entries):
            raise UserError(f"{path} is damaged: it must hold a list; move it away and run the same command again")
        write_json(path, [*entries, entry])
        return decisive_changes(entries[-1] if entries else {}, entry)

    def read_environment(self) -> dict[str, Any]:
        """Return the entry of the last start."""
        path = self.path / "environment.json"
        entries = read_json(path)
        if not isinstance(entries, list) or not entries or not isinstance(entries[-1], dict):
            raise UserError(f"{path} is damaged: it must hold a list; move it away and run the same command again")
        return entries[-1]

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append the line of one epoch; if that fails, remove the part that was written."""
        self.require_lock()
        with open(self.path / "metrics.jsonl", "ab", buffering=0, opener=open_own) as file:
            size = file.tell()
            try:
                file.write(line := metrics_line(row))
                if file.tell() != size + len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise

    def write_metrics(self, rows: Sequence[dict[str, Any]]) -> None:
        """Replace the file's contents with these rows."""
        self.require_lock()
        write_bytes(self.path / "metrics.jsonl", b"".join(map(metrics_line, rows)))

    def has_metrics(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Return whether metrics.jsonl holds exactly these rows."""
        wanted = b"".join(map(metrics_line, rows))
        try:
            with open_plain(self.path / "metrics.jsonl") as file:
                return file.read(len(wanted) + 1) == wanted
        except (OSError, UserError):
            return False

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the rows up to the first line that is not the next epoch's, since a kill may have truncated it."""
        return read_rows(self.path / "metrics.jsonl")

    def write_results(self, results: dict[str, Any]) -> None:
        self.require_lock()
        write_json(self.path / "results.json", results)

    def read_results(self) -> dict[str, Any]:
        path = self.path / "results.json"
        results = read_json(path)
        valid = has_numbers(results, RESULTS) and all(type(results[name]) is int for name in RESULTS[:2])
        valid = valid and all(has_numbers(results.get(part), FIGURES) for part in PARTS)
        if valid and "raw" in results:
            raw = results["raw"]
            valid = has_numbers(raw, ["best_epoch"]) and all(has_numbers(raw.get(part), FIGURES) for part in PARTS)
        if valid and "phases" in results:
            phases = results["phases"]
            valid = (
                isinstance(phases, list) and all(map(is_phase_record, phases)) and has_numbers(results, ["best_phase"])
            )
        if not valid:
            raise UserError(f"{path} is damaged; delete it, then run the same command to write it again")
        return results


def decisive_changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields of two entries of environment.json that affect the exact bits of a result and differ."""
    old, new = flatten(before), flatten(now)
    decisive = [name for name in new if name in old and (name in DECISIVE or name.startswith("lowering."))]
    return {name: (old[name], new[name]) for name in decisive if old[name] != new[name]}


def refuse_links(*folders: Path) -> None:
    """Raise UserError if one of the folders, in which a run deletes old files, is a symlink."""
    for folder in folders:
        if folder.is_symlink():
            raise UserError(
                f"{folder} is a symlink, and a run deletes old files there; replace it with the folder itself, or make "
                "the whole run folder a symlink"
            )


def is_phase_record(record: object) -> bool:
    """Return whether an untrusted value is the record of a phase; see `cnnjax.runs.phase`."""
    if not isinstance(record, dict) or not has_numbers(record, PHASE) or not has_numbers(record.get("frozen"), FROZEN):
        return False
    texts = (record.get("trains"), record["frozen"].get("sha256_before"), record["frozen"].get("sha256_after"))
    return all(isinstance(text, str) for text in texts) and all(
        has_numbers(record.get(part), FIGURES) for part in PARTS
    )


def _is_texts(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _no_lock_required() -> None:
    """Do nothing, for a folder that is not locked."""


def read_config(path: Path, definitions: Definitions = BUILT_IN) -> tuple[str, Experiment]:
    """Return the name and the experiment in a config.json."""
    data = read_json(path)
    has_format = isinstance(data, dict) and isinstance(data.get("format"), int)
    if has_format:
        formats.check(str(path), data, FORMAT)  # checked first, because a newer format may have other fields
    if not has_format or not isinstance(data.get("name"), str):
        raise UserError(f"{path} is not a run's config.json: it needs 'format', 'name' and 'experiment'")
    name = data["name"]
    if not (name.isprintable() and 0 < len(name) <= LONGEST_NAME and "/" not in name) or name in (".", ".."):
        raise UserError(
            f"{path} has the run name {name[:80]!r}; "
            f"it must be a file name of at most {LONGEST_NAME} printable characters"
        )
    try:
        return data["name"], experiment_from_dict(data.get("experiment"), definitions)
    except UserError as error:
        if (advice := hint(path.parent)) and definitions.code is None:
            raise UserError(f"{path}: {error}{advice}") from error
        raise


def recorded_data(run: Path, definitions: Definitions = BUILT_IN) -> Data | None:
    """Return the data that a run was trained on, or None if the folder has no config.json."""
    config = run / "config.json"
    return read_config(config, definitions)[1].data if config.exists() else None
