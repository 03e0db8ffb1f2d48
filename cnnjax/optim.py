"""Hyperparameters, learning-rate schedules and update rules.

The values in a config (learning rate, momentum, decay, schedule constants) become `Hyperparameters`: arrays that the
train step takes as an argument. Choices by name, such as the optimizer, select the program. Runs that differ only in
values therefore share one compiled program, and can run side by side under ``jax.vmap``.
"""

import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.config import Experiment, Optimizer, Schedule, in_steps
from cnnjax.errors import UserError, quoted
from cnnjax.muon import muon

Scalar = Any
"""A float32 or int32 scalar, traced or not."""
Rule = Callable[["Hyperparameters", Scalar], optax.GradientTransformation]
"""Function from the hyperparameters and the current learning rate to the update rule."""


class ScheduleConstants(NamedTuple):
    """Constants of a schedule. Step counts are int32, because float32 is exact only up to 2**24."""

    total: Scalar
    """Total number of training steps."""
    boundaries: tuple[Scalar, ...]
    factor: Scalar
    every: Scalar
    warmup: Scalar
    end: Scalar
    start: Scalar
    rise: Scalar
    """Steps over which one_cycle rises, not a whole number."""
    power: Scalar
    reduction: Scalar
    """Product of the factors by which plateau has reduced the rate so far; see `cnnjax.training.plateau`."""


class Hyperparameters(NamedTuple):
    """Values that the train step takes as arguments: float32 scalars, and int32 step counts.

    ``clip_norm``, ``ema_decay`` and ``layer_decay`` are None if the program does not clip gradients, average parameters
    or train stages at different rates.
    """

    lr: Scalar
    momentum: Scalar
    b1: Scalar
    b2: Scalar
    decay: Scalar
    eps: Scalar
    trust: Scalar
    adam_lr: Scalar
    weight_decay: Scalar
    label_smoothing: Scalar
    schedule: ScheduleConstants
    clip_norm: Scalar | None = None
    ema_decay: Scalar | None = None
    layer_decay: Scalar | None = None


def make_hyperparameters(experiment: Experiment, steps_per_epoch: int) -> Hyperparameters:
    """Return the hyperparameters; raise UserError if the schedule does not fit the length of the training."""
    optimizer, train = experiment.optimizer, experiment.train
    return Hyperparameters(
        schedule=_schedule_constants(experiment.schedule, steps_per_epoch, train.epochs),
        label_smoothing=np.float32(train.label_smoothing),
        clip_norm=None if optimizer.clip_norm is None else np.float32(optimizer.clip_norm),
        ema_decay=None if train.ema_decay is None else np.float32(train.ema_decay),
        layer_decay=None if optimizer.layer_decay is None else np.float32(optimizer.layer_decay),
        **{
            name: np.float32(getattr(optimizer, name))
            for name in ("momentum", "b1", "b2", "decay", "eps", "trust", "weight_decay")
        },
        **{name: np.float32(scaled_rate(experiment, name)) for name in ("lr", "adam_lr")},
    )


def scaled_rate(experiment: Experiment, name: Literal["lr", "adam_lr"] = "lr") -> float:
    """Return a base learning rate after linear scaling with the batch size (Goyal et al. 2017, section 2.1)."""
    rate: float = getattr(experiment.optimizer, name)
    base = experiment.optimizer.base_batch
    return rate if base is None else rate * experiment.train.batch_size / base


def scaling_sentence(experiment: Experiment) -> str | None:
    """Return how the base learning rate is scaled with the batch size, for the user, or None if it is not."""
    optimizer, batch_size = experiment.optimizer, experiment.train.batch_size
    if optimizer.base_batch is None:
        return None
    return (
        f"base learning rate {scaled_rate(experiment):.4g}: {optimizer.lr:g} for a batch of {optimizer.base_batch}, "
        f"scaled linearly to {batch_size}"
    )


def _schedule_constants(config: Schedule, steps_per_epoch: int, epochs: int) -> ScheduleConstants:
    total = steps_per_epoch * epochs
    boundaries = [in_steps(boundary, steps_per_epoch) for boundary in config.boundaries]
    every, warmup = in_steps(config.every, steps_per_epoch), in_steps(config.warmup, steps_per_epoch)
    if config.name == "step" and any(a >= b for a, b in itertools.pairwise(boundaries)):
        raise UserError(f"schedule.boundaries are {quoted(config.boundaries)}; they must increase")
    if config.name == "exponential" and every < 1:
        raise UserError(f"schedule.every is {config.every!r}; it must be 1 step or more")
    if config.name == "warmup_cosine" and warmup >= total:
        raise UserError(f"schedule.warmup is {config.warmup!r}; it must be shorter than the training of {total} steps")
    rise = config.peak * total - 1  # the first step is at 0, as in torch's OneCycleLR
    if config.name in ("one_cycle", "one_cycle_linear") and rise <= 0:
        raise UserError(
            f"schedule.peak is {config.peak} and the training has {total} steps; the product must be more than 1 step"
        )
    return ScheduleConstants(
        total=np.int32(total), boundaries=tuple(map(np.int32, boundaries)), every=np.int32(every),
        warmup=np.int32(warmup), factor=np.float32(config.factor), end=np.float32(config.end),
        start=np.float32(config.start), rise=np.float32(rise), power=np.float32(config.power), reduction=np.float32(1),
    )  # fmt: skip


