"""What a checkpoint holds of a training, and the way back."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cnnjax import checkpoint
from cnnjax.checkpoint import Checkpoint
from cnnjax.config import Experiment
from cnnjax.data import Dataset
from cnnjax.errors import UserError
from cnnjax.run_folder import RunFolder, metrics_line, read_rows
from cnnjax.train.early_stopping import Standing
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

    def resume(self, fresh: TrainState) -> tuple[Position, list[str]]:
        """Return the newest good checkpoint's position, or that of ``fresh``, and what is to be said of it."""
        found, notices = checkpoint.newest_good(self.folder.checkpoints)
        if found is None:
            return Position(fresh, Standing(), [], 0.0), notices
        held, given = found.info["data"]["content_hash"], self.dataset.content_hash
        if held != given:
            raise UserError(
                f"the files of {self.dataset.name} are not those this run began with (sha256 {given[:12]}, was "
                f"{held[:12]}); give the same files with --data.dir, or another --out"
            )
        standing = Standing.from_dict(found.info["early_stopping"])
        if standing.best_step:
            checkpoint.best(self.folder.checkpoints)  # a run that could not end with its best is told so now
        rows = self._rows(found)
        training = checkpoint.restore(found, "training", _training_item(fresh))
        variables = checkpoint.restore(found, "variables", fresh.variables._asdict())
        state = TrainState(training["step"], opt_state=training["opt_state"], tally=_tally(found, fresh), **variables)
        within = f", at step {found.step}," if "tally" in found.info else ""
        notices.append(f"continuing after epoch {len(rows)}{within} from {found.path}")
        return Position(state, standing, rows, found.info.get("seconds", 0.0)), notices

    def _rows(self, found: Checkpoint) -> list[dict[str, Any]]:
        most = self.experiment.train.epochs
        if (found.path / METRICS).exists():
            return read_rows(found.path / METRICS, most)
        # Saved by a version that kept no rows in checkpoints.
        return self.folder.saved_metrics(min(most, found.info["epoch"]))


def _training_item(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}


def _tally(found: Checkpoint, fresh: TrainState) -> Tally:
    """Return the sums over the steps of an epoch that was interrupted; after a whole one they begin anew."""
    held = found.info.get("tally")
    if held is None:
        return fresh.tally
    return Tally(jnp.float32(held["loss"]), jnp.int32(held["correct"]), jnp.int32(held["images"]), jnp.int32(-1))
