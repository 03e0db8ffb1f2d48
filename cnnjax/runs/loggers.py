"""Loggers of a run's metrics besides metrics.jsonl, which is always written (`cnnjax.runs.metrics_log`).

A logger receives the rows of metrics.jsonl, each once, after the checkpoint of its epoch is on disk. Its package is
imported only if it is chosen. A logger that fails is reported once and disabled, and the training goes on.
"""

import contextlib
import importlib.util
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from cnnjax.config import Experiment
from cnnjax.errors import UserError, choose
from cnnjax.runs.folder import refuse_links
from cnnjax.system.files import read_json, write_json
from cnnjax.training.hooks import AllHooks, Hook, Plan, Snapshot

SPLITS = ("train", "validation", "raw_validation")
"""Prefixes of names in a row that become groups: ``train_loss`` is shown as ``train/loss``."""


class LoggedRun(NamedTuple):
    """The run that is logged: its folder, name and experiment."""

    folder: Path
    name: str
    experiment: Experiment


class Logger(Protocol):
    """Writes the rows of a run somewhere. Any exception of a method ends the logging, not the training."""

    def open(self, run: LoggedRun, rows: Sequence[Mapping[str, Any]]) -> None:
        """Begin; ``rows`` are those of the epochs done before. Each of their steps must exist once afterwards."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Write the row of an epoch."""

    def close(self) -> None:
        """End; called once, after a successful ``open``."""


class TensorBoard:
    """Writes event files for TensorBoard by tensorboardX.

    At each start the event files are written anew from all rows, so no step is missing or appears twice, no matter
    when the previous process was killed.
    """

    def open(self, run: LoggedRun, rows: Sequence[Mapping[str, Any]]) -> None:
        from tensorboardX import SummaryWriter

        folder = run.folder / "tensorboard"
        refuse_links(folder)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = SummaryWriter(str(folder))
        for row in rows:
            self._add(row)
        self.writer.flush()

    def write(self, row: Mapping[str, Any]) -> None:
        self._add(row)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()

    def _add(self, row: Mapping[str, Any]) -> None:
        for tag, value in tagged(row).items():
            self.writer.add_scalar(tag, value, row["step"])


class WandB:
    """Logs to Weights & Biases, in the project cnnjax, or as the environment variables of wandb say.

    wandb.json in the run folder keeps the id, under which a resumed run continues. W&B reports the first step that it
    lacks, so only rows from there on are sent.
    """

    def open(self, run: LoggedRun, rows: Sequence[Mapping[str, Any]]) -> None:
        import wandb

        path = run.folder / "wandb.json"
        if not path.exists():
            write_json(path, {"id": secrets.token_hex(8)})
        self.run = wandb.init(
            project="cnnjax", name=run.name, id=str(read_json(path)["id"]), dir=str(run.folder), resume="allow",
            config=run.experiment.to_dict(),
        )  # fmt: skip
        for row in rows:
            if row["step"] >= self.run.step:
                self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        self.run.log(tagged(row), step=row["step"])

    def close(self) -> None:
        self.run.finish()


class LoggerEntry(NamedTuple):
    """A logger, and the package that it needs."""

    make: Callable[[], Logger]
    package: str


LOGGERS: Mapping[str, LoggerEntry] = MappingProxyType(
    {"tensorboard": LoggerEntry(TensorBoard, "tensorboardX"), "wandb": LoggerEntry(WandB, "wandb")}
)


def tagged(row: Mapping[str, Any]) -> dict[str, float]:
    """Return a row without its step, with its metrics grouped by split: ``{"train/loss": 0.3, "lr": 0.1}``."""
    groups = {f"{split}_": f"{split}/" for split in SPLITS}
    tags = {}
    for name, value in row.items():
        prefix = next((prefix for prefix in groups if name.startswith(prefix)), "")
        tags[groups.get(prefix, "") + name.removeprefix(prefix)] = value
    del tags["step"]
    return tags


def require_loggers(names: Sequence[str]) -> None:
    """Raise UserError if a logger is unknown or its package is not installed."""
    for name in names:
        choose("logger", name, LOGGERS)
        if importlib.util.find_spec(LOGGERS[name].package) is None:
            raise UserError(
                f"the logger {name} needs the package {LOGGERS[name].package}, which is not installed; run pip install "
                f"cnnjax[{name}], or leave it out of --loggers"
            )


def with_loggers(
    progress: Hook, names: Sequence[str], folder: Path, name: str, experiment: Experiment
) -> Hook:  # fmt: skip
    """Return ``progress`` combined with the loggers of a run."""
    run = LoggedRun(folder, name, experiment)
    guarded = [Guarded(logger, LOGGERS[logger].make(), run, progress.notice) for logger in dict.fromkeys(names)]
    return AllHooks((progress, *guarded)) if guarded else progress


class Guarded(Hook):
    """Passes the rows of a run to a logger until it fails, which is reported once."""

    def __init__(self, name: str, logger: Logger, run: LoggedRun, say: Callable[[str], None]):
        self.name, self.logger, self.run, self.say = name, logger, run, say
        self.is_open = False

    def start(self, plan: Plan) -> None:
        self.is_open = True
        self._attempt(lambda: self.logger.open(self.run, plan.rows))

    def epoch(self, snapshot: Snapshot) -> None:
        self._attempt(lambda: self.logger.write(snapshot.rows[-1]))

    def close(self) -> None:
        self._attempt(self.logger.close)
        self.is_open = False

    def _attempt(self, call: Callable[[], None]) -> None:
        if not self.is_open:
            return
        try:
            call()
        except (Exception, SystemExit) as error:
            self.is_open = False
            with contextlib.suppress(Exception, SystemExit):
                self.logger.close()  # it may hold files
            reason = " ".join(str(error).split())[:200]
            self.say(
                f"notice: the logger {self.name} failed ({type(error).__name__}: {reason}); training continues without "
                "it, and metrics.jsonl has all rows"
            )
