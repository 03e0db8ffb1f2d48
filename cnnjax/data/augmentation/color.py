"""Brightness, contrast, saturation, hue and sharpness of one image uint8 [H, W, C], and color jitter of a batch.

The formulas are those of torchvision.transforms.v2 for uint8 tensors: factor 1 keeps an image, results are clipped to
[0, 255] and rounded down. Saturation and hue do not change images with one channel.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.config import Augmentation

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a gray value (ITU-R BT.601)."""


def jitter(config: Augmentation, key: jax.Array, images: jax.Array) -> jax.Array:
    """Change brightness, contrast, saturation and hue of uint8 [N, H, W, C] by random factors in random order.

    Factors and order are drawn independently for each image, as `torchvision.transforms.v2.ColorJitter` does. The
    factor of brightness b is uniform in [max(0, 1 - b), 1 + b], likewise contrast and saturation; the shift of hue h is
    uniform in [-h, h].
    """
    limits = ranges(config)
    low, high = (jnp.array(ends, jnp.float32)[None] for ends in zip(*limits.values(), strict=True))
    factor_key, order_key = jax.random.split(key)
    shape = (len(images), len(limits))
    factors = low + (high - low) * jax.random.uniform(factor_key, shape, jnp.float32)
    order = jnp.broadcast_to(jnp.arange(len(limits), dtype=jnp.int32), shape)
    order = jax.random.permutation(order_key, order, axis=1, independent=True)
    return adjust(tuple(limits), images, order, factors)


def ranges(config: Augmentation) -> dict[str, tuple[float, float]]:
    """Return the ranges of the factors, and of the shift of hue, by the names of the adjustments that are on."""
    widths = {"brightness": config.brightness, "contrast": config.contrast, "saturation": config.saturation}
    limits = {name: (max(0.0, 1 - width), 1.0 + width) for name, width in widths.items() if width}
    return {**limits, "hue": (-config.hue, config.hue)} if config.hue else limits


def adjust(names: tuple[str, ...], images: jax.Array, order: jax.Array, factors: jax.Array) -> jax.Array:
    """Apply adjustments to uint8 [N, H, W, C], one after another.

    Args:
        names: keys of `ADJUSTMENTS`, K of them.
        images: uint8 [N, H, W, C].
        order: int32 [N, K], the positions in ``names`` in the order of application.
        factors: float32 [N, K], the factor of each name, or the shift in turns for hue.
    """
    functions = [ADJUSTMENTS[name] for name in names]

    def one(image: jax.Array, chosen: jax.Array, factors: jax.Array) -> jax.Array:
        return lax.switch(chosen, functions, image, factors[chosen])

    # Without a loop, XLA computes an adjustment again for each use of its result in the next one.
    def at(position: jax.Array, images: jax.Array) -> jax.Array:
        return jax.vmap(one)(images, order[:, position], factors)

    return lax.fori_loop(0, len(names), at, images)


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Return the image blended with black."""
    return blend(image, jnp.zeros((1, 1, 1), jnp.float32), factor)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Return the image blended with the mean of its gray values."""
    return blend(image, gray(image).mean(keepdims=True), factor)


def saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Return the image blended with its gray values."""
    return image if image.shape[-1] == 1 else blend(image, gray(image), factor)


def sharpness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Return the image blended with a smoothed one, without its border of one pixel, which stays as it is."""
    pixels = image.astype(jnp.float32)
    return to_uint8(pixels + (smooth(image) - pixels) * (1 - factor))


def hue(image: jax.Array, shift: jax.Array) -> jax.Array:
    """Return the image with its hue shifted by ``shift`` turns of the color circle, in [-0.5, 0.5]."""
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., channel].astype(jnp.float32) / 255 for channel in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    span = value - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(span == 0, 1, span)
    sixths = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sixths = sixths + 6 * shift
    distances = [_modulo(sixths + start, 6) for start in (5.0, 3.0, 1.0)]
    channels = [value - span * jnp.clip(jnp.minimum(far, 4 - far), 0, 1) for far in distances]
    # As torchvision converts [0, 1] to uint8: each value has an interval of nearly equal length.
    return to_uint8(jnp.stack(channels, axis=-1) * 255.999)


def _modulo(number: jax.Array, divisor: float) -> jax.Array:
    """Return the remainder, by operations that a CPU vectorizes."""
    return number - divisor * jnp.floor(number / divisor)


ADJUSTMENTS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue,
}  # fmt: skip
"""The adjustments of color jitter by name; the first three take a factor, hue a shift."""


def blend(image: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    """Return ``factor * image + (1 - factor) * other`` as uint8 [H, W, C].

    ``other`` is float32 [H, W, C], or has axes of length 1 instead. A factor above 1 moves away from it.
    """
    return to_uint8(image.astype(jnp.float32) * factor + other * (1 - factor))


def gray(image: jax.Array) -> jax.Array:
    """Return the gray values float32 [H, W, 1], rounded down."""
    pixels = image.astype(jnp.float32)
    if image.shape[-1] == 1:
        return pixels
    red, green, blue = LUMA
    return jnp.floor(pixels[..., :1] * red + pixels[..., 1:2] * green + pixels[..., 2:] * blue)


def smooth(image: jax.Array) -> jax.Array:
    """Return float32 [H, W, C]: each pixel's mean with its 8 neighbors, weighted 5 to 1; the border stays as it is."""
    pixels = image.astype(jnp.int32)
    height, width, _ = pixels.shape
    if height < 3 or width < 3:
        return image.astype(jnp.float32)
    windows = [
        pixels[row : height - 2 + row, column : width - 2 + column] for row in range(3) for column in range(3)
    ]  # fmt: skip
    weighted = sum(windows[1:], windows[0]) + 4 * windows[4]
    inner = jnp.round(weighted.astype(jnp.float32) / 13)
    return image.astype(jnp.float32).at[1:-1, 1:-1].set(inner)


def to_uint8(pixels: jax.Array) -> jax.Array:
    """Clip to [0, 255] and round down."""
    return jnp.clip(pixels, 0, 255).astype(jnp.uint8)
