"""Compare resize, crop and normalization with torchvision's transforms and Keras's `preprocess_input`."""

import numpy as np
import pytest
from PIL import Image

from cnnjax.benchmark.torch_networks import import_torchvision
from cnnjax.convert.sources import CAFFE, CENTER_CROP, IMAGENET, SYMMETRIC
from cnnjax.data.preprocessing import Preprocessing, fit, normalize

SIZES = [(600, 300), (300, 600), (257, 255), (500, 375), (224, 224), (40, 30), (301, 77), (1024, 683)]


def photo(width, height):
    rng = np.random.default_rng(width * height)
    coarse = rng.integers(0, 256, (max(height // 8, 2), max(width // 8, 2), 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (235, 224), (342, 299), (100, 224)])
def test_resize_and_crop_equal_torchvision_bit_for_bit(interpolation, resize, crop):
    import_torchvision()
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    theirs = Compose([Resize(resize, InterpolationMode(interpolation)), CenterCrop(crop)])
    ours = Preprocessing(
        height=crop, width=crop, mean=(0.5,) * 3, std=(0.5,) * 3, resize="short", resize_size=resize,
        interpolation=interpolation,
    )  # fmt: skip
    for size in SIZES:
        np.testing.assert_array_equal(np.asarray(fit(photo(*size), ours)), np.asarray(theirs(photo(*size))))


def test_the_default_geometry_equals_torchvision_s_first_weights():
    import_torchvision()
    from torchvision.models import ResNet18_Weights

    chain = ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert (chain.crop_size, chain.resize_size) == ([224], [CENTER_CROP.resize_size(224)])
    assert chain.interpolation.value == CENTER_CROP.interpolation
    pixels = np.asarray(photo(600, 300))
    ours = Preprocessing(
        height=224, width=224, mean=IMAGENET.mean, std=IMAGENET.std, resize="short", resize_size=256
    )  # fmt: skip
    outputs = np.asarray(normalize(ours, np.asarray(fit(Image.fromarray(pixels), ours))[None]))[0]
    expected = chain(Image.fromarray(pixels)).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(outputs, expected, atol=1 / 255)


@pytest.mark.parametrize(("mode", "normalization"), [("caffe", CAFFE), ("tf", SYMMETRIC), ("torch", IMAGENET)])
def test_normalization_equals_keras_preprocess_input(mode, normalization):
    from keras.applications.imagenet_utils import preprocess_input

    pixels = np.asarray(photo(224, 224))[None]
    ours = Preprocessing(
        height=224, width=224, mean=normalization.mean, std=normalization.std,
        channel_order=normalization.channel_order,
    )  # fmt: skip
    expected = preprocess_input(pixels.astype(np.float32), mode=mode)
    np.testing.assert_allclose(np.asarray(normalize(ours, pixels)), expected, rtol=1e-5, atol=1e-4)
