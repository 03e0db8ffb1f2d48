"""The training loop: epochs of train steps, each followed by an evaluation. Only hooks write files."""

import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax.config import MOST_STEPS, Experiment
from cnnjax.data import (
    Crops,
    Dataset,
    Loader,
    Preprocessing,
    balanced_order,
    class_weights,
    epoch_order,
    make_loader,
    require_fit,
)  # fmt: skip
from cnnjax.errors import Interrupted, UserError, counted
from cnnjax.functional import Variables, abstract_variables, chosen_stages, require_precision
from cnnjax.ops.dispatch import steps_per_dispatch
from cnnjax.optim import Hyperparameters, make_hyperparameters
from cnnjax.parallel import Placement, current_placement
from cnnjax.partition import split_frozen
from cnnjax.system import signals
from cnnjax.training import early_stopping, out_of_memory, plateau
from cnnjax.training.early_stopping import EarlyStoppingState
from cnnjax.training.epochs import Rate, check_finite, check_validation, epoch_row
from cnnjax.training.evaluation import evaluate
from cnnjax.training.hooks import AllHooks, Hook, Plan, Snapshot
from cnnjax.training.initial import initial_variables
from cnnjax.training.profiling import Profile
from cnnjax.training.program import program_of
from cnnjax.training.state import EpochMetrics, state_of, step_key
from cnnjax.training.step import Dispatch, make_dispatch, make_train_step
from cnnjax.training.turns import Steps, finish

SECONDS_BETWEEN_LOOKS = 0.2
"""Minimum time between fetches of metrics for the progress bar; it does not affect results."""
PROGRAMS_KEPT = 4
"""Compiled dispatches that a process keeps, so that training runs with the same program compile it once."""


class Outcome(NamedTuple):
    """Result of a run."""

    snapshot: Snapshot
    epochs: int
    stopped_early: bool
    best_epoch: int
    raw_best_epoch: int
    """Epoch of the best raw parameters, if the others are moving averages; else 0."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Metrics of each epoch."""
        return self.snapshot.rows


def fit(
    experiment: Experiment, dataset: Dataset, start: Snapshot | None = None, hooks: Sequence[Hook] = (),
    poll: Callable[[], None] = signals.poll, profile: Profile | None = None,
) -> Outcome:  # fmt: skip
    """Run a `training` to its end."""
    return finish(training(experiment, dataset, start, hooks, poll, profile))


