"""What a checkpoint holds of a training, and the way back."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cnnjax import checkpoint
from cnnjax.checkpoint import Checkpoint
from cnnjax.config import Experiment, Train
from cnnjax.data import Dataset
from cnnjax.errors import UserError
from cnnjax.run_folder import RunFolder, metrics_line, saved_rows
from cnnjax.train.early_stopping import Standing
from cnnjax.train.metrics_log import MetricsLog
from cnnjax.train.step import Tally, TrainState

METRICS = "metrics.jsonl"
"""Each checkpoint holds the rows of all epochs before it, so that the run's own file can be made of them again."""


class Position(NamedTuple):
    """Where a training stands."""

    state: TrainState
    standing: Standing
    rows: list[dict[str, Any]]
    """The metrics of the epochs that are done; their number is the number of these epochs."""
    seconds: float
    """What the steps of the epoch that is not done have taken."""


class Past(NamedTuple):
    """What a checkpoint says of its training beside the arrays."""

    standing: Standing
    rows: list[dict[str, Any]]
    tally: Tally
    seconds: float


class Saver:
    """Saves a training's positions, and finds the newest good one."""

    def __init__(self, experiment: Experiment, dataset: Dataset, folder: RunFolder):
        self.experiment, self.dataset, self.folder = experiment, dataset, folder
        self.place = folder.checkpoints.stat()

    def save(self, position: Position, *, within_epoch: bool = False) -> None:
        """Save a position: after an epoch, or within one with the sums over its steps so far.

        Raises:
            UserError: it could not be saved, or the run's folder is no longer there, or no longer this process's.
        """
        state = position.state
        info: dict[str, Any] = {
            "epoch": len(position.rows),
            "model": self.experiment.model.to_dict(),
            "classes": list(self.dataset.classes),
            "preprocessing": self.dataset.preprocessing.to_dict(),
            "data": self.dataset.record(),
            "early_stopping": position.standing.to_dict(),
        }
        if within_epoch:
            tally = jax.device_get(state.tally)
            info["tally"] = {"loss": float(tally.loss), "correct": int(tally.correct), "images": int(tally.images)}
            info["seconds"] = position.seconds
        else:
            info["metrics"] = position.rows[-1]
        items = {"variables": state.variables._asdict(), "training": _training_item(state)}
        files = {METRICS: b"".join(map(metrics_line, position.rows))}
        checkpoint.save(
            self.folder.checkpoints, int(state.step), items, info, files, within_epoch=within_epoch, place=self.place,
            require_lock=self.folder.require_lock,
        )  # fmt: skip
        if not within_epoch:
            self._prune(position.standing)

    def resume(self, fresh: TrainState) -> tuple[Position, list[str]]:
        """Return the newest good checkpoint's position, or that of ``fresh``, and what is to be said of it."""
        found, notices = checkpoint.newest_good(self.folder.checkpoints)
        if found is None:
            return Position(fresh, Standing(), [], 0.0), notices
        past = read_past(found, self.folder, self.dataset, self.experiment.train)
        if past.standing.best_step:
            checkpoint.best(self.folder.checkpoints)  # a run that could not end with its best is told so now
        training = checkpoint.restore(found, "training", _training_item(fresh))
        variables = checkpoint.restore(found, "variables", fresh.variables._asdict())
        _require_step(found, int(training["step"]))
        state = TrainState(training["step"], opt_state=training["opt_state"], tally=past.tally, **variables)
        within = f", at step {found.step}," if "tally" in found.info else ""
        notices.append(f"continuing after epoch {len(past.rows)}{within} from {found.path}")
        self._prune(past.standing)  # which a kill may have kept from being done
        return Position(state, past.standing, past.rows, past.seconds), notices

    def _prune(self, standing: Standing) -> None:
        self.folder.require_lock()
        checkpoint.prune(self.folder.checkpoints, self.experiment.train.keep, standing.best_step)


def read_past(found: Checkpoint, folder: RunFolder, dataset: Dataset, train: Train) -> Past:
    """Read what a checkpoint says of its training, as data that a stranger may have written.

    Raises:
        UserError: it is no checkpoint of a training on these data, or its numbers do not fit together.
    """
    info = found.info
    if not info.get("data") or not {"epoch", "early_stopping"} <= info.keys():
        raise UserError(f"checkpoint {found.path} is not of a training and cannot be gone on from; give another --out")
    held, given = info["data"]["content_hash"], dataset.content_hash
    if held != given:
        raise UserError(
            f"the files of {dataset.name} are not those this run began with (sha256 {given[:12]}, was "
            f"{held[:12]}); give the same files with --data.dir, or another --out"
        )
    steps_per_epoch = len(dataset.train.labels) // train.batch_size
    tally = info.get("tally") or {"loss": 0.0, "correct": 0, "images": 0}
    within, images = found.step - info["epoch"] * steps_per_epoch, tally["images"]
    standing = Standing.from_dict(info["early_stopping"], f"{found.path}: early_stopping")
    fits = 0 <= within <= steps_per_epoch and within * train.batch_size == images and info["epoch"] <= train.epochs
    if not fits or bool(standing.best_step) != bool(info["epoch"]):
        raise UserError(
            f"checkpoint {found.path} is not one of cnnjax: after {info['epoch']} epochs of {steps_per_epoch} steps "
            f"it is at step {found.step} with {images} images of the next epoch, and the best was step "
            f"{standing.best_step}"
        )
    # Versions that kept no rows in checkpoints have them in the run's own file alone.
    own = found.path / METRICS
    rows = saved_rows(own if own.exists() else folder.path / METRICS, info["epoch"])
    sums = Tally(jnp.float32(tally["loss"]), jnp.int32(tally["correct"]), jnp.int32(images), jnp.int32(-1))
    return Past(standing, rows, sums, info.get("seconds", 0.0))


def tidy(folder: RunFolder, train: Train, epochs: int, notice: Callable[[str], None]) -> str | None:
    """Do for a finished run what a kill or a hand may have undone; return why metrics.jsonl could not be written."""
    try:
        found = checkpoint.open_checkpoint(checkpoint.list_paths(folder.checkpoints)[-1])
    except UserError:  # its best parameters are there, and more is not promised
        return None
    if found.info.get("epoch") != epochs or epochs > train.epochs:
        return None
    with contextlib.suppress(OSError):
        checkpoint.prune(folder.checkpoints, train.keep, found.info.get("early_stopping", {}).get("best_step", 0))
    if not (found.path / METRICS).exists():
        return None
    rows = saved_rows(found.path / METRICS, epochs)
    return None if folder.has_metrics(rows) else MetricsLog(folder, rows, notice).problem


def _training_item(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}


def _require_step(found: Checkpoint, step: int) -> None:
    if step != found.step:
        raise UserError(f"checkpoint {found.path} is not one of cnnjax: its arrays are of step {step}")
