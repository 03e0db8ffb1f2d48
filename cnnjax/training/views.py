"""Views of an image, whose mean logits classify it better than those of the image alone (test-time augmentation)."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

Views = Literal[1, 2, 6]
"""1: the image; 2: also its mirror image; 6: also both, shifted by one pixel down and right, and up and left."""
SHIFT = 1
"""Pixels by which a view is shifted."""


def views_of(images: np.ndarray, count: Views) -> Iterator[np.ndarray]:
    """Yield ``count`` views [N, H, W, C] of images [N, H, W, C].

    They are those of Jordan 2024 (airbench), section 3.5: the image, the image moved down and right, and up and left,
    with its edge reflected, and the mirror image of each.
    """
    for image in _shifted(images) if count == 6 else [images]:
        yield image
        if count > 1:
            yield image[:, :, ::-1]


def _shifted(images: np.ndarray) -> Iterator[np.ndarray]:
    height, width = images.shape[1:3]
    edge = (SHIFT, SHIFT)
    mode: Literal["edge", "reflect"] = "reflect" if min(height, width) > SHIFT else "edge"
    padded = np.pad(images, ((0, 0), edge, edge, (0, 0)), mode=mode)
    for start in (SHIFT, 0, 2 * SHIFT):
        yield padded[:, start : start + height, start : start + width]
