"""Shear, translation and rotation of one image by one affine map, nearest neighbor, with black outside the image.

A map float32 [2, 3] takes (x, y, 1) of an output pixel to (x, y) of its source, in pixels from the image's center; x
points right and y down. Its direction and centers are those of torchvision's automatic augmentation.
"""

import jax
import jax.numpy as jnp


def identity() -> jax.Array:
    """Return the map that keeps an image."""
    return jnp.eye(2, 3, dtype=jnp.float32)


def shear_x(magnitude: jax.Array, height: int, width: int) -> jax.Array:
    """Return the map that shifts each row left by ``magnitude`` times its distance from the top edge."""
    return identity().at[0, 1].set(magnitude).at[0, 2].set(magnitude * height / 2)


def shear_y(magnitude: jax.Array, height: int, width: int) -> jax.Array:
    """Return the map that shifts each column up by ``magnitude`` times its distance from the left edge."""
    return identity().at[1, 0].set(magnitude).at[1, 2].set(magnitude * width / 2)


def translate_x(magnitude: jax.Array, height: int, width: int) -> jax.Array:
    """Return the map that moves an image right by ``magnitude`` pixels, rounded towards 0."""
    return identity().at[0, 2].set(-jnp.trunc(magnitude))


def translate_y(magnitude: jax.Array, height: int, width: int) -> jax.Array:
    """Return the map that moves an image down by ``magnitude`` pixels, rounded towards 0."""
    return identity().at[1, 2].set(-jnp.trunc(magnitude))


def rotate(magnitude: jax.Array, height: int, width: int) -> jax.Array:
    """Return the map that rotates an image counterclockwise about its center by ``magnitude`` degrees."""
    angle = jnp.deg2rad(magnitude)
    cosine, sine, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros((), jnp.float32)
    return jnp.stack([jnp.stack([cosine, -sine, zero]), jnp.stack([sine, cosine, zero])])


def warp(image: jax.Array, inverse: jax.Array) -> jax.Array:
    """Return the image [H, W, C] whose pixels come from where the map ``inverse`` [2, 3] points to."""
    height, width, _ = image.shape
    x = jnp.arange(width, dtype=jnp.float32)[None] - (width - 1) / 2
    y = jnp.arange(height, dtype=jnp.float32)[:, None] - (height - 1) / 2
    column = jnp.round(inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2] + (width - 1) / 2)
    row = jnp.round(inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2] + (height - 1) / 2)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = (jnp.where(inside, place, 0).astype(jnp.int32) for place in (row, column))
    return jnp.where(inside[..., None], image[row, column], jnp.zeros((), image.dtype))
