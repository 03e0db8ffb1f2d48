"""Resize and crop as in torchvision; `make oracle` compares whole pipelines with torchvision itself."""

import numpy as np
import pytest
from PIL import Image

from cnnjax.data.preprocessing import Preprocessing, fit
from cnnjax.errors import UserError

SHORT = Preprocessing(height=224, width=224, mean=(0.5,) * 3, std=(0.5,) * 3, resize="short", resize_size=256)
EXACT = Preprocessing(height=224, width=224, mean=(0.5,) * 3, std=(0.5,) * 3)


def gradient(width, height):
    """An image with red increasing from left to right and green from top to bottom."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


def test_a_wide_photo_is_cropped_without_distortion():
    pixels = np.asarray(fit(gradient(600, 300), SHORT))
    assert pixels.shape == (224, 224, 3)
    # 600x300 becomes 512x256; the crop keeps columns 144 to 368 and rows 16 to 240.
    assert abs(int(pixels[0, 0, 0]) - 255 * 144 / 512) < 2
    assert abs(int(pixels[0, -1, 0]) - 255 * 367 / 512) < 2
    assert abs(int(pixels[0, 0, 1]) - 255 * 16 / 256) < 2
    squashed = np.asarray(fit(gradient(600, 300), EXACT))
    assert squashed[0, 0, 0] < 2 and squashed[0, -1, 0] > 253


@pytest.mark.parametrize("size", [(600, 300), (300, 600), (257, 255), (224, 224), (40, 30), (1, 900), (3000, 7)])
def test_output_size_is_the_crop_size(size):
    assert fit(gradient(*size), SHORT).size == (224, 224)


def test_a_crop_larger_than_the_photo_is_padded_with_zeros():
    small = SHORT.replace(resize_size=100)
    pixels = np.asarray(fit(Image.new("RGB", (100, 100), "white"), small))
    assert pixels.shape == (224, 224, 3)
    assert (pixels[62:162, 62:162] == 255).all()
    assert pixels.sum() == 255 * 3 * 100 * 100


@pytest.mark.parametrize("options", [{"resize": "short"}, {"resize": "exact", "resize_size": 256}])
def test_size_requires_resize_short(options):
    with pytest.raises(UserError, match="give a size with 'short', and none with 'exact'"):
        EXACT.replace(**options)


def test_description_lists_every_step():
    assert SHORT.describe() == (
        "resize the short side to 256 (bilinear), crop the center 224x224, RGB, "
        "(pixels / 255 - [0.5, 0.5, 0.5]) / [0.5, 0.5, 0.5]"
    )


def test_checkpoints_of_earlier_versions_resize_to_the_exact_size():
    stored = EXACT.to_dict()
    for field in ("resize", "resize_size", "interpolation"):
        del stored[field]
    assert Preprocessing.from_dict(stored) == EXACT
