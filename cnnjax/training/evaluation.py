"""Evaluation over a whole split: no image is dropped or counted twice."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.data import Preprocessing, Split, normalize
from cnnjax.functional import Variables, apply
from cnnjax.models.layers import Arch
from cnnjax.system import signals

IN_FLIGHT = 8
"""Calls that may be queued on the device before the host waits for the oldest, here and in training."""


class DeviceSplit(NamedTuple):
    """A split that stays on the device: images uint8 [N, H, W, C], labels int32 [N]."""

    images: jax.Array
    labels: jax.Array


class EvalSums(NamedTuple):
    """Sums over the unmasked images of a batch."""

    loss: jax.Array
    top1: jax.Array
    top5: jax.Array


def to_device(split: Split) -> DeviceSplit:
    return DeviceSplit(*map(jax.device_put, split))


def padded_batches(count: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (indices int32 [B], mask bool [B]) that cover ``range(count)`` once; the last batch is filled up."""
    batch_size = min(batch_size, count)
    for start in range(0, count, batch_size):
        indices = np.arange(start, start + batch_size, dtype=np.int32)
        mask = indices < count
        yield np.where(mask, indices, np.int32(0)), mask


def label_ranks(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return how many classes [N] stand before the label's: 0 is top-1. Of equal logits the lower class goes first."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    classes = jnp.arange(logits.shape[1], dtype=labels.dtype)[None, :]
    before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return before.sum(axis=1, dtype=jnp.int32)


@functools.partial(jax.jit, static_argnames=("arch", "preprocessing"))
def eval_step(
    arch: Arch,
    preprocessing: Preprocessing,
    variables: Variables,
    data: DeviceSplit,
    indices: jax.Array,
    mask: jax.Array,
) -> EvalSums:
    """Return the sums over the images at ``indices`` [B] where ``mask`` [B] holds."""
    labels = data.labels[indices]
    outputs, _ = apply(arch, variables, normalize(preprocessing, data.images[indices]))
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
    # A NaN has no rank: without the second condition it would stand before nothing and count as right.
    ranks = jnp.where(jnp.isfinite(losses), label_ranks(outputs.logits, labels), outputs.logits.shape[1])
    return EvalSums(
        loss=jnp.where(mask, losses, jnp.float32(0)).sum(),
        top1=(mask & (ranks < 1)).sum(dtype=jnp.int32),
        top5=(mask & (ranks < 5)).sum(dtype=jnp.int32),
    )


@functools.partial(jax.jit, static_argnames=("arch", "preprocessing"))
def logits_step(arch: Arch, preprocessing: Preprocessing, variables: Variables, images: jax.Array) -> jax.Array:
    """Return the logits float32 [N, classes] of images uint8 [N, H, W, C]."""
    return apply(arch, variables, normalize(preprocessing, images))[0].logits


def evaluate(
    arch: Arch, preprocessing: Preprocessing, variables: Variables, data: DeviceSplit, batch_size: int,
    poll: Callable[[], None] = signals.poll,
) -> dict[str, float]:  # fmt: skip
    """Return mean cross-entropy ``loss`` (nats, without label smoothing) and the shares ``top1`` and ``top5``.

    ``poll`` is called between batches, so that a caller can interrupt; no more than some are queued on the device.
    """
    count = len(data.labels)
    sums: list[EvalSums] = []
    for indices, mask in padded_batches(count, batch_size):
        sums.append(eval_step(arch, preprocessing, variables, data, indices, mask))
        if len(sums) > IN_FLIGHT:
            jax.block_until_ready(sums[-IN_FLIGHT])
        poll()
    fetched = jax.device_get(sums)
    return {name: math.fsum(float(getattr(s, name)) for s in fetched) / count for name in EvalSums._fields}


def predict_logits(
    arch: Arch, preprocessing: Preprocessing, variables: Variables, images: np.ndarray, batch_size: int
) -> np.ndarray:
    """Return the logits float32 [N, classes] of images uint8 [N, H, W, C], on the host."""
    parts = []
    for indices, mask in padded_batches(len(images), batch_size):
        logits = logits_step(arch, preprocessing, variables, images[indices])
        parts.append(np.asarray(logits)[mask])
        signals.poll()
    return np.concatenate(parts)
