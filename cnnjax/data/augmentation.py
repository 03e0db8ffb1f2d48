"""Random crops and flips of training images, on the device inside the jitted step, before `normalize`; see also
`crops`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.config import Augmentation


def augment(config: Augmentation, key: jax.Array, images: jax.Array) -> jax.Array:
    """Map uint8 [N, H, W, C] to the same shape: a random crop of the padded image, then a random horizontal flip.

    Both are drawn independently for each image, as in He et al. 2015, section 4.2 (CIFAR-10, padding 4).
    """
    crop_key, flip_key = jax.random.split(key)
    if config.pad_crop:
        images = crop(images, draw_offsets(crop_key, len(images), config.pad_crop), config.pad_crop)
    if config.flip:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images


def draw_offsets(key: jax.Array, count: int, padding: int) -> jax.Array:
    """Return the upper left corners int32 [N, 2] of crops of the padded images, drawn uniformly."""
    return jax.random.randint(key, (count, 2), 0, 2 * padding + 1)


def crop(images: jax.Array, offsets: jax.Array, padding: int) -> jax.Array:
    """Pad [N, H, W, C] with zeros on each side and crop it to its original size at ``offsets`` [N, 2]."""
    edge = (padding, padding)
    padded = jnp.pad(images, ((0, 0), edge, edge, (0, 0)))
    shape = images.shape[1:]
    return jax.vmap(lambda image, offset: lax.dynamic_slice(image, (offset[0], offset[1], 0), shape))(padded, offsets)
