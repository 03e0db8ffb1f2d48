"""Start a run from the last state of another run (`Experiment.continue_from`).

The other run's last completed epoch and its best one are copied to the new run's checkpoints, with parameters,
optimizer state, counters and metrics. The new run then resumes from them as from its own, so with the same config and
more epochs it ends with the same bits as one long run, and it no longer needs the other folder. The schedule is that of
the new config at the step that was reached.

continued.json    the other run, its config, the epoch that was reached, and the changed options; written last
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from cnnjax import checkpoint
from cnnjax.checkpoint import Checkpoint, Damaged
from cnnjax.config import Experiment
from cnnjax.data import Dataset, Preprocessing
from cnnjax.errors import UserError, quoted
from cnnjax.runs import predictor
from cnnjax.runs.folder import RunFolder, read_config
from cnnjax.runs.naming import CONTINUED_WITH, described, differences, not_continuable
from cnnjax.runs.saving import ResumeInfo, Saver, read_consistent_state, read_resume_info
from cnnjax.system.files import write_json
from cnnjax.training import early_stopping
from cnnjax.training.hooks import Snapshot
from cnnjax.training.loop import plan
from cnnjax.training.state import TrainState, abstract_state

RECORD = "continued.json"


class Source(NamedTuple):
    """The run that another one continues: its folder, name and experiment."""

    folder: RunFolder
    name: str
    experiment: Experiment


class Continuation(NamedTuple):
    """The checkpoints to copy, oldest first; the last one is that of the last completed epoch."""

    source: Source
    checkpoints: tuple[Checkpoint, ...]


def open_source(experiment: Experiment, folder: RunFolder) -> Source | None:
    """Return the run that this one continues, or None if it continues none or has copied its checkpoints already.

    Raises:
        UserError: there is no such run, or its state does not fit the experiment.
    """
    if experiment.continue_from is None or (folder.path / RECORD).exists():
        return None
    path = Path(experiment.continue_from)
    if not (path / "config.json").is_file() or not (path / "checkpoints").is_dir():
        raise UserError(f"--continue-from is {path}, which holds no run; give the folder of a run, such as runs/NAME")
    if path.resolve() == folder.path.resolve():
        raise UserError(f"--continue-from is the run folder itself, {path}; choose another folder with --out")
    name, recorded = read_config(path / "config.json", folder.definitions)
    if experiment.phases or recorded.phases:
        raise UserError(f"{path} cannot be continued with phases; start from its parameters with --init run:{path}")
    if changed := not_continuable(recorded, experiment):
        option, (old, new) = next(iter(changed.items()))
        raise UserError(
            f"{path} has {option} {quoted(old)} and this run has {quoted(new)}; a continued run keeps "
            f"{', '.join(CONTINUED_WITH)}, and has averages (train.ema_decay) or none, as before; leave {option} "
            f"unchanged, or start from the parameters alone with --init run:{path}"
        )
    return Source(RunFolder(path, folder.definitions), name, recorded)


def recorded_preprocessing(experiment: Experiment, folder: RunFolder, source: Source | None) -> Preprocessing | None:
    """Return the preprocessing of a run that began with ``init``, from its newest checkpoint; None: that of the data.

    Raises:
        UserError: no checkpoint can be read.
    """
    if experiment.init is None:
        return None
    saved = _newest_epoch(folder if source is None else source.folder)
    return predictor.describe(saved, folder.definitions.families).preprocessing


def read_continuation(source: Source, experiment: Experiment, dataset: Dataset) -> Continuation:
    """Return the checkpoints to copy.

    Raises:
        UserError: they are missing or damaged or belong to other data, or no epoch is left to train.
    """
    saved = _newest_epoch(source.folder)
    info = _resume_info(saved, source, dataset)
    path, epochs, config = source.folder.path, len(info.rows), experiment.train.epochs
    if config <= epochs:
        raise UserError(f"{path} has trained {epochs} epochs and train.epochs is {config}; give {epochs + 1} or more")
    if early_stopping.should_stop(experiment.early_stopping, info.early_stopping):
        raise UserError(
            f"{path} stopped after {info.early_stopping.stale_epochs} epochs without improvement and "
            f"early_stopping.patience is {experiment.early_stopping.patience}; increase it"
        )
    best = [source.folder.checkpoints / f"step-{step:08d}" for step in sorted(info.early_stopping.best_steps)]
    return Continuation(source, (*(checkpoint.open_checkpoint(path) for path in best if path != saved.path), saved))


def copy_checkpoints(
    continuation: Continuation, experiment: Experiment, dataset: Dataset, folder: RunFolder,
    notice: Callable[[str], None],
) -> None:  # fmt: skip
    """Write the checkpoints to the new run's folder, then its `RECORD`. After a kill, all of it is done again.

    Raises:
        UserError: a state does not fit the experiment, or a file could not be written.
    """
    source, checkpoints = continuation
    _, hyperparameters = plan(source.experiment, dataset)
    like = abstract_state(experiment, plan(experiment, dataset)[1])
    saver = Saver(experiment, dataset, folder, notice)
    for saved in checkpoints:
        info = _resume_info(saved, source, dataset)
        state = read_consistent_state(saved, info, source.experiment, hyperparameters)
        saver.epoch(Snapshot(fitted(state, like, source), info.early_stopping, info.rows, 0.0))
    changed = differences(source.experiment, experiment)
    changed.pop("continue_from", None)
    record = {
        "run": str(source.folder.path),
        "name": source.name,
        "epoch": checkpoints[-1].info["epoch"],
        "step": checkpoints[-1].step,
        "changed": {option: {"from": old, "to": new} for option, (old, new) in changed.items()},
        "experiment": source.experiment.to_dict(),
    }
    folder.require_lock()
    write_json(folder.path / RECORD, record)
    changes = described(changed) or "no option was changed"
    notice(f"continuing {source.folder.path} after epoch {record['epoch']}: {changes}")


def fitted(state: TrainState, like: TrainState, source: Source) -> TrainState:
    """Return a state with the structure of ``like``, which has the same arrays in the same order.

    Options such as ``optimizer.clip_norm`` change the structure of the optimizer state, but not its arrays.
    """
    arrays, wanted = jax.tree.leaves(state), jax.tree.leaves(like)
    if [(a.shape, a.dtype) for a in arrays] != [(w.shape, w.dtype) for w in wanted]:
        raise UserError(
            f"the state of {source.folder.path} and of this run have different arrays; leave optimizer, schedule and "
            f"train unchanged, or start from the parameters alone with --init run:{source.folder.path}"
        )
    fits: TrainState = jax.tree.unflatten(jax.tree.structure(like), arrays)
    return fits


def _resume_info(saved: Checkpoint, source: Source, dataset: Dataset) -> ResumeInfo:
    return read_resume_info(saved, source.folder, dataset, source.experiment.train)


def _newest_epoch(folder: RunFolder) -> Checkpoint:
    """Return the newest undamaged checkpoint of a completed epoch. Nothing is renamed."""
    problem = UserError(f"{folder.path} has saved no epoch; train it for at least one epoch first")
    for path in reversed(checkpoint.list_paths(folder.checkpoints)):
        if not path.name.startswith("step"):
            continue
        try:
            return checkpoint.open_checkpoint(path)
        except Damaged as error:
            problem = error
    raise problem
