"""The pure train step, and the dispatch of several steps in one device call."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cnnjax.config import Augmentation, Experiment
from cnnjax.data import DeviceSplit, Preprocessing, augment, mix, mixes, normalize, resize_boxes
from cnnjax.functional import Tree, Variables, apply, parameter_groups
from cnnjax.losses import Batch, weighted_mean
from cnnjax.ops.dispatch import compiler_options, is_unrolled, side_by_side
from cnnjax.optim import Hyperparameters, learning_rate, scale_by_stage
from cnnjax.parallel import replicate, split_batch
from cnnjax.partition import split_frozen
from cnnjax.training.state import EpochMetrics, TrainState, averaged, empty_metrics, joined, rule_of

NO_AUGMENTATION = Augmentation()
MIXING_STREAM = 2
"""Stream of the step's key that mixup and CutMix draw from; 0 and 1 are the network's and the augmentation's."""


class Gradient(NamedTuple):
    """Result of a batch: gradient of the mean loss, new batch statistics, mean loss, number of correct predictions."""

    params: Tree
    batch_stats: Tree
    loss: jax.Array
    correct: jax.Array


GradientFn = Callable[[Tree, Tree, Batch, jax.Array], Gradient]
"""Function of trainable parameters, batch statistics, a batch and a key."""
TrainStep = Callable[[TrainState, Batch, jax.Array, Hyperparameters], TrainState]
Dispatch = Callable[..., tuple[TrainState, EpochMetrics]]


