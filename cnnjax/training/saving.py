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
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.metrics import metrics_line, saved_rows
from cnnjax.training.early_stopping import EarlyStoppingState
from cnnjax.training.metrics_log import MetricsLog
from cnnjax.training.step import EpochMetrics, TrainState

METRICS = "metrics.jsonl"
"""Each checkpoint holds the rows of all epochs before it, so that the run's own file can be made of them again."""


class Snapshot(NamedTuple):
    """Where a training stands."""

    state: TrainState
    standing: EarlyStoppingState
    rows: list[dict[str, Any]]
    """The metrics of the epochs that are done; their number is the number of these epochs."""
    seconds: float
    """What the steps of the epoch that is not done have taken."""


class ResumeInfo(NamedTuple):
    """What a checkpoint says of its training beside the arrays."""

    standing: EarlyStoppingState
    rows: list[dict[str, Any]]
    metrics: EpochMetrics
    seconds: float


class Saver:
    """Saves a training's positions, and finds the newest good one."""

    def __init__(self, experiment: Experiment, dataset: Dataset, folder: RunFolder):
        self.experiment, self.dataset, self.folder = experiment, dataset, folder
        self.place = folder.checkpoints.stat()

    def save(self, snapshot: Snapshot, *, within_epoch: bool = False) -> None:
        """Save a position: after an epoch, or within one with the sums over its steps so far.

        Raises:
            UserError: it could not be saved, or the run's folder is no longer there, or no longer this process's.
        """
        state = snapshot.state
        info: dict[str, Any] = {
            "epoch": len(snapshot.rows),
            "model": self.experiment.model.to_dict(),
            "classes": list(self.dataset.classes),
            "preprocessing": self.dataset.preprocessing.to_dict(),
            "data": self.dataset.record(),
            "early_stopping": snapshot.standing.to_dict(),
        }
        if within_epoch:
            metrics = jax.device_get(state.metrics)
            info["tally"] = {
                "loss": float(metrics.loss),
                "correct": int(metrics.correct),
                "images": int(metrics.images),
            }
            info["seconds"] = snapshot.seconds
        else:
            info["metrics"] = snapshot.rows[-1]
        items = {"variables": state.variables._asdict(), "training": _training_item(state)}
        files = {METRICS: b"".join(map(metrics_line, snapshot.rows))}
        checkpoint.save(
            self.folder.checkpoints, int(state.step), items, info, files, within_epoch=within_epoch, place=self.place,
            require_lock=self.folder.require_lock,
        )  # fmt: skip
        if not within_epoch:
            self._prune(snapshot.standing)

    def resume(self, fresh: TrainState) -> tuple[Snapshot, list[str]]:
        """Return the newest good checkpoint's position, or that of ``fresh``, and what is to be said of it."""
        saved, notices = checkpoint.newest_good(self.folder.checkpoints)
        if saved is None:
            return Snapshot(fresh, EarlyStoppingState(), [], 0.0), notices
        past = read_resume_info(saved, self.folder, self.dataset, self.experiment.train)
        if past.standing.best_step:
            checkpoint.best(self.folder.checkpoints)  # a run that could not end with its best is told so now
        training = checkpoint.restore(saved, "training", _training_item(fresh))
        variables = checkpoint.restore(saved, "variables", fresh.variables._asdict())
        _require_step(saved, int(training["step"]))
        state = TrainState(training["step"], opt_state=training["opt_state"], metrics=past.metrics, **variables)
        within = f", at step {saved.step}," if "tally" in saved.info else ""
        notices.append(f"continuing after epoch {len(past.rows)}{within} from {saved.path}")
        self._prune(past.standing)  # which a kill may have kept from being done
        return Snapshot(state, past.standing, past.rows, past.seconds), notices

    def _prune(self, standing: EarlyStoppingState) -> None:
        self.folder.require_lock()
        checkpoint.prune(self.folder.checkpoints, self.experiment.train.keep, standing.best_step)


def read_resume_info(saved: Checkpoint, folder: RunFolder, dataset: Dataset, train: Train) -> ResumeInfo:
    """Read what a checkpoint says of its training, as data that a stranger may have written.

    Raises:
        UserError: it is no checkpoint of a training on these data, or its numbers do not fit together.
    """
    info = saved.info
    if not info.get("data") or not {"epoch", "early_stopping"} <= info.keys():
        raise UserError(f"checkpoint {saved.path} is not of a training and cannot be gone on from; give another --out")
    held, given = info["data"]["content_hash"], dataset.content_hash
    if held != given:
        raise UserError(
            f"the files of {dataset.name} are not those this run began with (sha256 {given[:12]}, was "
            f"{held[:12]}); give the same files with --data.dir, or another --out"
        )
    steps_per_epoch = len(dataset.train.labels) // train.batch_size
    metrics = info.get("tally") or {"loss": 0.0, "correct": 0, "images": 0}
    within, images = saved.step - info["epoch"] * steps_per_epoch, metrics["images"]
    standing = EarlyStoppingState.from_dict(info["early_stopping"], f"{saved.path}: early_stopping")
    fits = 0 <= within <= steps_per_epoch and within * train.batch_size == images and info["epoch"] <= train.epochs
    if not fits or bool(standing.best_step) != bool(info["epoch"]):
        raise UserError(
            f"checkpoint {saved.path} is not one of cnnjax: after {info['epoch']} epochs of {steps_per_epoch} steps "
            f"it is at step {saved.step} with {images} images of the next epoch, and the best was step "
            f"{standing.best_step}"
        )
    # Versions that kept no rows in checkpoints have them in the run's own file alone.
    own = saved.path / METRICS
    rows = saved_rows(own if own.exists() else folder.path / METRICS, info["epoch"])
    sums = EpochMetrics(jnp.float32(metrics["loss"]), jnp.int32(metrics["correct"]), jnp.int32(images), jnp.int32(-1))
    return ResumeInfo(standing, rows, sums, info.get("seconds", 0.0))


def tidy(folder: RunFolder, train: Train, epochs: int, notice: Callable[[str], None]) -> str | None:
    """Do for a finished run what a kill or a hand may have undone; return why metrics.jsonl could not be written."""
    try:
        saved = checkpoint.open_checkpoint(checkpoint.list_paths(folder.checkpoints)[-1])
    except UserError:  # its best parameters are there, and more is not promised
        return None
    if saved.info.get("epoch") != epochs or epochs > train.epochs:
        return None
    with contextlib.suppress(OSError):
        checkpoint.prune(folder.checkpoints, train.keep, saved.info.get("early_stopping", {}).get("best_step", 0))
    if not (saved.path / METRICS).exists():
        return None
    rows = saved_rows(saved.path / METRICS, epochs)
    return None if folder.has_metrics(rows) else MetricsLog(folder, rows, notice).problem


def _training_item(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}


def _require_step(saved: Checkpoint, step: int) -> None:
    if step != saved.step:
        raise UserError(f"checkpoint {saved.path} is not one of cnnjax: its arrays are of step {step}")
