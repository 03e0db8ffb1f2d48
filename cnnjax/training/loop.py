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
from cnnjax.errors import Diverged, Interrupted, UserError
from cnnjax.functional import chosen_stages
from cnnjax.optim import ScheduleFn, make_optimizer, make_schedule
from cnnjax.runs.folder import RunFolder
from cnnjax.system import signals
from cnnjax.training import early_stopping, out_of_memory
from cnnjax.training.evaluation import DeviceSplit, evaluate, to_device
from cnnjax.training.feed import Feed, make_feed
from cnnjax.training.metrics_log import MetricsLog
from cnnjax.training.profiling import Profile
from cnnjax.training.saving import Saver, Snapshot
from cnnjax.training.step import (
    Dispatch,
    EpochMetrics,
    TrainState,
    init_state,
    make_dispatch,
    make_train_step,
    step_key,
)

SECONDS_BETWEEN_LOOKS = 0.2
"""How often figures are fetched from the device for the progress bar; it changes no result."""


class Progress(Protocol):
    """What the loop tells of itself while it runs."""

    def start(self, epochs: int, steps_per_epoch: int, batch_size: int, steps_done: int) -> None: ...
    def step(self, epoch: int, step: int, loss: float, top1: float) -> None: ...
    def epoch(self, row: dict[str, Any]) -> None: ...
    def notice(self, text: str) -> None: ...


class Outcome(NamedTuple):
    """How a training ended."""

    epochs: int
    stopped_early: bool
    best_epoch: int
    rows: list[dict[str, Any]]
    """The metrics of each epoch."""
    problem: str | None
    """Why metrics.jsonl does not hold all of them, where it does not."""


