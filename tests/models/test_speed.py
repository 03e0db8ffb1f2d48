"""The network for fast training: its whitening kernel, its initial identity, and when the kernel is computed."""

import jax
import numpy as np
import pytest

from cnnjax import apply, create, data, features, init
from cnnjax.models.speed import EIGENVALUE_EPSILON, dirac, whitening_kernel
from cnnjax.training.initial import initial_variables
from cnnjax.training.loop import fit

KEY = jax.random.key(0)
ARCH = create("airbench94", width=2, input_size=28, channels=1)


@pytest.fixture
def of_digits(experiment):
    """An experiment with a small network of this family, and its data."""
    train = experiment.train.replace(epochs=1, freeze=("whiten/kernel",), ema_decay=0.9)
    return experiment.replace(model=ARCH, train=train), data.load(experiment.data)


def test_whitened_patches_are_uncorrelated_with_second_moment_one():
    rng = np.random.default_rng(0)
    images = rng.normal(scale=10, size=(700, 6, 6, 3)).cumsum(axis=1).cumsum(axis=2)  # neighbors are correlated
    kernel = whitening_kernel(images)
    responses = sum(images[:, i : i + 5, j : j + 5] @ kernel[i, j] for i in (0, 1) for j in (0, 1)).reshape(-1, 24)
    np.testing.assert_array_equal(responses[:, 12:], -responses[:, :12])
    moments = responses[:, :12].T @ responses[:, :12] / len(responses)
    np.testing.assert_allclose(moments, np.eye(12), atol=EIGENVALUE_EPSILON)


def test_constant_images_give_a_finite_kernel():
    kernel = whitening_kernel(np.ones((3, 4, 4, 1), np.float32))
    assert np.isfinite(kernel).all()
    assert np.abs(kernel).max() < 1 / np.sqrt(EIGENVALUE_EPSILON)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (5, 3)])
def test_the_first_channels_start_as_the_identity(inputs, outputs):
    kernel = np.asarray(dirac(KEY, (3, 3, inputs, outputs)))
    x = np.random.default_rng(0).normal(size=(1, 3, 3, inputs)).astype(np.float32)
    first = min(inputs, outputs)
    np.testing.assert_array_equal(np.einsum("nhwc,hwcd->nd", x, kernel)[:, :first], x[:, 1, 1, :first])
    assert (kernel[..., first:] != 0).all()


@pytest.mark.compiles_large
def test_the_initial_kernel_is_that_of_the_first_training_images(of_digits):
    experiment, dataset = of_digits
    first, again = (initial_variables(experiment, dataset).params for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    images = (dataset.train.read(np.arange(len(dataset.train.labels))) / 255 - dataset.preprocessing.mean[0]) / (
        dataset.preprocessing.std[0]
    )
    np.testing.assert_allclose(first["whiten"]["kernel"], whitening_kernel(images), rtol=1e-3, atol=1e-4)
    drawn = init(ARCH, jax.random.key(0)).params
    assert jax.tree.map(np.shape, first) == jax.tree.map(np.shape, drawn)


@pytest.mark.compiles_large
def test_training_starts_from_the_whitening_kernel_and_keeps_it_frozen(of_digits):
    experiment, dataset = of_digits
    state = fit(experiment, dataset).snapshot.state
    start = initial_variables(experiment, dataset).params
    for trained in (state.params, state.ema.params):
        np.testing.assert_array_equal(trained["whiten"]["kernel"], start["whiten"]["kernel"])
    assert (np.asarray(state.params["whiten"]["bias"]) != 0).any()


@pytest.mark.compiles_large
def test_the_embedding_is_a_ninth_of_the_global_maximum():
    arch = create("airbench94", width=1, num_classes=0, input_size=17)
    images = jax.random.normal(KEY, (2, *arch.image_shape))
    both = jax.jit(lambda v: (features(arch, v, images), apply(arch, v, images)[0].logits))
    maps, embedding = both(init(arch, KEY))
    assert {x.shape[1:3] for x in maps.values()} == {(16, 16), (8, 8), (4, 4), (2, 2)}
    np.testing.assert_allclose(embedding * 9, maps["stage3"].max(axis=(1, 2)), rtol=1e-5)
