"""Arrays of pixels: their allocation, mean and standard deviation."""

from pathlib import Path

import numpy as np

from cnnjax.errors import UserError

MOST_PIXEL_BYTES = 16 * 2**30
CHUNK_BYTES = 2**24


def training_statistics(place: Path, images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return `mean_and_std` of training images; raise UserError if a channel is constant."""
    mean, std = mean_and_std(images)
    if not min(std):
        raise UserError(f"{place}: a channel has the same value in all training images; give images that differ")
    return mean, std


def mean_and_std(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation by channel of uint8 [N, H, W, C] / 255, rounded to four digits.

    They are computed from a histogram, so the images are not copied.
    """
    values = np.arange(256) / 255
    step = max(1, CHUNK_BYTES // images[0].size)
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), step):
            counts += np.bincount(images[start : start + step, ..., channel].ravel(), minlength=256)
        shares = counts / counts.sum()
        mean = shares @ values
        means.append(round(float(mean), 4))
        stds.append(round(float(np.sqrt(shares @ (values - mean) ** 2)), 4))
    return tuple(means), tuple(stds)


def allocate_pixels(place: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return an uninitialized array uint8 [N, H, W, C]; raise UserError above 16 GiB."""
    size = int(np.prod(shape, dtype=object))
    if size > MOST_PIXEL_BYTES:
        raise UserError(
            f"{place} holds {shape[0]:,} images of {shape[2]}x{shape[1]} pixels, {size / 2**30:.1f} GiB decoded; "
            f"at most {MOST_PIXEL_BYTES // 2**30} GiB are allowed, so give fewer or smaller images"
        )
    return np.empty(shape, np.uint8)
