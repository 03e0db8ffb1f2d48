"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): each image of a batch is mixed with its predecessor.

One share is drawn per batch, as in torchvision and in timm's batch mode. The order of the images is random, so the
predecessor is a random partner.
"""

import jax
import jax.numpy as jnp

from cnnjax.config import Augmentation
from cnnjax.data.augmentation.erasing import inside
from cnnjax.losses import Batch


def mixes(config: Augmentation) -> bool:
    """Return whether images are mixed."""
    return bool(config.mixup or config.cutmix)


def mix(config: Augmentation, key: jax.Array, batch: Batch, classes: int) -> Batch:
    """Return the batch mixed by mixup or by CutMix, with float32 images and soft labels [N, classes].

    The batch is mixed with probability ``mix_probability``; if both methods have an alpha, CutMix is chosen with
    probability ``cutmix_share``.
    """
    height, width = batch.images.shape[1:3]
    mixup_key, cutmix_key, box_key, method_key, mixed_key = jax.random.split(key, 5)
    shares = jnp.ones((height, width), jnp.float32)
    if config.mixup:
        alpha = jnp.float32(config.mixup)
        shares = shares * jax.random.beta(mixup_key, alpha, alpha, dtype=jnp.float32)
    if config.cutmix:
        alpha = jnp.float32(config.cutmix)
        share = jax.random.beta(cutmix_key, alpha, alpha, dtype=jnp.float32)
        box = cutmix_box(share, jax.random.uniform(box_key, (2,), jnp.float32), height, width)
        cut = 1 - inside(box[None], height, width)[0].astype(jnp.float32)
        is_cut = jax.random.bernoulli(method_key, config.cutmix_share if config.mixup else 1.0)
        shares = jnp.where(is_cut, cut, shares)
    is_mixed = jax.random.bernoulli(mixed_key, config.mix_probability)
    return blended(batch, jnp.where(is_mixed, shares, 1), classes)


def cutmix_box(share: jax.Array, center: jax.Array, height: int, width: int) -> jax.Array:
    """Return the rectangle int32 [4] (top, left, height, width) that comes from the predecessor (Yun et al. 2019, 3.1).

    It covers 1 - ``share`` of the area before it is cut off at the border. ``center`` float32 [2] in [0, 1) is its
    center (y, x) in units of the image's size.
    """
    size = jnp.array([height, width], jnp.int32)
    scale = size.astype(jnp.float32)
    half = (0.5 * jnp.sqrt(1 - share) * scale).astype(jnp.int32)
    middle = (center * scale).astype(jnp.int32)
    start, end = jnp.maximum(middle - half, 0), jnp.minimum(middle + half, size)
    return jnp.concatenate([start, end - start])


def blended(batch: Batch, shares: jax.Array, classes: int) -> Batch:
    """Return ``share * image + (1 - share) * predecessor`` and the labels in the same proportion.

    ``shares`` float32 [H, W] holds the share of each pixel; that of a label is their mean. With weights, the mixed
    weight is the mean of both weights in that proportion, and each label counts by its weight, so that the weighted
    loss equals the mean of the losses for the two labels, each with its own weight.
    """
    images = batch.images.astype(jnp.float32)
    pixel = shares[None, :, :, None]
    images = pixel * images + (1 - pixel) * jnp.roll(images, 1, axis=0)
    share, targets, weights = shares.mean(), batch.soft_targets(classes, jnp.float32), batch.weights
    if weights is None:
        return Batch(images, share * targets + (1 - share) * jnp.roll(targets, 1, axis=0))
    own, other = share * weights, (1 - share) * jnp.roll(weights, 1)
    total = own + other
    # If both weights are 0, the example does not count, whatever its labels are.
    part = jnp.where(total > 0, own / jnp.where(total > 0, total, 1), 1)[:, None]
    return Batch(images, part * targets + (1 - part) * jnp.roll(targets, 1, axis=0), total)
