"""Save the train state in checkpoints, and restore it.

Items of format 2: ``variables``, which are evaluated and published (the moving averages if the training keeps them),
and ``training``, all other fields of the `TrainState`. `cnnjax.runs.format_1` reads the items of format 1.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from cnnjax import checkpoint
from cnnjax.checkpoint import Checkpoint
from cnnjax.config import Experiment, Train
from cnnjax.data import Dataset
from cnnjax.errors import UserError
from cnnjax.optim import Hyperparameters
from cnnjax.runs import format_1
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.metrics import metrics_line, saved_rows
from cnnjax.runs.metrics_log import MetricsLog
from cnnjax.training.early_stopping import EarlyStoppingState
from cnnjax.training.hooks import Hook, Snapshot
from cnnjax.training.state import TrainState, abstract_state

METRICS = "metrics.jsonl"
"""Metrics file in each checkpoint. It holds all rows so far, so the run's own file can be restored from it."""


class ResumeInfo(NamedTuple):
    """Contents of a training checkpoint other than the arrays."""

    early_stopping: EarlyStoppingState
    rows: list[dict[str, Any]]
    seconds: float
    steps_within: int
    """Completed steps of the unfinished epoch."""


class Saver(Hook):
    """Saves a checkpoint after each epoch, and one within an epoch on an interrupt."""

    def __init__(self, experiment: Experiment, dataset: Dataset, folder: RunFolder, say: Callable[[str], None]):
        self.experiment, self.dataset, self.folder, self.say = experiment, dataset, folder, say
        self.place = folder.checkpoints.stat()

    def epoch(self, snapshot: Snapshot) -> None:
        """Save the position after an epoch.

        Raises:
            UserError: it could not be saved, the run folder is gone, or another process has locked it.
        """
        self._save(snapshot, {"metrics": snapshot.rows[-1]})
        self._prune(snapshot.early_stopping)

    def interrupted(self, snapshot: Snapshot) -> None:
        """Save the position within an epoch, if any step has been trained since the last checkpoint."""
        step = int(snapshot.state.step)
        if step > checkpoint.newest_step(self.folder.checkpoints):
            self._save(snapshot, {"seconds": snapshot.seconds}, within_epoch=True)
            self.say(f"saved step {step}, within epoch {len(snapshot.rows) + 1}")

    def _save(self, snapshot: Snapshot, extra: dict[str, Any], *, within_epoch: bool = False) -> None:
        info: dict[str, Any] = {
            "epoch": len(snapshot.rows),
            **description(self.experiment, self.dataset),
            "early_stopping": snapshot.early_stopping.to_dict(),
            **extra,
        }
        files = {METRICS: b"".join(map(metrics_line, snapshot.rows))}
        checkpoint.save(
            self.folder.checkpoints, int(snapshot.state.step), items(snapshot.state), info, files,
            within_epoch=within_epoch, place=self.place, require_lock=self.folder.require_lock,
        )  # fmt: skip

    def resume(self, hyperparameters: Hyperparameters) -> Snapshot | None:
        """Return the position in the newest undamaged checkpoint, or None if there is no checkpoint."""
        saved, notices = checkpoint.newest_good(self.folder.checkpoints)
        for notice in notices:
            self.say(notice)
        if saved is None:
            return None
        info = read_resume_info(saved, self.folder, self.dataset, self.experiment.train)
        if info.early_stopping.best_step:
            for raw in (False, True):
                checkpoint.best(self.folder.checkpoints, raw=raw)  # fail now, not after training, if it is damaged
        state = read_consistent_state(saved, info, self.experiment, hyperparameters)
        within = f", at step {saved.step}," if info.steps_within else ""
        self.say(f"resuming after epoch {len(info.rows)}{within} from {saved.path}")
        self._prune(info.early_stopping)  # in case a kill prevented it
        return Snapshot(state, info.early_stopping, info.rows, info.seconds)

    def _prune(self, stopping: EarlyStoppingState) -> None:
        self.folder.require_lock()
        steps = stopping.best_step, stopping.raw_best_step
        checkpoint.prune(self.folder.checkpoints, self.experiment.train.keep, *steps)


def description(experiment: Experiment, dataset: Dataset) -> dict[str, Any]:
    """Return a checkpoint's description of its network, which `predictor.describe` reads."""
    return {
        "model": experiment.model.to_dict(),
        "classes": list(dataset.classes),
        "preprocessing": dataset.preprocessing.to_dict(),
        "data": dataset.record(),
    }


def read_state(saved: Checkpoint, experiment: Experiment, hyperparameters: Hyperparameters) -> TrainState:
    """Return the state in a training checkpoint of any format. The values of the hyperparameters do not matter.

    Raises:
        UserError: the checkpoint's arrays do not fit the experiment.
    """
    fresh = abstract_state(experiment, hyperparameters)
    if saved.info["format"] == 1:
        return format_1.restore(saved, fresh, experiment.optimizer)
    return restore(saved, fresh)


