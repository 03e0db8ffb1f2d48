"""Training runs with one program, stacked along a leading axis: one device call trains a step of all of them.

The members share the images on the device. Each has its own order of images, keys, hyperparameters and early stopping.
If all have the same seed and begin at the same step, their orders and keys are equal, and each batch is made once.
A member that has ended is masked, and leaves the stack at the next repacking, when half of the stack has ended.
"""

import functools
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.config import Experiment
from cnnjax.data import Crops, Dataset, Preprocessing, make_loader
from cnnjax.errors import CnnjaxError, Interrupted
from cnnjax.functional import Variables
from cnnjax.ops.dispatch import steps_per_dispatch
from cnnjax.optim import Hyperparameters
from cnnjax.parallel import current_placement
from cnnjax.system import signals
from cnnjax.training import early_stopping, plateau
from cnnjax.training.early_stopping import EarlyStoppingState
from cnnjax.training.epochs import Rate, check_finite, check_validation, epoch_row
from cnnjax.training.evaluation import evaluate_members
from cnnjax.training.hooks import AllHooks, Hook, Plan, Snapshot
from cnnjax.training.initial import initial_variables
from cnnjax.training.loop import Outcome, outcome_of, plan, training_crops, training_order
from cnnjax.training.program import program_of
from cnnjax.training.state import EpochMetrics, TrainState, state_of, step_key
from cnnjax.training.step import Dispatch, make_stacked_dispatch, make_train_step

K = TypeVar("K", bound=Hashable)


class StackMember(NamedTuple):
    """One training run of a stack: its experiment, its start (None: initialized from its seed), and its hooks."""

    experiment: Experiment
    start: Snapshot | None
    hooks: Sequence[Hook]


