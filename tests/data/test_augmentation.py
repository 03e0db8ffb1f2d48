import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import data
from cnnjax.config import Augmentation, Experiment
from cnnjax.data.augmentation import augment, crop, draw_offsets, require_fit
from cnnjax.errors import UserError
from cnnjax.runs.folder import RunFolder, read_config
from cnnjax.runs.naming import differences
from cnnjax.training.loop import plan

KEY = jax.random.key(3)


def images_for(count=64, shape=(7, 5, 3)):
    return np.random.default_rng(0).integers(1, 256, (count, *shape), dtype=np.uint8)


def cropped(image, row, column, padding):
    """Return the crop, computed pixel by pixel."""
    height, width, _ = image.shape
    actual = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            source = y + row - padding, x + column - padding
            if 0 <= source[0] < height and 0 <= source[1] < width:
                actual[y, x] = image[source]
    return actual


@pytest.mark.parametrize("shape", [(7, 5, 3), (4, 4, 1)])
@pytest.mark.parametrize("padding", [1, 3])
def test_crops_equal_plain_numpy(shape, padding):
    images = images_for(shape=shape)
    offsets = draw_offsets(KEY, len(images), padding)
    actual = jax.jit(crop, static_argnums=2)(images, offsets, padding)
    assert actual.dtype == np.uint8
    for image, (row, column), result in zip(images, np.asarray(offsets), np.asarray(actual), strict=True):
        assert np.array_equal(result, cropped(image, row, column, padding))


def test_offsets_are_uniformly_distributed():
    offsets = np.asarray(draw_offsets(KEY, 9_000, 1))
    counts = np.bincount(3 * offsets[:, 0] + offsets[:, 1], minlength=9)
    assert counts.shape == (9,)
    assert np.abs(counts - 1000).max() < 150


def test_half_of_the_images_are_flipped():
    images = images_for(2_000)
    actual = np.asarray(augment(Augmentation(flip=True), KEY, jnp.asarray(images)))
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(actual, images, strict=True)])
    same = np.array([np.array_equal(a, b) for a, b in zip(actual, images, strict=True)])
    assert (mirrored ^ same).all()
    assert abs(mirrored.mean() - 0.5) < 0.05


def test_crop_and_flip_are_independent():
    images = images_for(2_000, (3, 4, 1))
    both = np.asarray(augment(Augmentation(pad_crop=1, flip=True), KEY, jnp.asarray(images)))
    crops = np.asarray(augment(Augmentation(pad_crop=1), KEY, jnp.asarray(images)))
    mirrored = np.array([np.array_equal(a, b[:, ::-1]) for a, b in zip(both, crops, strict=True)])
    assert all(np.array_equal(a, b[:, ::-1] if m else b) for a, b, m in zip(both, crops, mirrored, strict=True))
    # The offset of a crop does not predict whether it is flipped.
    rows = np.asarray(draw_offsets(jax.random.split(KEY)[0], len(images), 1))[:, 0]
    for row in range(3):
        assert abs(mirrored[rows == row].mean() - 0.5) < 0.08


def test_augmentation_is_a_function_of_the_key():
    images, config = jnp.asarray(images_for()), Augmentation(pad_crop=2, flip=True)
    first, repeated, other = (augment(config, key, images) for key in (KEY, KEY, jax.random.key(4)))
    assert first.shape == images.shape
    assert first.dtype == jnp.uint8
    assert np.array_equal(first, repeated)
    assert not np.array_equal(first, other)
    assert np.array_equal(jax.jit(augment, static_argnums=0)(config, KEY, images), first)


def test_disabled_augmentation_returns_the_images_unchanged():
    images = jnp.asarray(images_for())
    assert augment(Augmentation(), KEY, images) is images


def test_a_negative_padding_is_refused():
    with pytest.raises(UserError, match="augmentation.pad_crop is -1; it must be 0 or more"):
        Augmentation(pad_crop=-1)


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("brightness", -0.1, "0 or more"),
        ("hue", 0.6, "at most 0.5"),
        ("magnitude", 31, "at most 30"),
        ("num_ops", 0, "1 or more"),
        ("erase", 1.5, "at most 1"),
        ("mixup", -1.0, "0 or more"),
        ("mix_probability", 0.0, "greater than 0"),
        ("cutmix_share", 2.0, "at most 1"),
    ],
)
def test_values_out_of_bounds_are_refused(option, value, rule):
    with pytest.raises(UserError, match=rf"augmentation.{option} is .*{rule}"):
        Augmentation(**{option: value})


@pytest.mark.parametrize("options", [{"hue": 0.1}, {"auto_augment": "trivialaugment"}])
def test_colors_of_images_with_other_channels_are_refused(options):
    require_fit(Augmentation(erase=0.5, mixup=1.0), (8, 8, 4), 2)
    with pytest.raises(UserError, match="the images have 4 channels; .* need 1 or 3"):
        require_fit(Augmentation(**options), (8, 8, 4), 2)


@pytest.mark.compiles_large
def test_members_that_train_side_by_side_are_augmented_as_if_alone():
    config = Augmentation(
        pad_crop=1, flip=True, brightness=0.4, hue=0.1, auto_augment="randaugment", erase=0.5, erase_fill="noise"
    )
    images, keys = jnp.asarray(images_for(6, (9, 8, 3))), jax.random.split(KEY, 3)
    together = jax.jit(jax.vmap(lambda key: augment(config, key, images)))(keys)
    alone = jax.jit(lambda key: augment(config, key, images))
    for key, result in zip(keys, np.asarray(together), strict=True):
        difference = np.abs(result.astype(int) - np.asarray(alone(key)))
        assert (difference > 0).mean() < 0.02  # a different program may round differently


def test_a_padding_as_wide_as_the_images_is_refused(experiment):
    dataset = data.load(experiment.data)
    plan(experiment.replace(augmentation=Augmentation(pad_crop=27)), dataset)
    with pytest.raises(UserError, match="augmentation.pad_crop is 28 and the images are 28x28; it must be 27 or less"):
        plan(experiment.replace(augmentation=Augmentation(pad_crop=28)), dataset)


def test_a_run_from_before_augmentation_existed_opens(experiment, tmp_path):
    RunFolder(tmp_path).start("old", experiment)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["experiment"]["augmentation"]
    path.write_text(json.dumps(config))
    _, actual = read_config(path)
    assert isinstance(actual, Experiment)
    assert actual == experiment
    assert differences(actual, experiment) == {}
    with pytest.raises(UserError, match=r"augmentation.flip was False and is now True"):
        RunFolder(tmp_path).check(experiment.replace(augmentation=Augmentation(flip=True)))
