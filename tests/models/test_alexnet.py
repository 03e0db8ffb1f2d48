"""AlexNet's counts, sizes and resizing; tests/oracle compares it with torchvision and Keras."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow

from cnnjax import apply, create, features, init
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables
from tests.forms import size

SMALL = {"width": 4, "num_classes": 5}


def maps(arch, side):
    images = jax.ShapeDtypeStruct((1, side, side, arch.channels), jnp.float32)
    return jax.eval_shape(lambda v, x: features(arch, v, x), abstract_variables(arch), images)


def test_parameters_of_the_batch_norm_form():
    assert size(abstract_variables(create("alexnet_bn", channels=1, num_classes=10)).params) == 58_301_834


@pytest.mark.parametrize(("name", "side"), [("alexnet", 224), ("alexnet_bn", 227), ("alexnet_lrn", 227)])
def test_feature_map_sizes_match_the_table(name, side):
    arch = create(name, **SMALL)
    assert [stage.shape[1] for stage in maps(arch, side).values()] == [27, 13, 13, 13, 6]
    assert arch.last_side == 6


def test_the_original_has_two_groups_in_three_stages():
    kernels = {name: stage["conv"]["kernel"] for name, stage in abstract_variables(create("alexnet_lrn")).params.items()
               if name.startswith("stage")}  # fmt: skip
    assert [kernels[f"stage{number}"].shape[2] for number in range(1, 6)] == [3, 48, 256, 192, 192]


@pytest.mark.parametrize("width", mostly_slow([7, 1, 8, 33], 1))
@pytest.mark.parametrize("name", ["alexnet", "alexnet_bn", "alexnet_lrn"])
def test_every_width_builds_a_network(name, width):
    arch = create(name, width=width, stem="cifar", input_size=16, num_classes=5)
    assert [stage.shape[1] for stage in maps(arch, 16).values()] == [7, 3, 3, 3, 1]


@pytest.mark.compiles_large
def test_images_are_resized_bilinearly_before_the_first_convolution():
    arch = create("alexnet_bn", resize=67, input_size=28, channels=1, **SMALL)
    variables = jax.jit(init, static_argnums=0)(arch, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (1, 28, 28, 1))
    large = jax.image.resize(images, (1, 67, 67, 1), "bilinear")
    unchanged = arch.replace(resize=0, input_size=67)
    run = jax.jit(lambda arch, v, x: apply(arch, v, x)[0].logits, static_argnums=0)
    np.testing.assert_allclose(run(arch, variables, images), run(unchanged, variables, large), rtol=1e-5)


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_the_error_names_exactly_the_sizes_that_fit(stem):
    arch = create("alexnet_lrn", stem=stem, **SMALL).replace(input_size=100)
    images = jax.ShapeDtypeStruct((1, 200, 200, 3), jnp.float32)
    with pytest.raises(UserError, match=r"input sizes that fit: (\d+) to (\d+)") as error:
        jax.eval_shape(lambda v, x: apply(arch, v, x), abstract_variables(arch), images)
    low, high = (int(word) for word in str(error.value).split("fit: ")[1].split(" to "))
    sides = {side: maps(arch, side)["stage5"].shape[1] for side in (low - 1, low, high, high + 1)}
    assert sides[low] == sides[high] == arch.last_side
    assert arch.last_side not in (sides[low - 1], sides[high + 1])


@pytest.mark.parametrize(("options", "least"), [({}, 63), ({"form": "lrn"}, 67), ({"stem": "cifar"}, 15)])
def test_images_too_small_for_the_pools_are_refused(options, least):
    create("alexnet", **options, input_size=least)
    with pytest.raises(UserError, match=f"input_size is {least - 1}; it must be {least} or more"):
        create("alexnet", **options, input_size=least - 1)