def learning_rate(name: str, step: Scalar, hyperparameters: Hyperparameters) -> jax.Array:
    """Return the learning rate float32 at step t = 0, 1, ..., T - 1 of the named schedule.

    constant: ``lr``; step: ``lr * factor ** (number of boundaries <= t)``; exponential: ``lr * factor ** (t / every)``;
    cosine (Loshchilov and Hutter 2017, without restarts): ``lr * (end + (1 - end) * (1 + cos(pi t / T)) / 2)``;
    warmup_cosine (Goyal et al. 2017 for the warm-up): ``lr * t / warmup``, then the cosine over the remaining steps;
    one_cycle and one_cycle_linear (Smith and Topin 2017, in two phases as in torch's OneCycleLR, without cycling the
    momentum): from ``lr * start`` to ``lr`` at t = ``peak * T - 1``, then to ``lr * end`` at T - 1, along half a cosine
    or linearly; polynomial: ``lr * (end + (1 - end) * (1 - t / T) ** power)``; plateau: ``lr * reduction``, constant
    within an epoch.
    """
    return SCHEDULES[name](jnp.asarray(step, jnp.int32), jnp.asarray(hyperparameters.lr), hyperparameters.schedule)


def _constant(step: jax.Array, lr: jax.Array, constants: ScheduleConstants) -> jax.Array:
    return lr


def _step(step: jax.Array, lr: jax.Array, constants: ScheduleConstants) -> jax.Array:
    for boundary in constants.boundaries:
        lr = jnp.where(step >= boundary, lr * constants.factor, lr)
    return lr


def _exponential(step: jax.Array, lr: jax.Array, constants: ScheduleConstants) -> jax.Array:
    return lr * constants.factor ** _share(step, constants.every)


def _cosine(step: jax.Array, lr: jax.Array, constants: ScheduleConstants) -> jax.Array:
    return lr * _half_cosine(step, constants.total, constants.end)


def _warmup_cosine(step: jax.Array, lr: jax.Array, constants: ScheduleConstants) -> jax.Array:
    rising = lr * _share(step, jnp.maximum(constants.warmup, 1))
    falling = lr * _half_cosine(step - constants.warmup, constants.total - constants.warmup, constants.end)
    return jnp.where(step < constants.warmup, rising, falling)


def _one_cycle(step: jax.Array, lr: jax.Array, constants: ScheduleConstants) -> jax.Array:
    return lr * _cycle(step, constants, lambda share: (1 - jnp.cos(jnp.float32(np.pi) * share)) / 2)


def _one_cycle_linear(step: jax.Array, lr: jax.Array, constants: ScheduleConstants) -> jax.Array:
    return lr * _cycle(step, constants, lambda share: share)


def _polynomial(step: jax.Array, lr: jax.Array, constants: ScheduleConstants) -> jax.Array:
    left = 1 - _share(jnp.minimum(step, constants.total), constants.total)
    return lr * (constants.end + (1 - constants.end) * left**constants.power)


def _plateau(step: jax.Array, lr: jax.Array, constants: ScheduleConstants) -> jax.Array:
    return lr * constants.reduction


SCHEDULES = {
    "constant": _constant, "step": _step, "exponential": _exponential, "cosine": _cosine,
    "warmup_cosine": _warmup_cosine, "one_cycle": _one_cycle, "one_cycle_linear": _one_cycle_linear,
    "polynomial": _polynomial, "plateau": _plateau,
}  # fmt: skip


