"""The fit loop: epochs of train steps, with an evaluation and a checkpoint after each."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from cnnjax import checkpoint
from cnnjax.config import MOST_STEPS, Experiment
from cnnjax.data import Dataset, epoch_order
from cnnjax.errors import Diverged, UserError
from cnnjax.functional import chosen_stages
from cnnjax.optim import ScheduleFn, make_optimizer, make_schedule
from cnnjax.run_folder import RunFolder
from cnnjax.train import early_stopping
from cnnjax.train.early_stopping import Standing
from cnnjax.train.evaluation import evaluate, to_device
from cnnjax.train.profiling import Profile
from cnnjax.train.step import (
    Tally,
    TrainState,
    init_state,
    make_dispatch,
    make_train_step,
    step_key,
    steps_per_dispatch,
)

IN_FLIGHT = 8
"""Dispatches that may be queued on the device before the host waits for the oldest."""
SECONDS_BETWEEN_LOOKS = 0.2
"""How often figures are fetched from the device for the progress bar; it changes no result."""


class Progress(Protocol):
    """What the loop tells of itself while it runs."""

    def start(self, epochs: int, steps_per_epoch: int, batch_size: int, epochs_done: int) -> None: ...
    def step(self, epoch: int, step: int, loss: float, top1: float) -> None: ...
    def epoch(self, row: dict[str, Any]) -> None: ...
    def notice(self, text: str) -> None: ...


class Outcome(NamedTuple):
    """How a training ended."""

    epochs: int
    stopped_early: bool
    best_epoch: int


def fit(
    experiment: Experiment, dataset: Dataset, folder: RunFolder, progress: Progress,
    poll: Callable[[], None] = lambda: None, profile: Profile | None = None,
) -> Outcome:  # fmt: skip
    """Train from the newest good checkpoint in ``folder``, or from the start, to the end; the best one stays there.

    Contract of the loop, not to be reordered: an epoch's steps; its evaluation; its line of metrics; its checkpoint;
    only then the next epoch. Killed anywhere and called again, it ends with the same bits as if it had never stopped:
    the order of the images is a function of (seed, epoch), all other chance of (seed, step), and everything else that
    training changes lies in the checkpoint. ``poll`` is called between steps, so that a caller can interrupt there;
    ``profile`` traces some of them.

    Raises:
        Diverged: a loss was NaN or infinite; the last good checkpoint stays.
        UserError: the config does not fit the data or the network, or the folder's checkpoints are not of this run.
    """
    arch, config = experiment.model, experiment.train
    steps_per_epoch, schedule = plan(experiment, dataset)
    optimizer = make_optimizer(experiment.optimizer, schedule)
    train_step = make_train_step(
        arch, optimizer, dataset.preprocessing, config.label_smoothing, experiment.augmentation, remat=config.remat,
        accumulate=config.accumulate,
    )  # fmt: skip
    dispatch = make_dispatch(train_step, config.batch_size, steps_per_epoch)
    if profile is not None:
        dispatch = profile.traced(dispatch)
    chunk = steps_per_dispatch(jax.default_backend(), steps_per_epoch)
    key = step_key(experiment.seed)

    state, standing = _resume(init_state(arch, optimizer, experiment.seed), dataset, folder, progress)
    epoch = int(state.step) // steps_per_epoch
    folder.trim_metrics(epoch)
    train, validation = to_device(dataset.train), to_device(dataset.validation)
    progress.start(config.epochs, steps_per_epoch, config.batch_size, epoch)

    while epoch < config.epochs and not early_stopping.should_stop(experiment.early_stopping, standing):
        order = jax.device_put(epoch_order(experiment.seed, epoch, len(dataset.train.labels)))
        epoch += 1
        started = time.perf_counter()
        watch = _Watch(epoch, schedule, progress)
        for first in range(0, steps_per_epoch, chunk):
            steps = min(chunk, steps_per_epoch - first)
            state, tally = dispatch(state, train, order, key, steps=steps)
            watch.add(first + steps, tally)
            poll()
        tally = jax.device_get(state.tally)
        seconds = time.perf_counter() - started
        step = epoch * steps_per_epoch
        _check_finite(tally, epoch, schedule)

        found = evaluate(arch, dataset.preprocessing, state.variables, validation, config.eval_batch_size, poll)
        _check_validation(found["loss"], epoch, step, schedule)
        row = _row(epoch, step, float(schedule(step - 1)), tally, found, seconds)
        standing = early_stopping.update(experiment.early_stopping, standing, step, found)
        folder.append_metrics(row)
        _save(folder, state, experiment, dataset, standing, row)
        checkpoint.prune(folder.checkpoints, config.keep, standing.best_step)
        progress.epoch(row)

    return Outcome(
        epochs=epoch,
        stopped_early=epoch < config.epochs,
        best_epoch=standing.best_step // steps_per_epoch,
    )


def plan(experiment: Experiment, dataset: Dataset) -> tuple[int, ScheduleFn]:
    """Return the steps in an epoch and the schedule; refuse a config that does not fit the data or the network."""
    arch, batch_size, count = experiment.model, experiment.train.batch_size, len(dataset.train.labels)
    shape = dataset.train.images.shape[1:]
    if shape != arch.image_shape:
        raise UserError(
            f"the images of {dataset.name} are {'x'.join(map(str, shape))} and the network takes "
            f"{'x'.join(map(str, arch.image_shape))}; set model.input_size and model.channels, or choose other data"
        )
    if len(dataset.classes) != arch.num_classes:
        raise UserError(
            f"{dataset.name} has {len(dataset.classes)} classes and the network {arch.num_classes}; "
            f"set model.num_classes to {len(dataset.classes)}"
        )
    if batch_size > count:
        raise UserError(
            f"train.batch_size is {batch_size} and there are {count} training images; it must be {count} or less"
        )
    if (padding := experiment.augmentation.pad_crop) >= min(shape[:2]):
        raise UserError(
            f"augmentation.pad_crop is {padding} and the images are {shape[1]}x{shape[0]}; it must be "
            f"{min(shape[:2]) - 1} or less, so that each crop shows some of its image"
        )
    chosen_stages(arch, experiment.train.remat)
    steps = count // batch_size
    if steps * experiment.train.epochs > MOST_STEPS:
        raise UserError(
            f"train.epochs is {experiment.train.epochs}; with {steps} steps each, {MOST_STEPS // steps} fit"
        )
    return steps, make_schedule(experiment.schedule, experiment.optimizer.lr, steps, experiment.train.epochs)


def _resume(fresh: TrainState, dataset: Dataset, folder: RunFolder, progress: Progress) -> tuple[TrainState, Standing]:
    """Return the newest good checkpoint's state, or the fresh one where there is none."""
    found, notices = checkpoint.newest_good(folder.checkpoints)
    for notice in notices:
        progress.notice(notice)
    if found is None:
        return fresh, Standing()
    if found.info["data"]["content_hash"] != dataset.content_hash:
        raise UserError(
            f"the files of {dataset.name} are not those this run began with (sha256 {dataset.content_hash[:12]}, was "
            f"{found.info['data']['content_hash'][:12]}); give the same files with --data.dir, or another --out"
        )
    checkpoint.best(folder.checkpoints)  # a run that could not end with its best parameters is told so now
    training = checkpoint.restore(found, "training", _training_item(fresh))
    variables = checkpoint.restore(found, "variables", fresh.variables._asdict())
    state = TrainState(step=training["step"], opt_state=training["opt_state"], tally=fresh.tally, **variables)
    progress.notice(f"continuing after epoch {found.info['epoch']} from {found.path}")
    return state, Standing.from_dict(found.info["early_stopping"])


