"""Learning-rate range test (Smith 2017, section 3.3): train for a while at a rate that grows at every step.

If the rate is too low, the loss hardly changes; at a useful rate it falls; if the rate is too high, it grows again.
The test trains a copy of the initial state, in the same program and with the same images as the first epochs of
training, and writes nothing.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.config import MOST_STEPS, Experiment, Schedule
from cnnjax.data import Dataset, make_loader
from cnnjax.data.loader import Chunk
from cnnjax.errors import Diverged, require
from cnnjax.functional import Variables
from cnnjax.optim import Hyperparameters
from cnnjax.parallel import Placement, current_placement
from cnnjax.system import signals
from cnnjax.training import out_of_memory
from cnnjax.training.epochs import Rate
from cnnjax.training.initial import initial_variables
from cnnjax.training.loop import dispatch_of_training, plan, training_crops, training_order
from cnnjax.training.state import empty_metrics, state_of, step_key

LOWEST, HIGHEST = 1e-6, 10.0
"""First and last learning rate of the sweep."""
FEWEST_STEPS = 20
"""Minimum steps of a sweep."""
FEWEST_LOSSES = 3
"""Minimum losses for a suggestion."""
DIVERGED = 4.0
"""The sweep ends when the mean loss of the last steps exceeds this multiple of its minimum so far."""
WIDTH = 0.2
"""Standard deviation of the smoothing, in powers of ten of the learning rate."""
FALL, ERRORS = 0.05, 3
"""Minimum fall of the smoothed loss for a suggestion, as a share of its first value and in standard errors."""


class Curve(NamedTuple):
    """The learning rate of each step, and the mean training loss of its batch before the update."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    diverged: bool
    """Whether the sweep ended early, because the loss was not finite or too high."""


class Suggestion(NamedTuple):
    """Learning rates that a curve suggests."""

    steepest: float
    """Rate at which the smoothed loss falls most steeply on a logarithmic scale of the rate, up to `lowest`."""
    lowest: float
    """Rate at which the smoothed loss is lowest. A tenth of it is another common choice."""


def suggestion(curve: Curve) -> Suggestion | None:
    """Return the rates that the curve suggests, or None if the loss did not fall clearly."""
    if len(curve.losses) < FEWEST_LOSSES:
        return None
    losses = smoothed(curve)
    lowest = int(np.argmin(losses))
    if losses[0] - losses[lowest] < max(FALL * losses[0], ERRORS * standard_error(curve, lowest)):
        return None
    slopes = np.gradient(losses, np.log10(curve.rates))
    return Suggestion(curve.rates[int(np.argmin(slopes[: lowest + 1]))], curve.rates[lowest])


def smoothed(curve: Curve) -> np.ndarray:
    """Return the loss [steps], averaged over nearby rates with Gaussian weights.

    Losses count as at most DIVERGED times the first one, so that the last steps before the end do not blur the minimum.
    """
    exponents = np.log10(curve.rates)
    losses = np.minimum(curve.losses, DIVERGED * curve.losses[0])
    weights = np.exp(-(((exponents[:, None] - exponents) / WIDTH) ** 2) / 2)
    averaged: np.ndarray = weights @ losses / weights.sum(axis=1)
    return averaged


def standard_error(curve: Curve, lowest: int) -> float:
    """Return the standard error of the fall of the smoothed loss from its first value to that at ``lowest``.

    The variance of a loss comes from the differences of successive losses. A Gaussian mean of standard deviation WIDTH
    averages as many independent losses as lie in 2 sqrt(pi) WIDTH decades; at the first value, half as many.
    """
    decade = int(np.sum(np.array(curve.rates) <= 10 * curve.rates[0]))
    differences = np.diff(curve.losses[: max(decade, lowest + 1)])
    averaged = max(1.0, 2 * math.sqrt(math.pi) * WIDTH * decade)
    return math.sqrt(float(np.mean(differences**2)) / 2 * (1 + 2) / averaged)


