"""Random resized crops, as torchvision's `RandomResizedCrop` draws them (Szegedy et al. 2015, section 6).

The box of an image is a pure function of (seed, epoch, index). `draw_boxes` draws it on the host; `Photos.read_crops`
cuts it from the decoded photo, `resize_boxes` on the device from an image that is already there.
"""

import jax
import jax.numpy as jnp
import numpy as np

RATIOS = (3 / 4, 4 / 3)
"""Smallest and largest width / height of a box."""
ATTEMPTS = 10
"""Attempts per image; if no box fits, the largest centered box with a permitted ratio is used."""
UNIFORMS = 4
"""Random numbers per attempt: area, ratio, top and left. Philox generates this many per counter value."""


def draw_boxes(
    seed: int, epoch: int, indices: np.ndarray, heights: np.ndarray, widths: np.ndarray, smallest: float
) -> np.ndarray:
    """Return a box for each image as int32 [K, 4]: top, left, height and width in pixels.

    Args:
        seed: seed of the run.
        epoch: counted from 0.
        indices: int [K], the images' positions in the training split.
        heights: int [K], in pixels.
        widths: int [K], in pixels.
        smallest: smallest share of an image's area that a box covers, in (0, 1]; the largest is 1.
    """
    uniforms = _uniforms(seed, epoch, indices)
    heights, widths = (np.asarray(sizes, np.float64)[:, None] for sizes in (heights, widths))
    area = heights * widths * (smallest + (1 - smallest) * uniforms[..., 0])
    low, high = np.log(RATIOS)
    ratio = np.exp(low + (high - low) * uniforms[..., 1])
    width, height = np.round(np.sqrt(area * ratio)), np.round(np.sqrt(area / ratio))
    fits = (width > 0) & (width <= widths) & (height > 0) & (height <= heights)
    row, first = np.arange(len(uniforms)), fits.argmax(axis=1)
    height, width, heights, widths = height[row, first], width[row, first], heights[:, 0], widths[:, 0]
    top = np.floor(uniforms[row, first, 2] * (heights - height + 1))
    left = np.floor(uniforms[row, first, 3] * (widths - width + 1))
    boxes = np.stack([top, left, height, width], axis=1)
    return np.where(fits.any(axis=1)[:, None], boxes, _centered(heights, widths)).astype(np.int32)


def _uniforms(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """Return numbers in [0, 1), float64 [K, ATTEMPTS, UNIFORMS].

    The numbers of index i start at Philox's counter i * ATTEMPTS, so that a range of indices can be drawn in one call.
    """
    if not len(indices):
        return np.empty((0, ATTEMPTS, UNIFORMS))
    low, high = int(indices.min()), int(indices.max()) + 1
    if high - low <= 4 * len(indices):
        generator = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=low * ATTEMPTS))
        return generator.random((high - low, ATTEMPTS, UNIFORMS))[np.asarray(indices) - low]
    return np.concatenate([_uniforms(seed, epoch, indices[k : k + 1]) for k in range(len(indices))])


def _centered(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Return the largest centered boxes with a permitted ratio, float64 [K, 4]."""
    low, high = RATIOS
    width = np.minimum(widths, np.round(heights * high))
    height = np.minimum(heights, np.round(widths / low))
    return np.stack([(heights - height) // 2, (widths - width) // 2, height, width], axis=1)


def resize_boxes(images: jax.Array, boxes: jax.Array) -> jax.Array:
    """Cut ``boxes`` int32 [N, 4] from images uint8 [N, H, W, C] and resize them to the same shape.

    The filter is bilinear and antialiased. It also reads pixels just outside the box, as Pillow does for
    ``resize(box=...)``.
    """
    height, width = images.shape[1:3]

    def one(image: jax.Array, box: jax.Array) -> jax.Array:
        corner, size = box[:2].astype(jnp.float32), box[2:].astype(jnp.float32)
        scale = jnp.array([height, width], jnp.float32) / size
        return jax.image.scale_and_translate(
            image.astype(jnp.float32), image.shape, (0, 1), scale, -corner * scale, "linear", antialias=True
        )

    return jnp.clip(jnp.round(jax.vmap(one)(images, boxes)), 0, 255).astype(jnp.uint8)
