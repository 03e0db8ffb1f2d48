"""Color jitter and the operations of RandAugment, each compared with a numpy reference on fixed draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.config import Augmentation
from cnnjax.data.augmentation import augment, color, policies

KEY = jax.random.key(3)
POLICIES = ("randaugment", "trivialaugment")
BUSY = Augmentation(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


def images_for(count=16, shape=(20, 16, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def to_uint8(pixels):
    return np.clip(pixels, 0, 255).astype(np.uint8)


def gray(image):
    if image.shape[-1] == 1:
        return image.astype(float)
    return np.floor(image @ np.array([0.2989, 0.587, 0.114]))[..., None]


def blend(image, other, factor):
    return to_uint8(factor * image.astype(float) + (1 - factor) * other)


def brightness(image, factor):
    return blend(image, 0, factor)


def contrast(image, factor):
    return blend(image, gray(image).mean(), factor)


def saturation(image, factor):
    return blend(image, gray(image), factor) if image.shape[-1] == 3 else image


def hue(image, shift):
    import colorsys

    if image.shape[-1] == 1:
        return image
    turned = np.zeros(image.shape)
    for place in np.ndindex(image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*(image[place] / 255))
        turned[place] = colorsys.hsv_to_rgb((h + shift) % 1, s, v)
    return to_uint8(turned * 255.999)


def sharpness(image, factor):
    smooth = image.astype(float)
    for row in range(1, image.shape[0] - 1):
        for column in range(1, image.shape[1] - 1):
            window = image[row - 1 : row + 2, column - 1 : column + 2].astype(float)
            smooth[row, column] = np.round((window.sum(axis=(0, 1)) + 4 * window[1, 1]) / 13)
    return blend(image, smooth, factor)


def warped(image, source):
    """Return the image whose pixel (row, column) comes from ``source(row, column)``, or is black."""
    result = np.zeros_like(image)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            y, x = np.round(source(row, column)).astype(int)
            if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
                result[row, column] = image[y, x]
    return result


def rotated(image, degrees):
    center, angle = (np.array(image.shape[:2]) - 1) / 2, np.deg2rad(degrees)

    def source(row, column):
        y, x = np.array([row, column]) - center
        return center + np.array([np.sin(angle) * x + np.cos(angle) * y, np.cos(angle) * x - np.sin(angle) * y])

    return warped(image, source)


def per_channel(image, table_of):
    channels = [table_of(image[..., channel])[image[..., channel]] for channel in range(image.shape[-1])]
    return np.stack(channels, axis=-1).astype(np.uint8)


def autocontrast(values):
    low, high = int(values.min()), int(values.max())
    if low == high:
        return np.arange(256)
    return np.clip([(255 * (value - low)) // (high - low) for value in range(256)], 0, 255)


def equalize(values):
    """Equalize as Pillow's `ImageOps.equalize` does."""
    counts = np.bincount(values.ravel(), minlength=256)
    step = (counts.sum() - counts[counts > 0][-1]) // 255
    if step == 0:
        return np.arange(256)
    below = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.clip((step // 2 + below) // step, 0, 255)


OPERATIONS = {
    "Identity": lambda image, m: image,
    "ShearX": lambda image, m: warped(image, lambda row, column: (row, column + m * (row + 0.5))),
    "ShearY": lambda image, m: warped(image, lambda row, column: (row + m * (column + 0.5), column)),
    "TranslateX": lambda image, m: warped(image, lambda row, column: (row, column - int(m))),
    "TranslateY": lambda image, m: warped(image, lambda row, column: (row - int(m), column)),
    "Rotate": rotated,
    "Brightness": lambda image, m: brightness(image, 1 + m),
    "Color": lambda image, m: saturation(image, 1 + m),
    "Contrast": lambda image, m: contrast(image, 1 + m),
    "Sharpness": lambda image, m: sharpness(image, 1 + m),
    "Posterize": lambda image, m: image & (256 - 2 ** (8 - int(m))),
    "Solarize": lambda image, m: np.where(image >= np.float32(255 * m), 255 - image, image),
    "AutoContrast": lambda image, m: per_channel(image, autocontrast),
    "Equalize": lambda image, m: per_channel(image, equalize),
}
"""numpy references of the operations: functions of an image and a magnitude with its sign."""


def assert_close(actual, expected, share=0.02):
    """Results are rounded down, so a pixel may differ by one level where the exact result is a whole number."""
    difference = np.abs(np.asarray(actual, np.int32) - np.asarray(expected, np.int32))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= share


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", color.ADJUSTMENTS)
def test_adjustments_equal_numpy(name, channels):
    factors = np.array([-0.5, -0.21, 0, 0.13, 0.5] if name == "hue" else [0, 0.3719, 1, 1.4142, 2.7183], np.float32)
    pixels = images_for(len(factors), (20, 16, channels))
    order = jnp.zeros((len(factors), 1), jnp.int32)
    actual = color.adjust((name,), jnp.asarray(pixels), order, jnp.asarray(factors)[:, None])
    expected = [globals()[name](image, float(factor)) for image, factor in zip(pixels, factors, strict=True)]
    assert_close(actual, np.stack(expected))


def test_adjustments_are_applied_in_the_given_order():
    names, factors = ("brightness", "contrast", "saturation", "hue"), [1.8017, 0.5019, 1.6023, 0.2]
    pixels, orders = images_for(3), [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]]
    actual = color.adjust(names, jnp.asarray(pixels), jnp.array(orders), jnp.array([factors] * 3, jnp.float32))
    for image, order, result in zip(pixels, orders, np.asarray(actual), strict=True):
        for chosen in order:
            image = globals()[names[chosen]](image, factors[chosen])
        assert np.abs(result.astype(int) - image).max() <= 3  # one level, times the factors that follow


@pytest.mark.parametrize("shape", [(20, 16, 3), (9, 9, 1)])
@pytest.mark.parametrize("policy", POLICIES)
def test_operations_equal_numpy(policy, shape):
    """Every operation in one batch, at a random magnitude and sign."""
    rng, count = np.random.default_rng(1), 8 * len(policies.OPERATIONS)
    # Not all values occur, so that autocontrast and equalize change the images.
    pixels = (images_for(count, shape) // 2 + 30).astype(np.uint8)
    chosen = np.arange(count, dtype=np.int32) % len(policies.OPERATIONS)
    strengths = policies.magnitudes(policy, *shape[:2])[chosen, rng.integers(0, policies.BINS, count)]
    strengths *= np.where(np.array(policies.SIGNED)[chosen], rng.choice([-1, 1], count), 1)
    actual = jax.jit(policies.operate)(jnp.asarray(pixels), jnp.asarray(chosen), jnp.asarray(strengths))
    assert tuple(OPERATIONS) == policies.OPERATIONS
    for image, number, strength, result in zip(pixels, chosen, strengths, np.asarray(actual), strict=True):
        name = policies.OPERATIONS[number]
        expected = OPERATIONS[name](image, float(strength))
        if number < len(policies.MAPS) + 1:
            assert (result != expected).mean() <= 0.03, name  # sources between two pixels
        else:
            assert_close(result, expected, 0.2 if name in policies.BLENDS else 0)


def test_magnitudes_are_those_of_the_papers():
    rand, trivial = (policies.magnitudes(policy, 331, 331) for policy in POLICIES)
    row = dict(zip(policies.OPERATIONS, rand, strict=True))
    assert row["ShearX"][-1] == pytest.approx(0.3)
    assert row["TranslateX"][-1] == pytest.approx(150)
    assert row["Rotate"][-1] == 30
    assert row["Posterize"][[0, -1]].tolist() == [8, 4]
    row = dict(zip(policies.OPERATIONS, trivial, strict=True))
    assert row["ShearY"][-1] == pytest.approx(0.99)
    assert row["TranslateY"][-1] == 32
    assert row["Rotate"][-1] == 135
    assert row["Posterize"][[0, -1]].tolist() == [8, 2]
    assert row["Solarize"][[0, -1]].tolist() == [1, 0]


@pytest.mark.compiles_large
def test_randaugment_draws_each_operation_equally_often_with_the_given_magnitude(monkeypatch):
    seen = []
    monkeypatch.setattr(policies, "operate", lambda images, *drawn: seen.append(drawn) or images)
    images = jnp.zeros((5600, 8, 8, 1), jnp.uint8)
    augment(Augmentation(auto_augment="randaugment", num_ops=3, magnitude=12), KEY, images)
    assert len(seen) == 3
    table = policies.magnitudes("randaugment", 8, 8)[:, 12]
    for chosen, strengths in np.asarray(seen[0])[None]:
        chosen = chosen.astype(int)
        assert np.abs(np.bincount(chosen, minlength=14) - 400).max() < 100
        np.testing.assert_allclose(np.abs(strengths), table[chosen])
        assert abs((strengths[chosen == 1] < 0).mean() - 0.5) < 0.1
        assert (strengths[chosen >= policies.OPERATIONS.index("Posterize")] >= 0).all()
    assert not np.array_equal(seen[0][0], seen[1][0])


def test_trivialaugment_draws_one_operation_and_its_magnitude(monkeypatch):
    seen = []
    monkeypatch.setattr(policies, "operate", lambda images, *drawn: seen.append(drawn) or images)
    augment(Augmentation(auto_augment="trivialaugment"), KEY, jnp.zeros((5600, 8, 8, 1), jnp.uint8))
    [(chosen, strengths)] = seen
    rotations = np.abs(np.asarray(strengths)[np.asarray(chosen) == policies.OPERATIONS.index("Rotate")])
    bins, counts = np.unique(rotations, return_counts=True)
    np.testing.assert_allclose(bins, np.linspace(0, 135, 31), rtol=1e-6)
    assert counts.max() < 40


def test_color_jitter_draws_factors_and_orders_for_each_image(monkeypatch):
    seen = []
    monkeypatch.setattr(color, "adjust", lambda names, images, *drawn: seen.append((names, *drawn)) or images)
    augment(BUSY, KEY, jnp.zeros((4000, 2, 2, 3), jnp.uint8))
    [(names, order, factors)] = seen
    assert names == ("brightness", "contrast", "saturation", "hue")
    assert (np.sort(order, axis=1) == np.arange(4)).all()
    assert np.unique(np.asarray(order), axis=0, return_counts=True)[1].min() > 100  # 24 orders
    for column, (low, high) in zip(np.asarray(factors).T, color.ranges(BUSY).values(), strict=True):
        assert low <= column.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < column.max() <= high
        assert abs(column.mean() - (low + high) / 2) < 0.05 * (high - low)


@pytest.mark.compiles_large
@pytest.mark.parametrize("config", [BUSY, *(Augmentation(auto_augment=policy) for policy in POLICIES)])
def test_colors_are_a_function_of_the_key(config):
    images = jnp.asarray(images_for())
    jitted = jax.jit(augment, static_argnums=0)
    first, repeated, other = (jitted(config, key, images) for key in (KEY, KEY, jax.random.key(4)))
    assert first.dtype == jnp.uint8
    assert first.shape == images.shape
    assert np.array_equal(first, repeated)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, images)


@pytest.mark.compiles_large
def test_saturation_and_hue_do_not_change_gray_images():
    images = jnp.asarray(images_for(shape=(8, 8, 1)))
    assert np.array_equal(augment(Augmentation(saturation=0.9, hue=0.5), KEY, images), images)
