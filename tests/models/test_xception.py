"""Xception's parameter counts, stage strides and pooling; tests/oracle compares it with Keras and timm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import create, features, init
from cnnjax.functional import abstract_variables
from tests.forms import size

SMALL = {"middle_blocks": 1, "width": 4, "num_classes": 5}


def test_parameters_match_keras():
    variables = abstract_variables(create("xception"))
    assert size(variables.params) == 22_855_952
    assert size(variables) == 22_910_480


@pytest.mark.parametrize(("stem", "sides"), [("imagenet", (147, 74, 37, 19, 10)), ("cifar", (299, 150, 75, 38, 19))])
def test_each_stage_halves_the_size(stem, sides):
    arch = create("xception", stem=stem, **SMALL)
    images = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: features(arch, v, x), abstract_variables(arch), images)
    names = ("stem", "stage1", "stage2", "stage3", "stage4")
    assert tuple(maps[name].shape[1] for name in names) == sides
    assert tuple(maps[name].shape[-1] for name in names) == (8, 16, 32, 91, 256)


@pytest.mark.compiles_large
def test_the_two_forms_pool_differently_only_at_even_sizes():
    keras, timm = (create("xception", stem="cifar", form=form, **SMALL) for form in ("keras", "timm"))
    variables = jax.jit(init, static_argnums=0)(keras, jax.random.key(0))
    stage1 = jax.jit(lambda arch, v, x: features(arch, v, x)["stage1"], static_argnums=0)
    for side, equal in ((33, True), (32, False)):
        images = jax.random.normal(jax.random.key(1), (1, side, side, 3))
        assert np.allclose(*(stage1(arch, variables, images) for arch in (keras, timm))) == equal


def test_dropout_needs_a_key_in_training():
    arch = create("xception", stem="cifar", dropout=0.5, **SMALL)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    with pytest.raises(cnnjax.errors.UserError, match="dropout has no PRNG key"):
        jax.eval_shape(lambda v, x: cnnjax.apply(arch, v, x, train=True), abstract_variables(arch), images)
