"""From a config to an optax transformation and its schedule."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import optax

from cnnjax.config import Optimizer, Schedule, in_steps
from cnnjax.errors import UserError

ScheduleFn = Callable[[Any], Any]
"""From the number of updates made so far to the learning rate."""


def make_schedule(config: Schedule, lr: float, steps_per_epoch: int, epochs: int) -> ScheduleFn:
    """Return the learning rate over the steps t = 0, 1, ..., T - 1 of a training of T = steps_per_epoch * epochs.

    constant: ``lr``; step: ``lr * factor ** (number of boundaries <= t)``; exponential: ``lr * factor ** (t / every)``;
    cosine (Loshchilov and Hutter 2017, without restarts): ``lr * (end + (1 - end) * (1 + cos(pi t / T)) / 2)``;
    warmup_cosine (Goyal et al. 2017 for the warm-up): ``lr * t / warmup``, then the cosine over what is left.
    """
    total = steps_per_epoch * epochs
    if config.name == "constant":
        return optax.constant_schedule(lr)
    if config.name == "step":
        boundaries = [in_steps(boundary, steps_per_epoch) for boundary in config.boundaries]
        if any(a >= b for a, b in itertools.pairwise(boundaries)):
            raise UserError(f"schedule.boundaries are {list(config.boundaries)}; they must rise")
        return optax.piecewise_constant_schedule(lr, dict.fromkeys(boundaries, config.factor))
    if config.name == "exponential":
        every = in_steps(config.every, steps_per_epoch)
        if every < 1:
            raise UserError(f"schedule.every is {config.every!r}; it must be 1 step or more")
        return optax.exponential_decay(lr, transition_steps=every, decay_rate=config.factor)
    if config.name == "cosine":
        return optax.cosine_decay_schedule(lr, decay_steps=total, alpha=config.end)
    warmup = in_steps(config.warmup, steps_per_epoch)
    if warmup >= total:
        raise UserError(f"schedule.warmup is {config.warmup!r}; it must be shorter than the training of {total} steps")
    return optax.warmup_cosine_decay_schedule(
        0.0, lr, warmup_steps=warmup, decay_steps=total, end_value=config.end * lr
    )


def is_decayed(params: Any) -> Any:
    """Return a tree of booleans: weight decay touches kernels, and neither biases nor the scales of norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_optimizer(config: Optimizer, schedule: ScheduleFn) -> optax.GradientTransformation:
    """Return the update rule: clipping by the global norm, then weight decay, then the rule itself."""
    rules: dict[str, Callable[[], optax.GradientTransformation]] = {
        "sgd": lambda: optax.sgd(schedule),
        "momentum": lambda: optax.sgd(schedule, momentum=config.momentum),
        "nesterov": lambda: optax.sgd(schedule, momentum=config.momentum, nesterov=True),
        "adam": lambda: optax.adam(schedule, config.b1, config.b2, config.eps),
        "adamw": lambda: optax.adamw(
            schedule, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=is_decayed
        ),
        "rmsprop": lambda: optax.rmsprop(schedule, config.decay, config.eps),
    }
    parts = []
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.weight_decay and config.name != "adamw":
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=is_decayed))
    return optax.chain(*parts, rules[config.name]())