def training(
    experiment: Experiment, dataset: Dataset, start: Snapshot | None = None, hooks: Sequence[Hook] = (),
    poll: Callable[[], None] = signals.poll, profile: Profile | None = None,
) -> Steps[Outcome]:  # fmt: skip
    """Train from ``start``, or from the experiment's seed, to the end, pausing after each dispatch.

    Several training runs can take turns. The pauses do not count toward the seconds of an epoch.

    The order is part of the contract: the steps of an epoch, its evaluation, each hook in order, and only then the next
    epoch. A run that is interrupted anywhere and resumed from a snapshot ends bit for bit like an uninterrupted
    one: the order of the images and their random resized crops are functions of (seed, epoch), all other randomness is
    a function of (seed, step), and the snapshot holds everything else that training changes. ``poll`` is called between
    steps and between evaluation batches; if it raises Interrupted, the hooks receive a snapshot within the epoch.
    ``profile`` traces the selected steps.

    Raises:
        Diverged: a loss was NaN or infinite; no hook has seen that epoch.
        UserError: the config does not fit the data or the network, or the device runs out of memory.
    """
    arch, config, all_hooks = experiment.model, experiment.train, AllHooks(hooks)
    steps_per_epoch, hyperparameters = plan(experiment, dataset)
    placement = current_placement()
    dispatch = dispatch_of_training(experiment, dataset, steps_per_epoch, profile)
    key = step_key(experiment.seed)
    if start is None:
        start = first_snapshot(experiment, hyperparameters, initial_variables(experiment, dataset))
    _, stopping, rows, seconds = start
    state, rows = placement.spread(start.state), list(rows)
    train, validation = _loaders(dataset, config.batch_size, steps_per_epoch, placement)

    def figures_of(variables: Variables) -> dict[str, float]:
        return evaluate(arch, dataset.preprocessing, variables, validation, config.eval_batch_size, poll)

    all_hooks.start(Plan(config.epochs, steps_per_epoch, config.batch_size, int(state.step), rows))

    while len(rows) < config.epochs and not early_stopping.should_stop(experiment.early_stopping, stopping):
        of_epoch = plateau.at_epoch(experiment.schedule, hyperparameters, rows)
        rate, values = Rate(experiment.schedule.name, of_epoch), placement.put(of_epoch)
        order = training_order(experiment, dataset.train.labels, len(rows))
        crops = training_crops(experiment, len(rows))
        done = int(state.step) - len(rows) * steps_per_epoch  # above 0 if resumed within the epoch
        epoch = len(rows) + 1
        started = time.perf_counter() - seconds
        watch = _Watch(epoch, rate, all_hooks, train.in_flight, eager=not placement.spans_processes)
        try:
            for data, picked, first, steps, boxes in train.epoch(order, done, steps_per_epoch, crops):
                with placement.active():
                    state, metrics = dispatch(state, data, picked, key, values, steps=steps, start=first, boxes=boxes)
                done += steps
                watch.add(done, metrics)
                poll()
                paused = time.perf_counter()
                yield
                started += time.perf_counter() - paused
            metrics = jax.device_get(state.metrics)
            seconds = time.perf_counter() - started
            step = epoch * steps_per_epoch
            check_finite(metrics, epoch, rate)
            with out_of_memory.in_evaluation(config.eval_batch_size):
                figures = figures_of(state.evaluated)
                raw = None if state.raw is None else figures_of(state.raw)
        except Interrupted:
            check_finite(jax.device_get(state.metrics), epoch, rate)
            all_hooks.interrupted(Snapshot(state, stopping, rows, time.perf_counter() - started))
            raise
        except out_of_memory.ERRORS as error:
            if not out_of_memory.is_shortage(error):
                raise
            del state
            raise out_of_memory.in_training(
                error, experiment, hyperparameters, dataset.preprocessing, train.sample, all_hooks.notice
            ) from error
        check_validation(figures, raw, epoch, step, rate)
        rows = [*rows, epoch_row(epoch, step, rate(step - 1), metrics, figures, raw, seconds)]
        seconds = 0.0
        stopping = early_stopping.update(experiment.early_stopping, stopping, step, figures, raw)
        all_hooks.epoch(Snapshot(state, stopping, rows, seconds))
        if text := plateau.message(experiment.schedule, float(hyperparameters.lr), rows):
            all_hooks.notice(text)

    snapshot = Snapshot(state, stopping, rows, seconds)
    return outcome_of(experiment, snapshot, steps_per_epoch)


def first_snapshot(experiment: Experiment, hyperparameters: Hyperparameters, variables: Variables) -> Snapshot:
    """Return the position before the first step, with these variables."""
    return Snapshot(state_of(experiment, hyperparameters, variables), EarlyStoppingState(), [], 0.0)


def outcome_of(experiment: Experiment, snapshot: Snapshot, steps_per_epoch: int) -> Outcome:
    """Return the result of a training run that ended at ``snapshot``."""
    epochs, stopping = len(snapshot.rows), snapshot.early_stopping
    return Outcome(
        snapshot, epochs, epochs < experiment.train.epochs, stopping.best_step // steps_per_epoch,
        stopping.raw_best_step // steps_per_epoch,
    )  # fmt: skip


def dispatch_of_training(
    experiment: Experiment, dataset: Dataset, steps_per_epoch: int, profile: Profile | None = None
) -> Dispatch:
    """Return the jitted dispatch of a training run, which all runs with the same program share."""
    weights = None
    if experiment.train.balance == "weights":
        weights = tuple(class_weights(dataset.train.labels, len(dataset.classes)).tolist())
    dispatch = shared_dispatch(program_of(experiment), dataset.preprocessing, steps_per_epoch, weights)
    return dispatch if profile is None else profile.traced(dispatch)


@functools.lru_cache(maxsize=PROGRAMS_KEPT)
def shared_dispatch(
    program: Experiment, preprocessing: Preprocessing, steps_per_epoch: int, weights: tuple[float, ...] | None = None
) -> Dispatch:  # fmt: skip
    """Return the jitted dispatch of a program, compiled once and shared by every run with this program.

    ``weights`` are the class weights, if the images are weighted by class.
    """
    given = None if weights is None else np.asarray(weights, np.float32)
    return make_dispatch(make_train_step(program, preprocessing), program.train.batch_size, steps_per_epoch, given)