def items(state: TrainState) -> dict[str, dict[str, Any]]:
    """Return a state as the items of a checkpoint: each array once, without the fields that are None."""
    fields = {name: value for name, value in state._asdict().items() if value is not None}
    evaluated = state.evaluated._asdict()
    if state.ema is None:  # the trained variables are evaluated
        fields = {name: value for name, value in fields.items() if name not in evaluated}
    else:
        fields["ema"] = {"updates": state.ema.updates}
    return {"variables": evaluated, "training": fields}


def restore(saved: Checkpoint, like: TrainState) -> TrainState:
    """Return the state in a checkpoint of format 2; ``like`` has the same structure, shapes and dtypes.

    Raises:
        UserError: the checkpoint's arrays do not fit the experiment.
    """
    wanted = items(like)
    variables = checkpoint.restore(saved, "variables", wanted["variables"])
    fields = checkpoint.restore(saved, "training", wanted["training"])
    if like.ema is None:
        return like._replace(**fields, **variables)
    return like._replace(**fields | {"ema": like.ema._replace(**variables, updates=fields["ema"]["updates"])})


def read_resume_info(saved: Checkpoint, folder: RunFolder, dataset: Dataset, train: Train) -> ResumeInfo:
    """Read the contents of a training checkpoint other than the arrays, as untrusted data.

    Raises:
        UserError: it is not a training checkpoint for this data, or its numbers are inconsistent.
    """
    info = saved.info
    if not info.get("data") or not {"epoch", "early_stopping"} <= info.keys():
        raise UserError(
            f"checkpoint {saved.path} is not a training checkpoint and cannot be resumed; give another --out"
        )
    recorded, given = info["data"]["content_hash"], dataset.content_hash
    if recorded != given:
        raise UserError(
            f"the files of {dataset.name} differ from those this run started with (sha256 {given[:12]}, was "
            f"{recorded[:12]}); give the same files with --data.dir, or another --out"
        )
    steps_per_epoch = len(dataset.train.labels) // train.batch_size
    within = saved.step - info["epoch"] * steps_per_epoch
    stopping = EarlyStoppingState.from_dict(info["early_stopping"], f"{saved.path}: early_stopping")
    fits = 0 <= within <= steps_per_epoch and info["epoch"] <= train.epochs
    if not fits or bool(stopping.best_step) != bool(info["epoch"]):
        raise UserError(
            f"checkpoint {saved.path} was not written by cnnjax: after {info['epoch']} epochs of {steps_per_epoch} "
            f"steps it is at step {saved.step} and the best step is {stopping.best_step}"
        )
    if info["format"] == 1:  # format 2 stores the sums of the epoch as arrays
        _require_images(saved, format_1.images_within(saved), within * train.batch_size)
    # Old versions did not keep rows in checkpoints, only in the run folder.
    metrics = saved.path / METRICS
    rows = saved_rows(metrics if metrics.exists() else folder.path / METRICS, info["epoch"])
    return ResumeInfo(stopping, rows, info.get("seconds", 0.0), within)


def read_consistent_state(
    saved: Checkpoint, info: ResumeInfo, experiment: Experiment, hyperparameters: Hyperparameters
) -> TrainState:
    """Return the state in a training checkpoint; see `read_state`.

    Raises:
        UserError: its arrays do not fit the experiment, the checkpoint's step or its position within the epoch.
    """
    state = read_state(saved, experiment, hyperparameters)
    if int(state.step) != saved.step:
        raise UserError(f"checkpoint {saved.path} was not written by cnnjax: its arrays have step {int(state.step)}")
    if info.steps_within:
        _require_images(saved, int(state.metrics.images), info.steps_within * experiment.train.batch_size)
    return state


def _require_images(saved: Checkpoint, summed: int, seen: int) -> None:
    if summed != seen:
        raise UserError(
            f"checkpoint {saved.path} was not written by cnnjax: at step {saved.step} it has processed {seen} "
            f"images of the next epoch, but its sums cover {summed}"
        )


def tidy(folder: RunFolder, train: Train, epochs: int, notice: Callable[[str], None]) -> str | None:
    """Prune the checkpoints of a finished run and restore its metrics.jsonl; return why that failed, if it did."""
    try:
        saved = checkpoint.open_checkpoint(checkpoint.list_paths(folder.checkpoints)[-1])
    except UserError:  # a finished run only needs its best checkpoint
        return None
    if saved.info.get("epoch") != epochs or epochs > train.epochs:
        return None
    with contextlib.suppress(OSError):
        stopping = saved.info.get("early_stopping", {})
        steps = stopping.get("best_step", 0), stopping.get("raw_best_step", 0)
        checkpoint.prune(folder.checkpoints, train.keep, *steps)
    if not (saved.path / METRICS).exists():
        return None
    rows = saved_rows(saved.path / METRICS, epochs)
    return None if folder.has_metrics(rows) else MetricsLog(folder, rows, notice).problem
