"""Inception v3's counts, sizes, branches and auxiliary head; tests/oracle compares it with torchvision and Keras."""

import jax
import jax.numpy as jnp
import pytest

from cnnjax import apply, create, features
from cnnjax.complexity import complexity
from cnnjax.convert import source_of
from cnnjax.convert.inception_v3 import CONVOLUTIONS
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables, leaves_by_path
from tests.forms import size

SMALL = {"width": 2, "stem": "cifar", "num_classes": 5, "input_size": 32}


def logits(arch, side):
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    return jax.eval_shape(lambda v, x: apply(arch, v, x)[0], abstract_variables(arch), images)


@pytest.mark.compiles_large
def test_parameters_are_those_of_torchvision_and_keras():
    assert size(abstract_variables(create("inception_v3")).params) == 27_161_264
    variables = abstract_variables(create("inception_v3_keras"))
    assert (size(variables.params), size(variables)) == (23_817_352, 23_851_784)


@pytest.mark.compiles_large
def test_multiply_adds_without_the_auxiliary_head_are_those_of_torchvision():
    assert complexity(create("inception_v3", aux_heads=False)).multiply_adds == pytest.approx(5.713e9, rel=1e-4)


@pytest.mark.compiles_large
@pytest.mark.parametrize("name", ["inception_v3", "inception_v3_keras"])
def test_sizes_and_channels_match_the_table(name):
    arch = create(name)
    images = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: features(arch, v, x), abstract_variables(arch), images)
    expected = {"stem": (35, 192), "stage1": (35, 288), "stage2": (17, 768), "stage3": (8, 2048)}
    assert {stage: (x.shape[1], x.shape[3]) for stage, x in maps.items()} == expected


@pytest.mark.compiles_large
def test_the_auxiliary_head_names_the_images_that_it_takes():
    arch = create("inception_v3", num_classes=5)
    with pytest.raises(UserError, match="use images of 299 pixels or more, or aux_heads=False"):
        logits(arch, 298)
    outputs = logits(create("inception_v3", **SMALL), 32)
    assert [outputs.logits.shape, *(head.shape for head in outputs.aux)] == [(2, 5), (2, 5)]


@pytest.mark.compiles_large
@pytest.mark.parametrize(("side", "fits"), [(75, True), (74, False)])
def test_the_smallest_image_has_75_pixels(side, fits):
    arch = create("inception_v3", aux_heads=False, num_classes=5, width=2)
    if fits:
        assert logits(arch, side).logits.shape == (2, 5)
    else:
        with pytest.raises(UserError, match="use larger images or a smaller window"):
            logits(arch, side)
        with pytest.raises(UserError, match="model.input_size is 74; with stem 'imagenet' it must be 75 or more"):
            arch.replace(input_size=side)


def test_an_odd_width_is_refused():
    with pytest.raises(UserError, match="model.width is 3; it must be a multiple of 2"):
        create("inception_v3", width=3)


@pytest.mark.compiles_large
@pytest.mark.parametrize(("name", "source"), [("inception_v3", "torchvision"), ("inception_v3_keras", "keras")])
def test_every_leaf_has_a_unique_published_name(name, source):
    arch = create(name)
    table = source_of(arch, source).table
    names = {path: table.find(path)[0] for tree in abstract_variables(arch) for path in leaves_by_path(tree)}
    assert len(set(names.values())) == len(names)
    assert len(CONVOLUTIONS) == 94
    last = "stage3/2/branch4/layers/1/conv/kernel"
    assert names[last] == {"keras": "conv2d_93/kernel", "torchvision": "Mixed_7c.branch_pool.conv.weight"}[source]
