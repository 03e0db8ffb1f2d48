"""Random changes of training images, on the device inside the jitted step, before `normalize`.

Random resized crops are drawn and cut by `cnnjax.data.crops`; everything else is a function of the step's key. Each
operation is also a pure function of explicit parameters, such as offsets, factors or boxes.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.config import Augmentation
from cnnjax.data.augmentation import color, erasing, policies
from cnnjax.data.augmentation.mixing import mix, mixes
from cnnjax.data.preprocessing import Preprocessing
from cnnjax.errors import UserError

__all__ = ["augment", "crop", "draw_offsets", "mix", "mixes", "require_fit"]

COLOR, POLICY, ERASING = 2, 3, 4
"""Streams of the step's key. 0 and 1 are the keys of crop and flip, which `jax.random.split` derives."""
CHANNELS = (1, 3)
"""Numbers of channels of images whose colors can be changed."""


def augment(
    config: Augmentation, key: jax.Array, images: jax.Array, preprocessing: Preprocessing | None = None
) -> jax.Array:  # fmt: skip
    """Map uint8 [N, H, W, C] to the same shape.

    The changes are applied in this order, and drawn independently for each image: a crop of the padded image and a
    horizontal flip (He et al. 2015, section 4.2: CIFAR-10, padding 4), color jitter, RandAugment or TrivialAugment, and
    random erasing. ``preprocessing`` has the mean color that erasing fills in; None stands for black.
    """
    crop_key, flip_key = jax.random.split(key)
    if config.pad_crop:
        images = crop(images, draw_offsets(crop_key, len(images), config.pad_crop), config.pad_crop)
    if config.flip:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    if color.ranges(config):
        images = color.jitter(config, jax.random.fold_in(key, COLOR), images)
    if config.auto_augment != "none":
        images = policies.augment(config, jax.random.fold_in(key, POLICY), images)
    if config.erase:
        mean = erasing.mean_color(preprocessing, images.shape[-1])
        key = jax.random.fold_in(key, ERASING)
        images = erasing.erase_some(config.erase, config.erase_fill, key, images, mean)
    return images


def require_fit(config: Augmentation, shape: tuple[int, int, int], batch_size: int) -> None:
    """Raise UserError if batches of images [H, W, C] of ``shape`` cannot be augmented in this way."""
    height, width, channels = shape
    if config.pad_crop >= min(height, width):
        raise UserError(
            f"augmentation.pad_crop is {config.pad_crop} and the images are {width}x{height}; it must be "
            f"{min(height, width) - 1} or less, so that each crop contains part of its image"
        )
    if channels not in CHANNELS and (color.ranges(config) or config.auto_augment != "none"):
        raise UserError(
            f"the images have {channels} channels; color jitter and augmentation.auto_augment need 1 or 3, so turn "
            "them off"
        )
    if mixes(config) and batch_size == 1:
        raise UserError(
            "train.batch_size is 1; mixup and cutmix mix images of one batch, so set it to 2 or more, or turn them off"
        )


def draw_offsets(key: jax.Array, count: int, padding: int) -> jax.Array:
    """Return the upper left corners int32 [N, 2] of crops of the padded images, drawn uniformly."""
    return jax.random.randint(key, (count, 2), 0, 2 * padding + 1)


def crop(images: jax.Array, offsets: jax.Array, padding: int) -> jax.Array:
    """Pad [N, H, W, C] with zeros on each side and crop it to its original size at ``offsets`` [N, 2]."""
    edge = (padding, padding)
    padded = jnp.pad(images, ((0, 0), edge, edge, (0, 0)))
    shape = images.shape[1:]
    return jax.vmap(lambda image, offset: lax.dynamic_slice(image, (offset[0], offset[1], 0), shape))(padded, offsets)