def range_test(
    experiment: Experiment, dataset: Dataset, steps: int | None = None, initial: Variables | None = None,
    poll: Callable[[], None] = signals.poll, watch: Callable[[int, float, float], None] = lambda *_: None,
) -> Curve:  # fmt: skip
    """Train from a copy of ``initial``, or from the experiment's seed, while the rate grows from LOWEST to HIGHEST.

    It grows by the same factor at each of the ``steps``, by default those of one epoch, but at least FEWEST_STEPS.
    ``watch`` is called after each step with its number, counted from 1, its rate and its loss.

    Raises:
        Diverged: the loss or its gradient was not finite at the first step.
        UserError: the config does not fit the data or the network, or the device runs out of memory.
    """
    experiment = experiment.replace(schedule=Schedule(name="exponential"))
    steps_per_epoch, values = plan(experiment, dataset)
    steps = sweep_steps(steps_per_epoch, steps)
    values, placement = growing(values, steps), current_placement()
    variables = initial_variables(experiment, dataset) if initial is None else initial
    # A step donates the state.
    state = placement.spread(state_of(experiment, values, jax.tree.map(jnp.copy, variables)))
    dispatch = dispatch_of_training(experiment, dataset, steps_per_epoch)
    key, placed, rate = step_key(experiment.seed), placement.put(values), Rate(experiment.schedule.name, values)
    rates: list[float] = []
    losses: list[float] = []
    for data, picked, first, _, boxes in _batches(experiment, dataset, steps_per_epoch, steps, placement):
        state = state._replace(metrics=empty_metrics(state.metrics.loss.dtype))  # so that they cover this step alone
        with placement.active(), out_of_memory.explained("in a training step", "use a smaller --train.batch-size"):
            state, metrics = dispatch(state, data, picked, key, placed, steps=1, start=first, boxes=boxes)
            metrics = jax.device_get(metrics)
        poll()
        if int(metrics.bad_step) >= 0:
            if not losses:
                raise Diverged("the loss or its gradient was not finite at the first step; check the images")
            return Curve(tuple(rates), tuple(losses), True)
        rates.append(rate(len(rates)))
        losses.append(float(metrics.loss) / int(metrics.images))
        watch(len(losses), rates[-1], losses[-1])
        if has_diverged(losses, steps):
            return Curve(tuple(rates), tuple(losses), True)
    return Curve(tuple(rates), tuple(losses), False)


def sweep_steps(steps_per_epoch: int, steps: int | None) -> int:
    """Return the number of steps of a sweep, by default those of one epoch."""
    if steps is None:
        return max(steps_per_epoch, FEWEST_STEPS)
    require(FEWEST_STEPS <= steps <= MOST_STEPS, "--find-lr-steps", steps, f"{FEWEST_STEPS} to {MOST_STEPS:,}")
    return steps


def has_diverged(losses: Sequence[float], steps: int) -> bool:
    """Return whether the mean loss of the last steps is too high; it covers WIDTH of a sweep of ``steps`` steps."""
    window = max(1, round(WIDTH * steps / math.log10(HIGHEST / LOWEST)))
    if len(losses) < window:
        return False
    means = np.convolve(losses, np.full(window, 1 / window), mode="valid")
    return bool(means[-1] > DIVERGED * means.min())


def growing(values: Hyperparameters, steps: int) -> Hyperparameters:
    """Return hyperparameters whose exponential schedule takes the rate from LOWEST to HIGHEST over ``steps`` steps."""
    constants = values.schedule._replace(factor=np.float32(HIGHEST / LOWEST), every=np.int32(steps - 1))
    share = values.adam_lr / values.lr
    return values._replace(lr=np.float32(LOWEST), adam_lr=np.float32(LOWEST * share), schedule=constants)


def _batches(
    experiment: Experiment, dataset: Dataset, steps_per_epoch: int, steps: int, placement: Placement
) -> Iterator[Chunk]:
    """Yield the images of each step, in the order of the first epochs of training."""
    loader = make_loader(dataset.train, experiment.train.batch_size, 1, placement)
    for epoch, done in enumerate(range(0, steps, steps_per_epoch)):
        order = training_order(experiment, dataset.train.labels, epoch)
        crops = training_crops(experiment, epoch)
        yield from loader.epoch(order, 0, min(steps_per_epoch, steps - done), crops)