def _training_item(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}


def _save(
    folder: RunFolder,
    state: TrainState,
    experiment: Experiment,
    dataset: Dataset,
    standing: Standing,
    row: dict[str, Any],
) -> None:
    items = {"variables": state.variables._asdict(), "training": _training_item(state)}
    info = {
        "epoch": row["epoch"],
        "model": experiment.model.to_dict(),
        "classes": list(dataset.classes),
        "preprocessing": dataset.preprocessing.to_dict(),
        "data": dataset.record(),
        "early_stopping": standing.to_dict(),
        "metrics": row,
    }
    checkpoint.save(folder.checkpoints, row["step"], items, info)


class _Watch:
    """Follows the device through an epoch without holding it up: shows progress, stops at a loss that is not finite."""

    def __init__(self, epoch: int, schedule: ScheduleFn, progress: Progress):
        self.epoch, self.schedule, self.progress = epoch, schedule, progress
        self.in_flight: deque[tuple[int, Tally]] = deque()
        self.last_look = time.perf_counter()

    def add(self, step: int, tally: Tally) -> None:
        """Note a dispatch that reaches ``step`` of the epoch; wait only where too many are queued."""
        self.in_flight.append((step, tally))
        if len(self.in_flight) > IN_FLIGHT:
            jax.block_until_ready(self.in_flight[0])
        newest = None
        while self.in_flight and _is_ready(self.in_flight[0][1].loss):
            newest = self.in_flight.popleft()
        if newest and time.perf_counter() - self.last_look > SECONDS_BETWEEN_LOOKS:
            self.last_look = time.perf_counter()
            step, tally = newest[0], jax.device_get(newest[1])
            _check_finite(tally, self.epoch, self.schedule)
            images = int(tally.images)
            self.progress.step(self.epoch, step, float(tally.loss) / images, int(tally.correct) / images)


def _is_ready(array: Any) -> bool:
    return array.is_ready()  # a method of every array of jax's that its type does not declare


def _check_finite(tally: Tally, epoch: int, schedule: ScheduleFn) -> None:
    bad_step = int(tally.bad_step)
    if bad_step >= 0:
        raise _diverged(f"the training loss was not finite at step {bad_step}", epoch, bad_step, schedule)


def _check_validation(loss: float, epoch: int, step: int, schedule: ScheduleFn) -> None:
    if not math.isfinite(loss):
        raise _diverged(f"the validation loss was not finite at step {step}", epoch, step, schedule)


def _diverged(what: str, epoch: int, step: int, schedule: ScheduleFn) -> Diverged:
    kept = f"the checkpoint of epoch {epoch - 1} stays" if epoch > 1 else "no epoch was saved yet"
    return Diverged(
        f"{what} (learning rate {float(schedule(step - 1)):.4g}); {kept}; "
        "try a lower --optimizer.lr, --schedule.name warmup_cosine or --optimizer.clip-norm 1"
    )


def _row(
    epoch: int, step: int, lr: float, tally: Tally, validation: dict[str, float], seconds: float
) -> dict[str, Any]:
    images = int(tally.images)
    return {
        "epoch": epoch,
        "step": step,
        "lr": lr,
        "train_loss": float(tally.loss) / images,
        "train_top1": int(tally.correct) / images,
        **{f"validation_{name}": value for name, value in validation.items()},
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 1),
    }
