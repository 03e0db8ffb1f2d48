"""A heat map drawn over the image that it explains."""

import io
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from cnnjax.system.files import write_bytes

SMALLEST_SIDE = 224
"""Smaller images are enlarged to this length of the short side in pixels, or more."""
OPACITY = 0.5
"""Opacity of the colors where the heat map is largest; elsewhere it is proportionally less."""


def draw(image: np.ndarray, heat: np.ndarray) -> Image.Image:
    """Return a heat map float [h, w], 0 or more, over an image uint8 [H, W, C], with C = 1 or 3.

    The map is scaled to its maximum and enlarged bilinearly; where it is 0, the image shows.
    """
    height, width, _ = image.shape
    factor = -(-SMALLEST_SIDE // min(height, width)) if min(height, width) < SMALLEST_SIDE else 1
    size = (width * factor, height * factor)
    photo = Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).convert("RGB")
    largest = heat.max(initial=0)
    share = (heat / largest if largest > 0 else heat).astype(np.float32)
    enlarged = np.asarray(Image.fromarray(share).resize(size, Image.Resampling.BILINEAR))[..., None]
    colors = matplotlib.colormaps["turbo"](enlarged[..., 0])[..., :3]
    pixels = np.asarray(photo.resize(size, Image.Resampling.NEAREST), np.float32) / 255
    mixed = pixels + OPACITY * enlarged * (colors - pixels)
    return Image.fromarray(np.rint(255 * mixed).clip(0, 255).astype(np.uint8))


def save(picture: Image.Image, path: Path) -> None:
    """Save a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
