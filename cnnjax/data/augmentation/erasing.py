"""Random erasing (Zhong et al. 2020): a rectangle of an image is replaced by the mean color or by noise.

Areas, ratios and attempts are those of `torchvision.transforms.v2.RandomErasing`.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from cnnjax.data.preprocessing import Preprocessing

AREAS = (0.02, 0.33)
"""Smallest and largest share of an image's area that is erased."""
RATIOS = (0.3, 3.3)
"""Smallest and largest height / width of a rectangle."""
ATTEMPTS = 10
"""Attempts per image; if no rectangle fits, the image stays as it is."""


def erase_some(
    probability: float, fill: Literal["mean", "noise"], key: jax.Array, images: jax.Array, mean: tuple[int, ...]
) -> jax.Array:
    """Erase a random rectangle of each image of uint8 [N, H, W, C] with the given probability.

    ``mean`` is the mean color of the training images, one value from 0 to 255 per channel, in the order of the images.
    """
    count, height, width, _ = images.shape
    box_key, chosen_key, noise_key = jax.random.split(key, 3)
    boxes = boxes_of(jax.random.uniform(box_key, (count, ATTEMPTS, 4), jnp.float32), height, width)
    chosen = jax.random.bernoulli(chosen_key, probability, (count, 1))
    if fill == "noise":
        pixels = jax.random.bits(noise_key, images.shape, jnp.uint8)
    else:
        pixels = jnp.array(mean, jnp.uint8).reshape(1, 1, 1, -1)
    return erase(images, jnp.where(chosen, boxes, 0), pixels)


def mean_color(preprocessing: Preprocessing | None, channels: int) -> tuple[int, ...]:
    """Return the mean color of the preprocessing in 0 to 255, red first; black if there is no preprocessing.

    After normalization it differs from 0 by at most half a gray level.
    """
    if preprocessing is None:
        return (0,) * channels
    mean = tuple(min(max(round(255 * value), 0), 255) for value in preprocessing.mean)
    return mean[::-1] if preprocessing.channel_order == "bgr" else mean


def boxes_of(uniforms: jax.Array, height: int, width: int) -> jax.Array:
    """Return the rectangles int32 [N, 4] (top, left, height, width) that numbers in [0, 1) select.

    ``uniforms`` float32 [N, attempts, 4] determine area, ratio, top and left of each attempt. The first rectangle
    smaller than the image is used; if no attempt gives one, the result is an empty rectangle of zeros.
    """
    area = height * width * (AREAS[0] + (AREAS[1] - AREAS[0]) * uniforms[..., 0])
    low, high = (math.log(ratio) for ratio in RATIOS)
    ratio = jnp.exp(low + (high - low) * uniforms[..., 1])
    high_side, wide_side = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
    top = jnp.floor(uniforms[..., 2] * (height - high_side + 1))
    left = jnp.floor(uniforms[..., 3] * (width - wide_side + 1))
    fits = (high_side < height) & (wide_side < width)
    boxes = jnp.stack([top, left, high_side, wide_side], axis=-1)
    first = jnp.take_along_axis(boxes, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    return jnp.where(fits.any(axis=1)[:, None], first, 0).astype(jnp.int32)


def erase(images: jax.Array, boxes: jax.Array, pixels: jax.Array) -> jax.Array:
    """Replace the rectangles ``boxes`` int32 [N, 4] of images [N, H, W, C] by ``pixels``, which are broadcast."""
    return jnp.where(inside(boxes, *images.shape[1:3])[..., None], pixels, images)


def inside(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Return bool [N, H, W]: the pixels of rectangles int32 [N, 4] (top, left, height, width)."""
    top, left, high, wide = (boxes[:, number, None] for number in range(4))
    rows, columns = jnp.arange(height, dtype=jnp.int32)[None], jnp.arange(width, dtype=jnp.int32)[None]
    is_row, is_column = (rows >= top) & (rows < top + high), (columns >= left) & (columns < left + wide)
    return is_row[:, :, None] & is_column[:, None, :]