def _cycle(step: jax.Array, constants: ScheduleConstants, curve: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Return a factor that goes from ``start`` to 1 and then to ``end``, along a ``curve`` from (0, 0) to (1, 1)."""
    rise = jnp.asarray(constants.rise)
    fall = _share(constants.total, 1) - 1 - rise
    time = jnp.asarray(step, jnp.float32)
    rising = constants.start + (1 - constants.start) * curve(jnp.minimum(time / rise, 1))
    falling = 1 + (constants.end - 1) * curve(jnp.clip((time - rise) / fall, 0, 1))
    return jnp.where(time <= rise, rising, falling)


def _share(part: jax.Array, whole: Scalar) -> jax.Array:
    return jnp.asarray(part, jnp.float32) / jnp.asarray(whole, jnp.float32)


def _half_cosine(step: jax.Array, length: Scalar, end: Scalar) -> jax.Array:
    """Return a factor that decays from 1 to ``end`` along half a cosine over ``length`` steps, then stays there."""
    length = jnp.asarray(length, jnp.float32)
    angle = jnp.float32(np.pi) * jnp.minimum(jnp.asarray(step, jnp.float32), length) / length
    return (1 - end) * ((1 + jnp.cos(angle)) / 2) + end


def is_decayed(params: Any) -> Any:
    """Return a tree of booleans: True for kernels, False for biases and norm scales, which have no weight decay."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def make_rule(config: Optimizer, head: Collection[str] = ()) -> Rule:
    """Return the optax update rule: clipping by global norm, then weight decay, then the optimizer.

    sgd, momentum (Polyak 1964), nesterov, adam (Kingma and Ba 2015), adamw (Loshchilov and Hutter 2019), rmsprop; lamb
    (You et al. 2020) and lars (You et al. 2017, algorithm 1), whose trust ratios scale kernels only; lion (Chen et al.
    2023, algorithm 2); muon (see `cnnjax.muon`), for which ``head`` lists the paths of the head's parameters.

    Every program includes weight decay (a decay of 0 has no effect), so that runs with and without it share one
    program. Clipping costs a pass over the gradient, so only programs with ``clip_norm`` include it. The structure of
    the optimizer state depends only on the config, not on the hyperparameters.
    """
    rules: dict[str, Callable[[Hyperparameters], list[optax.GradientTransformation]]] = {
        "sgd": lambda h: [],
        "momentum": lambda h: [optax.trace(h.momentum)],
        "nesterov": lambda h: [optax.trace(h.momentum, nesterov=True)],
        "adam": lambda h: [optax.scale_by_adam(h.b1, h.b2, h.eps)],
        "adamw": lambda h: [optax.scale_by_adam(h.b1, h.b2, h.eps)],
        "rmsprop": lambda h: [optax.scale_by_rms(h.decay, h.eps)],
        "lion": lambda h: [optax.scale_by_lion(h.b1, h.b2)],
    }

    def parts(h: Hyperparameters, rate: Scalar) -> list[optax.GradientTransformation]:
        decay, scale = optax.add_decayed_weights(h.weight_decay, mask=is_decayed), optax.scale(-rate)
        match config.name:
            case "adamw" | "lion":
                return [*rules[config.name](h), decay, scale]
            case "lamb":
                return [optax.scale_by_adam(h.b1, h.b2, h.eps), decay, _of_kernels(optax.scale_by_trust_ratio()), scale]
            case "lars":  # the rate is part of the velocity, so a lower rate does not slow it at once
                ratio = optax.scale_by_trust_ratio(trust_coefficient=h.trust, eps=h.eps)
                return [decay, _of_kernels(ratio), scale, optax.trace(h.momentum)]
            case "muon":
                adam = optax.chain(
                    optax.scale_by_adam(h.b1, h.b2, h.eps), decay, optax.scale(jnp.asarray(h.adam_lr) / h.lr)
                )
                return [*muon(h.momentum, h.eps, h.weight_decay, adam, head), scale]
            case _:
                return [decay, *rules[config.name](h), scale]

    def rule(hyperparameters: Hyperparameters, rate: Scalar) -> optax.GradientTransformation:
        clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(hyperparameters.clip_norm)]
        return _promoting(optax.chain(*clip, *parts(hyperparameters, rate)))

    return rule


def _of_kernels(part: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return the transformation for the parameters that decay; the updates of the others pass through."""
    return optax.masked(part, is_decayed)


def _promoting(chain: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return the chain with JAX's standard dtype promotion, which optax relies on, whatever the caller has set."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return chain.update(updates, state, params)

    return optax.GradientTransformation(chain.init, update)


def scale_by_stage(updates: Any, groups: Mapping[str, tuple[str, ...]], decay: Scalar) -> Any:
    """Return the updates, each multiplied by decay ** k: k is 0 in the last group, 1 in the group below it, and so on.

    Args:
        updates: nested dicts of arrays, the updates of some or all parameters.
        groups: paths of all parameters by group, from input to output; see `cnnjax.functional.parameter_groups`.
        decay: the layer decay, a float32 scalar.
    """
    below = {path: len(groups) - 1 - index for index, paths in enumerate(groups.values()) for path in paths}

    def scaled(path: Any, update: jax.Array) -> jax.Array:
        factor = jnp.asarray(decay) ** below["/".join(str(entry.key) for entry in path)]
        return update * factor.astype(update.dtype)

    return jax.tree_util.tree_map_with_path(scaled, updates)