def training_order(experiment: Experiment, labels: np.ndarray, epoch: int) -> np.ndarray:
    """Return the order int32 [N] of the training images in an epoch, counted from 0."""
    if experiment.train.balance == "sampling":
        return balanced_order(experiment.seed, epoch, labels)
    return epoch_order(experiment.seed, epoch, len(labels))


def training_crops(experiment: Experiment, epoch: int) -> Crops | None:
    """Return the random resized crops of an epoch, counted from 0, or None if the images are not cropped so."""
    area = experiment.augmentation.crop_area
    return None if area is None else Crops(experiment.seed, epoch, area)


def plan(experiment: Experiment, dataset: Dataset) -> tuple[int, Hyperparameters]:
    """Return the steps per epoch and the hyperparameters; raise UserError if the config does not fit."""
    arch, batch_size, count = experiment.model, experiment.train.batch_size, len(dataset.train.labels)
    shape = dataset.train.image_shape
    if shape != arch.image_shape:
        raise UserError(
            f"the images of {dataset.name} are {'x'.join(map(str, shape))} and the network expects "
            f"{'x'.join(map(str, arch.image_shape))}; set model.input_size and model.channels, or choose other data"
        )
    if len(dataset.classes) != arch.num_classes:
        raise UserError(
            f"{dataset.name} has {counted(len(dataset.classes), 'class')} and the network has {arch.num_classes}; "
            f"set model.num_classes to {len(dataset.classes)}"
        )
    if batch_size > count:
        raise UserError(
            f"train.batch_size is {batch_size} and there are {count} training images; it must be {count} or less"
        )
    require_fit(experiment.augmentation, shape, batch_size)
    require_precision(arch)
    chosen_stages(arch, experiment.train.remat)
    split_frozen(abstract_variables(arch).params, experiment.train.freeze)
    steps = count // batch_size
    if steps * experiment.train.epochs > MOST_STEPS:
        raise UserError(
            f"train.epochs is {experiment.train.epochs}; with {steps} steps per epoch, it must be at most "
            f"{MOST_STEPS // steps}"
        )
    return steps, make_hyperparameters(experiment, steps)


def _loaders(
    dataset: Dataset, batch_size: int, steps_per_epoch: int, placement: Placement
) -> tuple[Loader, Loader]:  # fmt: skip
    """Return the loaders of the training and the validation images."""
    steps = steps_per_dispatch(jax.default_backend(), steps_per_epoch)
    with out_of_memory.explained(f"copying the images of {dataset.name} to the device", "use fewer or smaller images"):
        return (
            make_loader(dataset.train, batch_size, steps, placement),
            make_loader(dataset.validation, batch_size, steps, placement),
        )


class _Watch:
    """Follows an epoch on the device without blocking it: reports progress and stops at a non-finite loss.

    An eager one looks at a dispatch as soon as it is done. The processes of a training on several hosts must stop after
    the same dispatch, so theirs looks at each one when ``most_in_flight`` later ones are queued.
    """

    def __init__(self, epoch: int, rate: Rate, hook: Hook, most_in_flight: int, *, eager: bool = True):
        self.epoch, self.rate, self.hook = epoch, rate, hook
        self.most_in_flight, self.eager = most_in_flight, eager
        self.in_flight: deque[tuple[int, EpochMetrics]] = deque()
        self.last_look = time.perf_counter()

    def add(self, step: int, metrics: EpochMetrics) -> None:
        """Record a dispatch that reaches ``step`` of the epoch; wait only if too many are queued."""
        self.in_flight.append((step, metrics))
        if len(self.in_flight) > self.most_in_flight:
            jax.block_until_ready(self.in_flight[0])
        newest = None
        if not self.eager:
            if len(self.in_flight) > self.most_in_flight:
                newest = self.in_flight.popleft()
                check_finite(jax.device_get(newest[1]), self.epoch, self.rate)
        else:
            while self.in_flight and _is_ready(self.in_flight[0][1].loss):
                newest = self.in_flight.popleft()
        if newest and time.perf_counter() - self.last_look > SECONDS_BETWEEN_LOOKS:
            self.last_look = time.perf_counter()
            step, metrics = newest[0], jax.device_get(newest[1])
            check_finite(metrics, self.epoch, self.rate)
            images = int(metrics.images)
            self.hook.step(self.epoch, step, float(metrics.loss) / images, int(metrics.correct) / images)


def _is_ready(array: Any) -> bool:
    return array.is_ready()  # every JAX array has this method, but its type does not declare it
