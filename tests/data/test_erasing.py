import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow

from cnnjax.config import Augmentation
from cnnjax.data import Preprocessing
from cnnjax.data.augmentation import augment, erasing

KEY = jax.random.key(3)
PREPROCESSING = Preprocessing(height=24, width=16, mean=(0.2, 0.4, 0.6), std=(0.25, 0.25, 0.25))


def box_of(draws, height, width):
    """Return the rectangle as the paper draws it, attempt by attempt."""
    for area, ratio, top, left in draws.astype(float):
        area = height * width * (0.02 + 0.31 * area)
        ratio = np.exp(np.log(0.3) + (np.log(3.3) - np.log(0.3)) * ratio)
        h, w = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if h < height and w < width:
            return [int(top * (height - h + 1)), int(left * (width - w + 1)), h, w]
    return [0, 0, 0, 0]


@pytest.mark.parametrize(("height", "width", "attempts"), mostly_slow([(24, 16, 10), (6, 40, 10), (3, 60, 1)], 1))
def test_boxes_equal_numpy(height, width, attempts):
    uniforms = np.random.default_rng(0).random((300, attempts, 4), dtype=np.float32)
    actual = np.asarray(erasing.boxes_of(jnp.asarray(uniforms), height, width))
    assert actual.tolist() == [box_of(draws, height, width) for draws in uniforms]
    assert (actual[:, 2] == 0).any() == (attempts == 1)  # some do not fit


@pytest.mark.compiles_large
@pytest.mark.parametrize("fill", ["mean", "noise"])
def test_erased_pixels_are_the_mean_color_or_noise(fill):
    images = np.full((400, 24, 16, 3), 1, np.uint8)
    config = Augmentation(erase=0.25, erase_fill=fill)
    actual = np.asarray(augment(config, KEY, jnp.asarray(images), PREPROCESSING))
    changed = (actual != 1).any(axis=-1)
    erased = changed.any(axis=(1, 2))
    assert abs(erased.mean() - 0.25) < 0.06
    if fill == "mean":
        assert (actual[changed] == [51, 102, 153]).all()
        shares = changed[erased].mean(axis=(1, 2))
        assert 0.01 < shares.min() < 0.04
        assert 0.30 < shares.max() < 0.36
        for image in changed[erased]:  # a full rectangle
            assert image.sum() == image.any(axis=0).sum() * image.any(axis=1).sum()
    else:
        assert abs(actual[changed].mean() - 127.5) < 2
        assert len(np.unique(actual[changed])) == 256


def test_the_mean_color_is_red_first():
    assert erasing.mean_color(PREPROCESSING, 3) == (51, 102, 153)
    assert erasing.mean_color(PREPROCESSING.replace(channel_order="bgr"), 3) == (153, 102, 51)
    assert erasing.mean_color(None, 1) == (0,)