def fit(
    experiment: Experiment, dataset: Dataset, folder: RunFolder, progress: Progress,
    poll: Callable[[], None] = signals.poll, profile: Profile | None = None,
) -> Outcome:  # fmt: skip
    """Train from the newest good checkpoint in ``folder``, or from the start, to the end; the best one stays there.

    Contract of the loop, not to be reordered: an epoch's steps; its evaluation; its line of metrics; its checkpoint;
    only then the next epoch. Killed anywhere and called again, it ends with the same bits as if it had never stopped:
    the order of the images is a function of (seed, epoch), all other chance of (seed, step), and everything else that
    training changes lies in the checkpoint. ``poll`` is called between steps and between batches of the evaluation;
    where it raises Interrupted, the position within the epoch is saved. ``profile`` traces some of the steps.

    Raises:
        Diverged: a loss was NaN or infinite; the last good checkpoint stays.
        UserError: the config does not fit the data or the network, the folder's checkpoints are not of this run, one
            could not be saved, or the device's memory does not suffice.
    """
    arch, config = experiment.model, experiment.train
    steps_per_epoch, schedule = plan(experiment, dataset)
    fresh, dispatch = _programs(experiment, dataset, steps_per_epoch, schedule, profile)
    key = step_key(experiment.seed)

    saver = Saver(experiment, dataset, folder)
    (state, standing, rows, seconds), notices = saver.resume(fresh)
    for notice in notices:
        progress.notice(notice)
    log = MetricsLog(folder, rows, progress.notice)
    feed, validation = _to_device(dataset, config.batch_size, steps_per_epoch)
    progress.start(config.epochs, steps_per_epoch, config.batch_size, int(state.step))

    while len(rows) < config.epochs and not early_stopping.should_stop(experiment.early_stopping, standing):
        order = epoch_order(experiment.seed, len(rows), len(dataset.train.labels))
        done = int(state.step) - len(rows) * steps_per_epoch  # more than none where a signal came within the epoch
        epoch = len(rows) + 1
        started = time.perf_counter() - seconds
        watch = _Watch(epoch, schedule, progress, feed.in_flight)
        try:
            for data, picked, start, steps in feed.epoch(order, done, steps_per_epoch):
                state, metrics = dispatch(state, data, picked, key, steps=steps, start=start)
                done += steps
                watch.add(done, metrics)
                poll()
            metrics = jax.device_get(state.metrics)
            seconds = time.perf_counter() - started
            step = epoch * steps_per_epoch
            _check_finite(metrics, epoch, schedule)
            with out_of_memory.in_evaluation(config.eval_batch_size):
                validated = evaluate(
                    arch, dataset.preprocessing, state.variables, validation, config.eval_batch_size, poll
                )
        except Interrupted:
            _check_finite(jax.device_get(state.metrics), epoch, schedule)
            snapshot = Snapshot(state, standing, rows, time.perf_counter() - started)
            _save_within(saver, snapshot, epoch, progress)
            raise
        except out_of_memory.ERRORS as error:
            if not out_of_memory.is_shortage(error):
                raise
            del state
            raise out_of_memory.in_training(
                error, experiment, dataset.preprocessing, feed.some(), progress.notice
            ) from error
        _check_validation(validated["loss"], epoch, step, schedule)
        row = _row(epoch, step, float(schedule(step - 1)), metrics, validated, seconds)
        seconds = 0.0
        rows.append(row)
        standing = early_stopping.update(experiment.early_stopping, standing, step, validated)
        log.add(rows)
        saver.save(Snapshot(state, standing, rows, seconds))
        progress.epoch(row)

    stopped_early = len(rows) < config.epochs
    return Outcome(len(rows), stopped_early, standing.best_step // steps_per_epoch, rows, log.problem)


def _programs(
    experiment: Experiment, dataset: Dataset, steps_per_epoch: int, schedule: ScheduleFn, profile: Profile | None
) -> tuple[TrainState, Dispatch]:
    """Return the state before the first step, and what moves it."""
    arch, config = experiment.model, experiment.train
    optimizer = make_optimizer(experiment.optimizer, schedule)
    train_step = make_train_step(
        arch, optimizer, dataset.preprocessing, config.label_smoothing, experiment.augmentation, remat=config.remat,
        accumulate=config.accumulate,
    )  # fmt: skip
    dispatch = make_dispatch(train_step, config.batch_size, steps_per_epoch)
    if profile is not None:
        dispatch = profile.traced(dispatch)
    return init_state(arch, optimizer, experiment.seed), dispatch


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


def _to_device(dataset: Dataset, batch_size: int, steps_per_epoch: int) -> tuple[Feed, DeviceSplit]:
    with out_of_memory.explained(f"when the images of {dataset.name} went to the device", "give fewer or smaller ones"):
        return make_feed(dataset.train, batch_size, steps_per_epoch), to_device(dataset.validation)


def _save_within(saver: Saver, snapshot: Snapshot, epoch: int, progress: Progress) -> None:
    """Save a position within an epoch, if any step has been made since the last one was saved."""
    step = int(snapshot.state.step)
    if step > checkpoint.newest_step(saver.folder.checkpoints):
        saver.save(snapshot, within_epoch=True)
        progress.notice(f"saved step {step}, within epoch {epoch}")


class _Watch:
    """Follows the device through an epoch without holding it up: shows progress, stops at a loss that is not finite."""

    def __init__(self, epoch: int, schedule: ScheduleFn, progress: Progress, most_in_flight: int):
        self.epoch, self.schedule, self.progress = epoch, schedule, progress
        self.most_in_flight = most_in_flight
        self.in_flight: deque[tuple[int, EpochMetrics]] = deque()
        self.last_look = time.perf_counter()

    def add(self, step: int, metrics: EpochMetrics) -> None:
        """Note a dispatch that reaches ``step`` of the epoch; wait only where too many are queued."""
        self.in_flight.append((step, metrics))
        if len(self.in_flight) > self.most_in_flight:
            jax.block_until_ready(self.in_flight[0])
        newest = None
        while self.in_flight and _is_ready(self.in_flight[0][1].loss):
            newest = self.in_flight.popleft()
        if newest and time.perf_counter() - self.last_look > SECONDS_BETWEEN_LOOKS:
            self.last_look = time.perf_counter()
            step, metrics = newest[0], jax.device_get(newest[1])
            _check_finite(metrics, self.epoch, self.schedule)
            images = int(metrics.images)
            self.progress.step(self.epoch, step, float(metrics.loss) / images, int(metrics.correct) / images)


def _is_ready(array: Any) -> bool:
    return array.is_ready()  # a method of every array of jax's that its type does not declare


def _check_finite(metrics: EpochMetrics, epoch: int, schedule: ScheduleFn) -> None:
    bad_step = int(metrics.bad_step)
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
    epoch: int, step: int, lr: float, metrics: EpochMetrics, validation: dict[str, float], seconds: float
) -> dict[str, Any]:
    images = int(metrics.images)
    return {
        "epoch": epoch,
        "step": step,
        "lr": lr,
        "train_loss": float(metrics.loss) / images,
        "train_top1": int(metrics.correct) / images,
        **{f"validation_{name}": value for name, value in validation.items()},
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 1),
    }