def augmented(
    config: Augmentation, images: jax.Array, key: jax.Array, preprocessing: Preprocessing | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return the augmented images, neither normalized nor mixed, and the PRNG key for the network."""
    if config == NO_AUGMENTATION:
        return images, key
    network_key, augmentation_key = jax.random.split(key)
    return augment(config, augmentation_key, images, preprocessing), network_key


def make_train_step(experiment: Experiment, preprocessing: Preprocessing) -> TrainStep:
    """Return the pure function ``(state, batch, key, hyperparameters) -> state``.

    The program depends only on the names in the experiment (network, loss, optimizer, schedule, augmentation, frozen
    parameters). The values come with the hyperparameters, so ``jax.vmap`` over states and hyperparameters trains
    several members side by side in one program.
    """
    arch, loss, train = experiment.model, experiment.loss, experiment.train
    rule = rule_of(experiment)

    def gradient_fn(frozen: Tree, hyperparameters: Hyperparameters) -> GradientFn:
        def loss_fn(trainable: Tree, batch_stats: Tree, batch: Batch, key: jax.Array) -> Any:
            variables = Variables(joined(trainable, frozen), batch_stats)
            pixels = normalize(preprocessing, batch.images, arch.dtype)
            outputs, new_stats = apply(
                arch, variables, pixels, train=True, key=key, remat=train.remat, frozen=train.freeze
            )
            losses = loss(outputs, batch, hyperparameters)
            return weighted_mean(losses, batch.weights), (outputs.logits, new_stats)

        def gradient(trainable: Tree, batch_stats: Tree, batch: Batch, key: jax.Array) -> Gradient:
            grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
            (mean, (logits, new_stats)), grads = grad_fn(trainable, batch_stats, batch, key)
            labels = batch.labels()
            correct = logits.argmax(axis=-1).astype(labels.dtype) == labels
            if batch.weights is not None:
                correct &= batch.weights > 0
            return Gradient(grads, new_stats, mean, correct.sum(dtype=jnp.int32))

        return gradient

    def train_step(
        state: TrainState, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters
    ) -> TrainState:  # fmt: skip
        images, network_key = augmented(experiment.augmentation, batch.images, key, preprocessing)
        batch = batch._replace(images=images)
        if mixes(experiment.augmentation):
            batch = mix(experiment.augmentation, jax.random.fold_in(key, MIXING_STREAM), batch, arch.num_classes)
        trainable, frozen = split_frozen(state.params, train.freeze)
        gradient = accumulated(gradient_fn(frozen, hyperparameters), train.accumulate)
        step = gradient(trainable, state.batch_stats, batch, network_key)
        with jax.named_scope("optimizer"):
            rate = learning_rate(experiment.schedule.name, state.step, hyperparameters)
            updates, opt_state = rule(hyperparameters, rate).update(step.params, state.opt_state, trainable)
            if hyperparameters.layer_decay is not None:
                updates = scale_by_stage(updates, parameter_groups(arch), hyperparameters.layer_decay)
            params = joined(optax.apply_updates(trainable, updates), frozen)
            ema = state.ema
            if ema is not None:
                ema = averaged(ema, Variables(params, step.batch_stats), hyperparameters.ema_decay, train.freeze)
        metrics = _add(state.metrics, step, batch, state.step + 1)
        return TrainState(state.step + 1, params, step.batch_stats, opt_state, metrics, ema)

    return train_step


def _add(metrics: EpochMetrics, step: Gradient, batch: Batch, number: jax.Array) -> EpochMetrics:
    """Return the epoch's sums after a step. Examples with weight 0 do not count."""
    images = len(batch.images) if batch.weights is None else (batch.weights > 0).sum(dtype=jnp.int32)
    dtype = metrics.loss.dtype
    loss = metrics.loss + step.loss.astype(dtype) * jnp.asarray(images, dtype)
    norm = metrics.gradient_norm + optax.tree.norm(step.params).astype(dtype) * jnp.asarray(images, dtype)
    first_bad = (metrics.bad_step < 0) & ~(jnp.isfinite(loss) & jnp.isfinite(norm))
    return EpochMetrics(
        loss=loss,
        correct=metrics.correct + step.correct,
        images=metrics.images + images,
        bad_step=jnp.where(first_bad, number, metrics.bad_step),
        gradient_norm=norm,
    )


def accumulated(gradient: GradientFn, parts: int) -> GradientFn:
    """Return ``gradient`` for a batch that is split into ``parts`` equal parts, computed one after another.

    Only one part's activations are in memory at a time. Each part draws its own random numbers, is normalized by its
    own statistics, and updates the running statistics. With weights, each part counts by the sum of its weights.
    """
    if parts == 1:
        return gradient

    def whole(trainable: Tree, batch_stats: Tree, batch: Batch, key: jax.Array) -> Gradient:
        def add(sums: Gradient, numbered: tuple[jax.Array, Batch]) -> tuple[Gradient, None]:
            # No part starts before the previous one has ended.
            sums, numbered = lax.optimization_barrier((sums, numbered))
            number, part = numbered
            step = gradient(trainable, sums.batch_stats, part, jax.random.fold_in(key, number))
            grads, loss = step.params, step.loss
            if part.weights is not None:
                share = part.weights.sum()
                grads, loss = jax.tree.map(lambda leaf: leaf * share.astype(leaf.dtype), grads), loss * share
            params = jax.tree.map(jnp.add, sums.params, grads)
            return Gradient(params, step.batch_stats, sums.loss + loss, sums.correct + step.correct), None

        batches = split_batch(jax.tree.map(lambda array: array.reshape(parts, -1, *array.shape[1:]), batch), axis=1)
        zeros = jax.tree.map(jnp.zeros_like, trainable)
        first = jax.eval_shape(gradient, trainable, batch_stats, jax.tree.map(lambda array: array[0], batches), key)
        empty = Gradient(zeros, batch_stats, jnp.zeros_like(first.loss), jnp.int32(0))
        sums, _ = lax.scan(add, empty, (jnp.arange(parts), batches), unroll=is_unrolled(jax.default_backend()))
        count: Any = parts
        if batch.weights is not None:
            total = batch.weights.sum()
            count = jnp.where(total > 0, total, 1)
        divided = jax.tree.map(lambda leaf: leaf / jnp.asarray(count, leaf.dtype), (sums.params, sums.loss))
        return sums._replace(params=divided[0], loss=divided[1])

    return whole


def make_dispatch(
    train_step: TrainStep, batch_size: int, steps_per_epoch: int, class_weights: np.ndarray | None = None
) -> Dispatch:  # fmt: skip
    """Return the jitted ``(state, data, order, key, hyperparameters, steps=k) -> (state, metrics)``.

    It runs k steps in one device call and donates the state. The images of a step depend only on ``state.step`` and the
    epoch's ``order`` [N]; if ``order`` begins with the images of a later step of the epoch, ``start`` is the number of
    that step. ``boxes`` int32 [N, 4] are random resized crops of the images in that order. If ``order`` is None,
    images, labels and boxes have a leading axis over steps from ``start`` on. ``class_weights`` float32
    [classes] weight the images by their labels. The metrics are a copy that survives the donation, so that progress can
    be shown.
    """
    options = compiler_options(jax.default_backend())
    pure = dispatch_of(train_step, batch_size, steps_per_epoch, class_weights)
    return jax.jit(pure, static_argnames="steps", donate_argnums=0, compiler_options=options)


def make_stacked_dispatch(
    train_step: TrainStep, batch_size: int, steps_per_epoch: int, *, shares_batches: bool = False, packs: bool = True
) -> Dispatch:  # fmt: skip
    """Return the jitted ``(states, data, orders, keys, hyperparameters, active, steps=k) -> (states, metrics)``.

    It is the dispatch of several members at once. All arguments but the images have a leading axis [M] over them. The
    state of a member stays as it is where ``active`` bool [M] is False. With ``shares_batches``, all members that are
    active are at the same step and have the same order and key, so a batch is made once for all of them. With
    ``packs``, their convolutions are packed, see `cnnjax.ops.packing`.
    """
    dispatch = dispatch_of(train_step, batch_size, steps_per_epoch)
    shared_dispatch = _shared_dispatch_of(train_step, batch_size, steps_per_epoch)

    def stacked(
        states: TrainState, data: DeviceSplit, orders: jax.Array, keys: jax.Array, hyperparameters: Hyperparameters,
        active: jax.Array, *, steps: int, boxes: jax.Array | None = None,
    ) -> tuple[TrainState, EpochMetrics]:  # fmt: skip
        def one(
            state: TrainState, order: jax.Array, key: jax.Array, values: Hyperparameters, is_active: jax.Array,
            box: jax.Array | None,
        ) -> tuple[TrainState, EpochMetrics]:  # fmt: skip
            trained, _ = dispatch(state, data, order, key, values, steps=steps, boxes=box)
            return masked(trained, state, is_active)

        def masked(
            trained: TrainState, state: TrainState, is_active: jax.Array
        ) -> tuple[TrainState, EpochMetrics]:  # fmt: skip
            kept = jax.tree.map(lambda new, old: jnp.where(is_active, new, old), trained, state)
            return kept, jax.tree.map(jnp.copy, kept.metrics)

        with side_by_side() if packs else contextlib.nullcontext():
            if not shares_batches:
                return jax.vmap(one)(states, orders, keys, hyperparameters, active, boxes)
            lead = active.argmax()
            box = None if boxes is None else boxes[lead]
            trained = shared_dispatch(states, data, orders[lead], keys[lead], hyperparameters, active, box, steps=steps)
            return jax.vmap(masked)(trained, states, active)

    options = compiler_options(jax.default_backend())
    return jax.jit(stacked, static_argnames="steps", donate_argnums=0, compiler_options=options)


def _shared_dispatch_of(train_step: TrainStep, batch_size: int, steps_per_epoch: int) -> Callable[..., TrainState]:
    """Return the dispatch of members that train on the same batches."""

    def one_step(
        states: TrainState, data: DeviceSplit, order: jax.Array, key: jax.Array, hyperparameters: Hyperparameters,
        active: jax.Array, boxes: jax.Array | None,
    ) -> TrainState:  # fmt: skip
        step = jnp.where(active, states.step, 0).max()
        position = step % steps_per_epoch
        metrics = _of_epoch(states.metrics, position)
        batch, key = picked(data, order, key, step, position, batch_size, boxes)
        train = jax.vmap(train_step, in_axes=(0, None, None, 0))
        return replicate(train(states._replace(metrics=metrics), batch, key, hyperparameters))

    def dispatch(states: TrainState, *arguments: Any, steps: int) -> TrainState:
        if steps == 1:
            return one_step(states, *arguments)
        states, _ = lax.scan(lambda s, _: (one_step(s, *arguments), None), states, length=steps)
        return states

    return dispatch


def _of_epoch(metrics: EpochMetrics, position: jax.Array) -> EpochMetrics:
    """Return the sums of the epoch, which are empty at its first step."""
    starts_epoch = position == 0
    empty = empty_metrics(metrics.loss.dtype)
    return jax.tree.map(lambda fresh, sums: jnp.where(starts_epoch, fresh, sums), empty, metrics)


def picked(
    data: DeviceSplit, order: jax.Array | None, key: jax.Array, step: jax.Array, first: jax.Array, batch_size: int,
    boxes: jax.Array | None, class_weights: np.ndarray | None = None,
) -> tuple[Batch, jax.Array]:  # fmt: skip
    """Return the batch of a step, split over the devices, and its key; ``first`` is the number of its batch.

    The batch is the one at ``first`` in the order, or in the leading axis of the data if there is no order.
    """
    start = first * batch_size
    indices = None if order is None else lax.dynamic_slice(order, (start,), (batch_size,))

    def of_batch(array: jax.Array) -> jax.Array:
        if indices is not None:
            return split_batch(array[indices])
        return split_batch(lax.dynamic_index_in_dim(array, first, keepdims=False)[:batch_size])

    key = jax.random.fold_in(key, step)
    images, labels = of_batch(data.images), of_batch(data.labels)
    if boxes is not None:
        cut = of_batch(boxes) if indices is None else lax.dynamic_slice(boxes, (start, 0), (batch_size, 4))
        images = resize_boxes(images, cut)
    weights = None if class_weights is None else jnp.asarray(class_weights)[labels]
    return Batch(images, labels, weights), key


def dispatch_of(
    train_step: TrainStep, batch_size: int, steps_per_epoch: int, class_weights: np.ndarray | None = None
) -> Dispatch:  # fmt: skip
    """Return the pure function that `make_dispatch` compiles."""

    def one_step(
        state: TrainState, data: DeviceSplit, order: jax.Array | None, key: jax.Array, hyperparameters: Hyperparameters,
        start: jax.Array | None, boxes: jax.Array | None,
    ) -> TrainState:  # fmt: skip
        position = state.step % steps_per_epoch
        metrics = _of_epoch(state.metrics, position)
        first = position if start is None else position - start
        batch, key = picked(data, order, key, state.step, first, batch_size, boxes, class_weights)
        return replicate(train_step(state._replace(metrics=metrics), batch, key, hyperparameters))

    def dispatch(
        state: TrainState, data: DeviceSplit, order: jax.Array | None, key: jax.Array,
        hyperparameters: Hyperparameters, *, steps: int, start: jax.Array | None = None, boxes: jax.Array | None = None,
    ) -> tuple[TrainState, EpochMetrics]:  # fmt: skip
        if steps == 1:
            state = one_step(state, data, order, key, hyperparameters, start, boxes)
        else:
            state, _ = lax.scan(
                lambda s, _: (one_step(s, data, order, key, hyperparameters, start, boxes), None), state, length=steps
            )
        return state, jax.tree.map(jnp.copy, state.metrics)

    return dispatch
