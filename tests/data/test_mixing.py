"""Mixup and CutMix against numpy, and their losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import create, data
from cnnjax.config import Augmentation, Train
from cnnjax.data.augmentation import mixing
from cnnjax.errors import UserError
from cnnjax.losses import Batch, CrossEntropy, weighted_mean
from cnnjax.models.layers import Outputs
from cnnjax.optim import make_hyperparameters
from cnnjax.training.loop import plan
from cnnjax.training.state import init_state
from cnnjax.training.step import make_train_step

CLASSES = 4
LABELS = np.array([0, 3, 1, 1, 2, 0], np.int32)
WEIGHTS = np.array([0.5, 2.0, 1.0, 0.0, 0.0, 3.0], np.float32)
LOGITS = np.random.default_rng(2).normal(size=(6, CLASSES)).astype(np.float32)
BOTH = Augmentation(mixup=0.2, cutmix=1.0)


def batch_of(weights=None, shape=(12, 10, 3)):
    pixels = np.random.default_rng(0).integers(0, 256, (len(LABELS), *shape)).astype(np.uint8)
    return Batch(jnp.asarray(pixels), jnp.asarray(LABELS), None if weights is None else jnp.asarray(weights))


def mix(config, batch, count):
    """Return the batch mixed with ``count`` different keys."""
    keys = jax.random.split(jax.random.key(0), count)
    return jax.jit(jax.vmap(lambda key: mixing.mix(config, key, batch, CLASSES)))(keys)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixup_equals_numpy(share):
    batch = batch_of()
    actual = mixing.blended(batch, jnp.full((12, 10), share, jnp.float32), CLASSES)
    for number in range(len(LABELS)):
        image = share * np.asarray(batch.images[number], float) + (1 - share) * np.asarray(batch.images[number - 1])
        target = share * np.eye(CLASSES)[LABELS[number]] + (1 - share) * np.eye(CLASSES)[LABELS[number - 1]]
        np.testing.assert_allclose(actual.images[number], image, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(actual.targets[number], target, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.19, 0.75, 1.0])
@pytest.mark.parametrize(("row", "column"), [(0, 9), (5, 4), (11, 0)])
def test_cutmix_boxes_equal_numpy(share, row, column):
    center = jnp.array([(row + 0.5) / 12, (column + 0.5) / 10], jnp.float32)
    actual = np.asarray(mixing.cutmix_box(jnp.float32(share), center, 12, 10)).tolist()
    half = [int(0.5 * np.sqrt(1 - share) * size) for size in (12, 10)]
    ends = [(max(place - h, 0), min(place + h, n)) for place, h, n in zip((row, column), half, (12, 10), strict=True)]
    (top, bottom), (left, right) = ends
    assert actual == [top, left, bottom - top, right - left]


@pytest.mark.compiles_large
def test_cutmix_pastes_one_rectangle_and_mixes_the_labels_by_its_area():
    batch, seen = batch_of(), set()
    mixed = mix(Augmentation(cutmix=1.0), batch, 20)
    before = np.asarray(batch.images)
    for images, targets in zip(np.asarray(mixed.images), mixed.targets, strict=True):
        pasted = (images != before).any(axis=(0, 3))
        assert pasted.sum() == pasted.any(axis=0).sum() * pasted.any(axis=1).sum()
        assert np.array_equal(images[:, pasted], np.roll(before, 1, axis=0)[:, pasted])
        share = 1 - pasted.mean()
        np.testing.assert_allclose(targets[0], share * np.eye(4)[0] + (1 - share) * np.eye(4)[0], atol=1e-6)
        np.testing.assert_allclose(targets[1], share * np.eye(4)[3] + (1 - share) * np.eye(4)[0], atol=1e-6)
        seen.add(round(share, 3))
    assert len(seen) > 10


@pytest.mark.compiles_large
def test_methods_are_chosen_with_their_probabilities():
    batch, config = batch_of(shape=(6, 6, 1)), BOTH.replace(mixup=1.0, mix_probability=0.8, cutmix_share=0.25)
    images = np.asarray(mix(config, batch, 1000).images)
    before = np.asarray(batch.images, np.float32)
    kinds = {"neither": 0, "cutmix": 0, "mixup": 0}
    for mixed in images:
        whole = np.mod(mixed, 1) == 0
        kinds["neither" if np.array_equal(mixed, before) else "cutmix" if whole.all() else "mixup"] += 1
    # 0.2 are not mixed; a CutMix rectangle may also be empty.
    assert kinds["mixup"] == pytest.approx(600, abs=60)
    assert kinds["cutmix"] == pytest.approx(200, abs=60)


@pytest.mark.compiles_large
def test_mixup_shares_follow_the_beta_distribution():
    batch = Batch(jnp.zeros((2, 1, 1, 1), jnp.uint8), jnp.array([0, 1]))
    shares = mix(Augmentation(mixup=0.4), batch, 4000).targets[:, 0, 0]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.06)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_mixed_loss_is_the_mixture_of_the_losses(weights, smoothing):
    share, batch = 0.3, batch_of(weights)
    mixed = mixing.blended(batch, jnp.full((12, 10), share, jnp.float32), CLASSES)
    hyperparameters = Train(label_smoothing=smoothing)
    losses = CrossEntropy()(Outputs(jnp.asarray(LOGITS), ()), mixed, hyperparameters)
    actual = weighted_mean(losses, mixed.weights)
    each = np.ones(6) if weights is None else weights
    rows = optax.smooth_labels(jax.nn.one_hot(LABELS, CLASSES), smoothing)
    own = each * optax.softmax_cross_entropy(LOGITS, rows)
    other = np.roll(each, 1) * optax.softmax_cross_entropy(LOGITS, jnp.roll(rows, 1, axis=0))
    np.testing.assert_allclose(actual, (share * own + (1 - share) * other).sum() / each.sum(), rtol=1e-5)


def step_of(experiment, batch_size=8, **changes):
    experiment = experiment.replace(model=create("mlp", activation="relu"), **changes)
    dataset = data.load(experiment.data)
    batch = Batch(*(jnp.asarray(array[:batch_size]) for array in dataset.train))
    values = make_hyperparameters(experiment, 10)
    step = jax.jit(make_train_step(experiment, dataset.preprocessing))
    return lambda key: step(init_state(experiment, values), batch, key, values)


@pytest.mark.compiles_large
def test_the_step_trains_on_the_mixed_batch(experiment):
    """The loss of the first step is that of the mixed batch, even if it is accumulated in parts."""
    key = jax.random.key(1)
    config = Augmentation(mixup=5.0)
    plain, mixed = (step_of(experiment, augmentation=chosen)(key) for chosen in (Augmentation(), config))
    train = experiment.train.replace(batch_size=8, accumulate=2)
    parts = step_of(experiment, augmentation=config, train=train)(key)
    assert mixed.metrics.loss != plain.metrics.loss
    np.testing.assert_allclose(parts.metrics.loss, mixed.metrics.loss, rtol=1e-5)
    assert int(parts.metrics.correct) == int(mixed.metrics.correct)


def test_accuracy_counts_the_label_with_the_larger_share():
    batch = mixing.blended(batch_of(), jnp.full((12, 10), 0.7, jnp.float32), CLASSES)
    assert np.array_equal(batch.labels(), LABELS)
    batch = mixing.blended(batch_of(), jnp.full((12, 10), 0.2, jnp.float32), CLASSES)
    assert np.array_equal(batch.labels(), np.roll(LABELS, 1))


def test_a_batch_of_one_image_cannot_be_mixed(experiment):
    dataset = data.load(experiment.data)
    one = experiment.replace(augmentation=BOTH, train=experiment.train.replace(batch_size=1))
    with pytest.raises(UserError, match=r"train.batch_size is 1.*mixup and cutmix"):
        plan(one, dataset)