class _Live(Generic[K]):
    """What the host keeps of a member between epochs."""

    def __init__(self, name: K, member: StackMember, dataset: Dataset):
        self.name, self.experiment, self.hook = name, member.experiment, AllHooks(member.hooks)
        self.steps_per_epoch, self.first_hyperparameters = plan(member.experiment, dataset)
        self.snapshot = member.start or Snapshot(
            state_of(member.experiment, self.first_hyperparameters, initial_variables(member.experiment, dataset)),
            EarlyStoppingState(), [], 0.0,
        )  # fmt: skip
        self.seconds = self.snapshot.seconds
        size, done = self.experiment.train, int(self.snapshot.state.step)
        self.hook.start(Plan(size.epochs, self.steps_per_epoch, size.batch_size, done, self.snapshot.rows))

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Hyperparameters of the current epoch."""
        return plateau.at_epoch(self.experiment.schedule, self.first_hyperparameters, self.snapshot.rows)

    @property
    def rate(self) -> Rate:
        return Rate(self.experiment.schedule.name, self.hyperparameters)

    @property
    def within(self) -> int:
        """Steps of the current epoch that have been trained."""
        return int(self.snapshot.state.step) - len(self.snapshot.rows) * self.steps_per_epoch

    @property
    def finished(self) -> bool:
        """Whether the member has reached its last epoch or stopped early."""
        _, stopping, rows, _ = self.snapshot
        stopped = early_stopping.should_stop(self.experiment.early_stopping, stopping)
        return len(rows) >= self.experiment.train.epochs or stopped

    def order(self, labels: np.ndarray) -> np.ndarray:
        """Return the order of the images in the current epoch."""
        return training_order(self.experiment, labels, len(self.snapshot.rows))

    def crops(self) -> Crops | None:
        """Return the random resized crops of the current epoch, or None."""
        return training_crops(self.experiment, len(self.snapshot.rows))

    def check(self, metrics: EpochMetrics) -> None:
        """Raise Diverged if a loss of the current epoch was not finite."""
        check_finite(metrics, len(self.snapshot.rows) + 1, self.rate)

    def end_epoch(
        self, state: TrainState, metrics: EpochMetrics, figures: dict[str, float], raw: dict[str, float] | None
    ) -> None:
        """Record an epoch and call the hooks; raise what they raise, or Diverged."""
        _, stopping, rows, _ = self.snapshot
        epoch = len(rows) + 1
        step = epoch * self.steps_per_epoch
        self.check(metrics)
        check_validation(figures, raw, epoch, step, self.rate)
        rows = [*rows, epoch_row(epoch, step, self.rate(step - 1), metrics, figures, raw, self.seconds)]
        stopping = early_stopping.update(self.experiment.early_stopping, stopping, step, figures, raw)
        self.snapshot, self.seconds = Snapshot(state, stopping, rows, 0.0), 0.0
        self.hook.epoch(self.snapshot)
        if text := plateau.message(self.experiment.schedule, float(self.first_hyperparameters.lr), rows):
            self.hook.notice(text)

    def interrupted(self, state: TrainState, metrics: EpochMetrics) -> None:
        """Pass the position within the epoch to the hooks; an error is reported, so that the others are saved too."""
        try:
            self.check(metrics)
            self.hook.interrupted(self.snapshot._replace(state=state, seconds=self.seconds))
        except CnnjaxError as error:
            self.hook.notice(str(error))

    def outcome(self) -> Outcome:
        """Return the result of a finished member."""
        return outcome_of(self.experiment, self.snapshot, self.steps_per_epoch)


def fit_stacked(
    members: Sequence[tuple[K, StackMember]], dataset: Dataset, poll: Callable[[], None] = signals.poll
) -> Iterator[tuple[K, Outcome | Exception]]:
    """Train the members side by side; yield each name with its outcome or its error, as it ends.

    The members share one program (see `program_of`), the same data and the same position within their epochs. The
    seconds of an epoch are shared evenly by the members that trained it.

    Raises:
        Interrupted: ``poll`` raised it between two calls; the hooks of all members received their positions.
    """
    live = [_Live(name, member, dataset) for name, member in members]
    yield from ((member.name, member.outcome()) for member in live if member.finished)
    live = [member for member in live if not member.finished]
    if not live:
        return
    first = live[0]
    train = _Training(first, dataset, share_batches(live))
    packed = list(live)
    states = train.placement.spread(stack([member.snapshot.state for member in packed]))

    def figures_of(variables: Variables) -> list[dict[str, float]]:
        size = first.experiment.train.eval_batch_size
        return evaluate_members(first.experiment.model, dataset.preprocessing, variables, train.validation, size, poll)

    while live:
        if len(live) <= len(packed) // 2:
            kept = np.array([packed.index(member) for member in live])
            states, packed = jax.tree.map(lambda leaf, kept=kept: leaf[kept], states), list(live)
        active = np.array([member in live for member in packed])
        started = time.perf_counter()
        try:
            for trained in train.epoch(states, packed, active):
                states = trained
                poll()
            metrics = jax.device_get(states.metrics)
            _share(live, time.perf_counter() - started)
            figures = figures_of(states.evaluated)
            raw = None if states.raw is None else figures_of(states.raw)
        except Interrupted:
            _share(live, time.perf_counter() - started)
            metrics = jax.device_get(states.metrics)
            for member in live:
                number = packed.index(member)
                member.interrupted(take(states, number), _one(metrics, number))
            raise
        for member in list(live):
            number = packed.index(member)
            try:
                member.end_epoch(
                    take(states, number), _one(metrics, number), figures[number], None if raw is None else raw[number]
                )
            except Exception as error:
                live.remove(member)
                yield member.name, error
                continue
            if member.finished:
                live.remove(member)
                yield member.name, member.outcome()


class _Training:
    """The compiled step and the loaders of a stack."""

    def __init__(self, first: "_Live[Any]", dataset: Dataset, shares_batches: bool):
        config, placement = first.experiment.train, current_placement()
        self.labels, self.steps_per_epoch = dataset.train.labels, first.steps_per_epoch
        steps = steps_per_dispatch(jax.default_backend(), self.steps_per_epoch)
        self.steps, self.placement = steps, placement
        self.train = make_loader(dataset.train, config.batch_size, steps, placement)
        self.validation = make_loader(dataset.validation, config.batch_size, steps, placement)
        self.images = self.train.sample(len(self.labels))
        self.source = dataset.train
        self.dispatch = shared_stacked_dispatch(
            program_of(first.experiment), dataset.preprocessing, self.steps_per_epoch, shares_batches
        )

    def epoch(self, states: TrainState, packed: "Sequence[_Live[Any]]", active: np.ndarray) -> Iterator[TrainState]:
        """Train the rest of an epoch; yield the states after each device call."""
        orders = np.stack([member.order(self.labels) for member in packed])
        crops = [member.crops() for member in packed]
        boxes = [crop.boxes(self.source, order) for crop, order in zip(crops, orders, strict=True) if crop is not None]
        placed = self.placement.put((orders, np.stack(boxes) if boxes else None, active))
        keys = jnp.stack([step_key(member.experiment.seed) for member in packed])
        values = self.placement.put(stack([member.hyperparameters for member in packed]))
        done = next(member.within for member, is_active in zip(packed, active, strict=True) if is_active)
        in_flight: list[EpochMetrics] = []
        for start in range(done, self.steps_per_epoch, self.steps):
            steps = min(self.steps, self.steps_per_epoch - start)
            order, box, mask = placed
            with self.placement.active():
                states, metrics = self.dispatch(states, self.images, order, keys, values, mask, steps=steps, boxes=box)
            in_flight.append(metrics)
            if len(in_flight) > self.train.in_flight:
                jax.block_until_ready(in_flight.pop(0))
            yield states


@functools.lru_cache(maxsize=1)
def shared_stacked_dispatch(
    program: Experiment, preprocessing: Preprocessing, steps_per_epoch: int, shares_batches: bool
) -> Dispatch:  # fmt: skip
    """Return the jitted dispatch of a stack of training runs with this program."""
    step = make_train_step(program, preprocessing)
    return make_stacked_dispatch(step, program.train.batch_size, steps_per_epoch, shares_batches=shares_batches)


def share_batches(live: "Sequence[_Live[Any]]") -> bool:
    """Return whether the members train on the same batches: they have one seed and are in the same epoch."""
    return len({(member.experiment.seed, len(member.snapshot.rows)) for member in live}) == 1


def stack(trees: Sequence[Any]) -> Any:
    """Return trees of arrays or numbers as one tree, with a leading axis over them."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def take(states: TrainState, number: jax.Array | int) -> TrainState:
    """Return the state of one member of a stack."""
    return jax.tree.map(lambda leaf: leaf[number], states)


def _one(metrics: EpochMetrics, number: int) -> EpochMetrics:
    return jax.tree.map(lambda leaf: leaf[number], metrics)


def _share(live: "Sequence[_Live[Any]]", seconds: float) -> None:
    """Add an equal share of the seconds to each member."""
    for member in live:
        member.seconds += seconds / len(live)
