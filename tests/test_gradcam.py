"""Grad-CAM: its gradient against finite differences in float64, and its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax import apply, create, features, gradcam, init
from cnnjax.errors import UserError
from cnnjax.functional import apply_after, stages
from cnnjax.report.heat_map import draw

LENET = create("lenet", input_size=12, activation="tanh", dtype="float64")
RESNET = create("resnet20_cifar", depths=(1, 1), width=4, input_size=8, dtype="float64")
logit_gradient = jax.jit(gradcam.logit_gradient, static_argnames=("arch", "stage"))
heat_maps = jax.jit(gradcam.heat_maps, static_argnames=("arch", "stage"))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def network(arch, count=2):
    images = jax.random.normal(jax.random.key(1), (count, *arch.image_shape), jnp.float64)
    return init(arch, jax.random.key(0)), images


@pytest.mark.compiles_large
@pytest.mark.parametrize(
    ("arch", "stage"),
    [(LENET, "stage1"), (LENET, "stage2"), pytest.param(RESNET, "stage1", marks=pytest.mark.compiles_large)],
)
def test_the_gradient_of_a_logit_equals_finite_differences(arch, stage):
    variables, images = network(arch)
    classes = np.array([3, 7])
    activation, gradient = map(np.asarray, logit_gradient(arch, variables, images, classes, stage))
    assert activation.shape == gradient.shape
    rng, step = np.random.default_rng(0), 1e-6
    activations = jax.jit(features, static_argnums=0)(arch, variables, images)
    np.testing.assert_allclose(activation, activations[stage], rtol=1e-12)

    @jax.jit
    def rest(changed):
        return apply_after(arch, variables, stage, {**activations, stage: changed}).logits

    for place in rng.integers(0, activation.shape, (12, 4)):
        changed = np.zeros(activation.shape)
        changed[tuple(place)] = step
        image, label = place[0], classes[place[0]]
        above, below = np.asarray(rest(activation + changed)), np.asarray(rest(activation - changed))
        difference = above[image, label] - below[image, label]
        np.testing.assert_allclose(gradient[tuple(place)], difference / (2 * step), rtol=1e-6, atol=1e-9)
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.compiles_large
def test_the_rest_of_a_network_continues_from_any_stage():
    arch = RESNET.replace(dtype="float32")
    variables, images = network(arch)
    images = images.astype(jnp.float32)
    expected = jax.jit(apply, static_argnums=0)(arch, variables, images)[0].logits
    activations = jax.jit(features, static_argnums=0)(arch, variables, images)
    rest = jax.jit(apply_after, static_argnames=("arch", "stage"))
    for stage in stages(arch):
        np.testing.assert_allclose(rest(arch, variables, stage, activations).logits, expected, rtol=1e-5, atol=1e-6)


def test_a_heat_map_is_the_positive_part_of_the_weighted_channels():
    variables, images = network(LENET, count=3)
    classes = np.array([1, 0, 9])
    activation, gradient = map(np.asarray, logit_gradient(LENET, variables, images, classes, "stage1"))
    maps = np.asarray(heat_maps(LENET, variables, images, classes, "stage1"))
    weighted = (gradient.mean((1, 2))[:, None, None, :] * activation).sum(-1)
    assert weighted.min() < 0 < weighted.max()
    np.testing.assert_allclose(maps, np.maximum(weighted, 0), atol=1e-12)
    others = images.at[1:].set(0)  # a map depends on no other image
    np.testing.assert_allclose(heat_maps(LENET, variables, others, classes, "stage1")[0], maps[0], atol=1e-12)


def test_a_map_with_one_position_and_an_unknown_stage_are_refused():
    variables, images = network(LENET)
    with pytest.raises(UserError, match="stage2 of this lenet has one position"):
        heat_maps(LENET, variables, images, jnp.array([0, 0]))
    with pytest.raises(UserError, match="unknown stage 'stage9'"):
        heat_maps(LENET, variables, images, jnp.array([0, 0]), "stage9")


def test_the_picture_is_colored_only_where_the_map_is_positive():
    image = np.full((8, 8, 1), 100, np.uint8)
    heat = np.zeros((2, 2), np.float32)
    heat[0, 0] = 3
    picture = np.asarray(draw(image, heat))
    assert picture.shape == (224, 224, 3)
    assert (picture[-1, -1] == 100).all()
    assert picture[0, 0, 0] > 100 > picture[0, 0, 2]  # the largest value is red
    assert (np.asarray(draw(image, np.zeros((2, 2)))) == 100).all()
    assert draw(np.zeros((300, 400, 3), np.uint8), heat).size == (400, 300)
    assert isinstance(draw(image, heat), Image.Image)
