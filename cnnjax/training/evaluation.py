"""Evaluation over a whole split. Every image counts exactly once."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.data import DeviceSplit, Loader, Preprocessing, Source, normalize
from cnnjax.data.loader import padded_batches
from cnnjax.functional import Variables, apply
from cnnjax.models.layers import Arch
from cnnjax.parallel import Placement, current_placement, replicate, split_batch
from cnnjax.system import signals
from cnnjax.training.views import Views, views_of


class EvalSums(NamedTuple):
    """Sums over the unmasked images of a batch."""

    loss: jax.Array
    top1: jax.Array
    top5: jax.Array


def label_ranks(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the rank [N] of each label by its logit: 0 is top-1. Ties go to the lower class."""
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=1)
    classes = jnp.arange(logits.shape[1], dtype=labels.dtype)[None, :]
    before = (logits > of_label) | ((logits == of_label) & (classes < labels[:, None]))
    return before.sum(axis=1, dtype=jnp.int32)


@functools.partial(jax.jit, static_argnames=("arch", "preprocessing"))
def eval_step(
    arch: Arch,
    preprocessing: Preprocessing,
    variables: Variables,
    data: DeviceSplit,
    indices: jax.Array | None,
    mask: jax.Array,
) -> EvalSums:
    """Return the sums over the images at ``indices`` [B] (None: all) where ``mask`` [B] is True."""
    labels, images = (array if indices is None else array[indices] for array in (data.labels, data.images))
    labels, images = split_batch((labels, images))
    outputs, _ = apply(arch, variables, normalize(preprocessing, images, arch.dtype))
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
    # NaN compares false with every logit, so without this check it would rank first and count as correct.
    ranks = jnp.where(jnp.isfinite(losses), label_ranks(outputs.logits, labels), outputs.logits.shape[1])
    return EvalSums(
        loss=jnp.where(mask, losses, jnp.zeros((), losses.dtype)).sum(),
        top1=(mask & (ranks < 1)).sum(dtype=jnp.int32),
        top5=(mask & (ranks < 5)).sum(dtype=jnp.int32),
    )


@functools.partial(jax.jit, static_argnames=("arch", "preprocessing"))
def logits_step(arch: Arch, preprocessing: Preprocessing, variables: Variables, images: jax.Array) -> jax.Array:
    """Return the logits [N, classes] of images uint8 [N, H, W, C], in float32 or float64 (see `apply`)."""
    return replicate(apply(arch, variables, normalize(preprocessing, split_batch(images), arch.dtype))[0].logits)


def evaluate(
    arch: Arch, preprocessing: Preprocessing, variables: Variables, loader: Loader, batch_size: int,
    poll: Callable[[], None] = signals.poll,
) -> dict[str, float]:  # fmt: skip
    """Return the mean cross-entropy ``loss`` (nats, without label smoothing) and the accuracies ``top1`` and ``top5``.

    ``poll`` is called between batches, so that the caller can interrupt. Few batches are queued on the device at once.
    """
    step = functools.partial(eval_step, arch, preprocessing, current_placement().spread(variables))
    fetched, count = _sums(step, loader, batch_size, poll)
    return _means(fetched, count)


def evaluate_members(
    arch: Arch, preprocessing: Preprocessing, variables: Variables, loader: Loader, batch_size: int,
    poll: Callable[[], None] = signals.poll,
) -> list[dict[str, float]]:  # fmt: skip
    """Return what `evaluate` returns, for each member of variables with a leading axis over the members."""
    step = functools.partial(stacked_eval_step, arch, preprocessing, current_placement().spread(variables))
    fetched, count = _sums(step, loader, batch_size, poll)
    members = len(fetched[0].loss)
    return [_means([EvalSums(*(leaf[m] for leaf in sums)) for sums in fetched], count) for m in range(members)]


@functools.partial(jax.jit, static_argnames=("arch", "preprocessing"))
def stacked_eval_step(
    arch: Arch, preprocessing: Preprocessing, variables: Variables, data: DeviceSplit, indices: jax.Array,
    mask: jax.Array,
) -> EvalSums:  # fmt: skip
    """Return the sums [M] of `eval_step` for variables with a leading axis [M]."""
    return jax.vmap(lambda member: eval_step(arch, preprocessing, member, data, indices, mask))(variables)


def _sums(
    step: Callable[..., EvalSums], loader: Loader, batch_size: int, poll: Callable[[], None]
) -> tuple[list[EvalSums], int]:
    """Return the sums of each batch on the host, and the number of images."""
    sums: list[EvalSums] = []
    count, placement = 0, current_placement()
    for data, indices, mask in loader.evaluation(batch_size):
        with placement.active():
            sums.append(step(data, indices, mask))
        count += int(mask.sum())
        if len(sums) > loader.in_flight:
            jax.block_until_ready(sums[-loader.in_flight])
        poll()
    return jax.device_get(sums), count


def _means(sums: list[EvalSums], count: int) -> dict[str, float]:
    return {name: math.fsum(float(getattr(s, name)) for s in sums) / count for name in EvalSums._fields}


def _split(placement: Placement, images: np.ndarray) -> np.ndarray | jax.Array:
    """Return images split over the devices; on one device the array itself, which the program then sends."""
    return images if placement.count == 1 else placement.split(images)


def predict_logits(
    arch: Arch, preprocessing: Preprocessing, variables: Variables, source: Source, batch_size: int, views: Views = 1
) -> np.ndarray:
    """Return the logits [N, classes] of all images of a source on the host, in float32 or float64.

    With several ``views``, they are the mean over the views of each image.
    """
    parts, placement = [], current_placement()
    variables = placement.spread(variables)
    for indices, mask in padded_batches(len(source.labels), batch_size, placement.count):
        with placement.active():
            of_views = [
                np.asarray(logits_step(arch, preprocessing, variables, _split(placement, images)))[mask]
                for images in views_of(source.read(indices), views)
            ]
        parts.append(of_views[0] if views == 1 else np.mean(of_views, axis=0))
        signals.poll()
    return np.concatenate(parts)
