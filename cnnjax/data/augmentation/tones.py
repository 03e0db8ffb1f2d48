"""Changes of one image's values uint8 [H, W, C] that do not depend on the place of a pixel.

The formulas are those of torchvision.transforms.v2 for uint8 tensors. Results are rounded down; `autocontrast` computes
them exactly, where torchvision's floats may be one level lower or higher.
"""

import jax
import jax.numpy as jnp


def posterize(image: jax.Array, bits: jax.Array) -> jax.Array:
    """Keep the ``bits`` highest bits of each value, 0 to 8; a fraction of a bit is dropped."""
    cleared = 8 - bits.astype(jnp.int32)
    return ((image.astype(jnp.int32) >> cleared) << cleared).astype(jnp.uint8)


def solarize(image: jax.Array, threshold: jax.Array) -> jax.Array:
    """Invert values of ``threshold`` times 255 or more."""
    return jnp.where(image.astype(jnp.float32) >= threshold * 255, 255 - image, image)


def autocontrast(image: jax.Array) -> jax.Array:
    """Stretch the values of each channel to 0 to 255; a channel with a single value stays as it is."""
    pixels = image.astype(jnp.int32)
    low, high = pixels.min(axis=(0, 1), keepdims=True), pixels.max(axis=(0, 1), keepdims=True)
    stretched = (pixels - low) * 255 // jnp.maximum(high - low, 1)
    return jnp.where(high == low, image, stretched.astype(jnp.uint8))


def equalize(image: jax.Array) -> jax.Array:
    """Spread the values of each channel evenly, as Pillow's `ImageOps.equalize` does.

    A channel with fewer than 255 pixels below its largest value stays as it is.
    """
    height, width, channels = image.shape
    pixels, channel = image.astype(jnp.int32), jnp.arange(channels, dtype=jnp.int32)[None, None]
    counts = jnp.zeros((channels, 256), jnp.int32).at[channel, pixels].add(1)
    below = jnp.cumsum(counts, axis=1) - counts
    step = below[channel, pixels.max(axis=(0, 1), keepdims=True)] // 255
    spread = (below[channel, pixels] + step // 2) // jnp.maximum(step, 1)
    return jnp.where(step == 0, image, jnp.clip(spread, 0, 255).astype(jnp.uint8))
