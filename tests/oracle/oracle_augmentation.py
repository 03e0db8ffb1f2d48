"""Compare color jitter, RandAugment, TrivialAugment, random erasing, mixup and CutMix with torchvision on fixed draws.

Blends, hue and autocontrast are rounded down. Where the exact result is a whole number, rounding errors decide, and a
pixel may differ by one level of 255: for a factor with few decimals, and where a pixel equals the other image of the
blend. In shears and rotations a source exactly between two pixels may be rounded to either one. All else is equal.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cnnjax.benchmark.torch_networks import import_torchvision
from cnnjax.config import Augmentation
from cnnjax.data.augmentation import color, erasing, mixing, policies
from cnnjax.losses import Batch

import_torchvision()

from torchvision.transforms import v2  # noqa: E402
from torchvision.transforms.v2 import functional as F  # noqa: E402, N812

FEW = 0.03
"""Largest share of pixels that may differ."""
MORE = 0.1
"""Largest share for the policies, whose factors have two decimals."""
OPERATE = jax.jit(policies.operate)
SHAPES = [(24, 32, 3), (28, 28, 1)]
POLICIES = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}


def image(shape, seed=0):
    """Return a smooth image with noise, so that its histogram is uneven and its values are not all used."""
    rng = np.random.default_rng(seed)
    height, width, _ = shape
    slope = np.add.outer(np.linspace(20, 120, height), np.linspace(0, 90, width))[..., None]
    return np.clip(slope + rng.normal(0, 15, shape), 0, 255).astype(np.uint8)


def to_torch(pixels):
    return torch.from_numpy(np.moveaxis(np.array(pixels), -1, -3).copy())


def to_numpy(tensor):
    return np.moveaxis(tensor.numpy(), -3, -1)


def assert_close(actual, expected, share=FEW):
    difference = np.abs(np.asarray(actual, np.int32) - np.asarray(expected, np.int32))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= share


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "sharpness"])
def test_adjustments_equal_torchvision(name, shape):
    theirs = getattr(F, f"adjust_{name}")
    factors = (-0.5, -0.21, 0.0, 0.13, 0.5) if name == "hue" else (0.0, 0.3719, 1.0, 1.4142, 2.7183)
    for factor in factors:
        pixels = image(shape)
        actual = getattr(color, name)(jnp.asarray(pixels), jnp.float32(factor))
        assert_close(actual, to_numpy(theirs(to_torch(pixels), factor)))


def test_hue_of_random_colors_equals_torchvision():
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for shift in np.linspace(-0.5, 0.5, 9):
        actual = color.hue(jnp.asarray(pixels), jnp.float32(shift))
        assert_close(actual, to_numpy(F.adjust_hue(to_torch(pixels), shift)))


def test_color_jitter_in_a_given_order_equals_torchvision():
    names = ("brightness", "contrast", "saturation", "hue")
    orders, factors = [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]], [0.8017, 1.3019, 1.6023, -0.1]
    pixels = np.stack([image(SHAPES[0], seed) for seed in range(3)])
    actual = color.adjust(names, jnp.asarray(pixels), jnp.array(orders), jnp.array([factors] * 3, jnp.float32))
    transform = v2.ColorJitter(0.5, 0.5, 0.9, 0.2)
    for one, order, result in zip(pixels, orders, np.asarray(actual), strict=True):
        given = {f"{name}_factor": factor for name, factor in zip(names, factors, strict=True)}
        expected = to_numpy(transform.transform(to_torch(one), {"fn_idx": torch.tensor(order), **given}))
        difference = np.abs(result.astype(int) - expected.astype(int))
        # A level that differs after one adjustment is multiplied by those after it.
        assert difference.max() <= 3
        assert (difference > 0).mean() <= 4 * FEW


@pytest.mark.parametrize("policy", POLICIES)
def test_operations_and_magnitudes_equal_torchvision(policy):
    space = POLICIES[policy]._AUGMENTATION_SPACE
    assert tuple(space) == policies.OPERATIONS
    assert tuple(signed for _, signed in space.values()) == policies.SIGNED
    table = policies.magnitudes(policy, 24, 32)
    for row, (values, _) in zip(table, space.values(), strict=True):
        expected = values(policies.BINS, 24, 32)
        np.testing.assert_allclose(row, 0 if expected is None else expected.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", policies.OPERATIONS)
def test_operations_equal_torchvision(name, policy, shape):
    number, transform = policies.OPERATIONS.index(name), POLICIES[policy]()
    strengths = policies.magnitudes(policy, *shape[:2])[number]
    if policies.SIGNED[number]:
        strengths = np.concatenate([strengths, -strengths])
    pixels = image(shape)
    batch = jnp.broadcast_to(jnp.asarray(pixels), (len(strengths), *shape))
    chosen = jnp.full(len(strengths), number, jnp.int32)
    actual = np.asarray(OPERATE(batch, chosen, jnp.asarray(strengths)))
    fill = transform._fill
    for strength, result in zip(strengths, actual, strict=True):
        expected = transform._apply_image_or_video_transform(
            to_torch(pixels), name, float(strength), v2.InterpolationMode.NEAREST, fill
        )
        if name in ("ShearX", "ShearY", "Rotate"):
            # A source exactly between two pixels may be rounded to either one.
            assert (result != to_numpy(expected)).mean() <= 0.05
        elif name in (*policies.BLENDS, "AutoContrast"):
            assert_close(result, to_numpy(expected), MORE)
        else:
            np.testing.assert_array_equal(result, to_numpy(expected))


@pytest.mark.parametrize("values", [(7,), (0, 255), (10, 200, 201), tuple(range(256))])
def test_tables_of_few_values_equal_torchvision(values):
    pixels = np.random.default_rng(0).choice(np.array(values, np.uint8), (2, 40, 40, 3))
    for name, theirs in (("AutoContrast", F.autocontrast), ("Equalize", F.equalize)):
        chosen = jnp.full(2, policies.OPERATIONS.index(name), jnp.int32)
        actual = OPERATE(jnp.asarray(pixels), chosen, jnp.zeros(2, jnp.float32))
        # torchvision computes autocontrast in floats, so that the largest value of a channel may become 254.
        assert_close(actual, to_numpy(theirs(to_torch(pixels))), 0 if name == "Equalize" else 1)


def test_erasing_equals_torchvision(monkeypatch):
    uniforms = np.random.default_rng(3).random((200, erasing.ATTEMPTS, 4)).astype(np.float32)
    height, width = 8, 40  # some attempts do not fit
    boxes = np.asarray(erasing.boxes_of(jnp.asarray(uniforms), height, width))
    transform = v2.RandomErasing(p=1, scale=erasing.AREAS, ratio=erasing.RATIOS)
    pixels = image((height, width, 3))
    erased = np.asarray(erasing.erase(jnp.asarray(np.stack([pixels] * 200)), jnp.asarray(boxes), jnp.uint8(0)))
    for draws, box, result in zip(uniforms, boxes, erased, strict=True):
        first = next(k for k, attempt in enumerate(draws) if _fits(attempt, height, width))
        draw_areas = iter([value for attempt in draws[: first + 1] for value in attempt[:2]])
        places = iter(draws[first, 2:])

        def uniform(tensor, low, high, draws=draw_areas):
            return tensor.fill_(float(low) + (float(high) - float(low)) * float(next(draws)))

        def randint(low, high, size, draws=places):
            return torch.tensor([low + int(float(next(draws)) * (high - low))])

        monkeypatch.setattr(torch.Tensor, "uniform_", uniform)
        monkeypatch.setattr(torch, "randint", randint)
        params = transform.make_params([to_torch(pixels)])
        assert [params[name] for name in "ijhw"] == box.tolist()
        np.testing.assert_array_equal(result, to_numpy(transform.transform(to_torch(pixels), params)))
    assert len({tuple(box) for box in boxes.tolist()}) > 150


def _fits(attempt, height, width):
    area = height * width * (erasing.AREAS[0] + (erasing.AREAS[1] - erasing.AREAS[0]) * attempt[0])
    low, high = np.log(erasing.RATIOS)
    ratio = np.exp(low + (high - low) * attempt[1])
    return round(np.sqrt(area * ratio)) < height and round(np.sqrt(area / ratio)) < width


LABELS = np.array([0, 3, 1, 1], np.int32)


def mixed(shares):
    pixels = np.random.default_rng(5).integers(0, 256, (4, 12, 10, 3), dtype=np.uint8)
    return pixels, mixing.blended(Batch(jnp.asarray(pixels), jnp.asarray(LABELS)), jnp.asarray(shares), 4)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixup_equals_torchvision(share):
    pixels, actual = mixed(np.full((12, 10), share, np.float32))
    params = {"lam": share, "batch_size": 4, "labels": torch.from_numpy(LABELS).long()}
    transform = v2.MixUp(num_classes=4)
    expected = to_numpy(transform.transform(to_torch(pixels).float(), params))
    np.testing.assert_allclose(actual.images, expected, atol=1e-4)
    np.testing.assert_allclose(actual.targets, transform.transform(params["labels"], params), atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.19, 0.75, 1.0])
@pytest.mark.parametrize("row", [0, 5, 11])
def test_cutmix_equals_torchvision(share, row, monkeypatch):
    transform, column = v2.CutMix(num_classes=4), 7
    places = iter([column, row])
    monkeypatch.setattr(transform._dist, "sample", lambda shape: torch.tensor(share))
    monkeypatch.setattr(torch, "randint", lambda high, size: torch.tensor([next(places)]))
    center = jnp.array([(row + 0.5) / 12, (column + 0.5) / 10], jnp.float32)
    box = mixing.cutmix_box(jnp.float32(share), center, 12, 10)
    pixels, actual = mixed(1 - np.asarray(erasing.inside(box[None], 12, 10))[0].astype(np.float32))
    tensor, labels = to_torch(pixels), torch.from_numpy(LABELS).long()
    params = {**transform.make_params([tensor]), "batch_size": 4, "labels": labels}
    top, left, height, width = np.asarray(box)
    assert (left, top, left + width, top + height) == params["box"]
    np.testing.assert_array_equal(actual.images, to_numpy(transform.transform(tensor, params)))
    np.testing.assert_allclose(actual.targets, transform.transform(labels, params), atol=1e-6)


def test_the_ranges_of_color_jitter_equal_torchvision():
    config = Augmentation(brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1)
    theirs = v2.ColorJitter(0.4, 1.5, 0.2, 0.1)
    assert color.ranges(config) == {name: getattr(theirs, name) for name in color.ADJUSTMENTS}
