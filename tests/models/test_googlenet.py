"""GoogLeNet's counts, strides and auxiliary heads; tests/oracle compares it with torchvision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import apply, create, features, init
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables
from cnnjax.losses import Batch, CrossEntropy
from cnnjax.models.googlenet import TABLE
from tests.forms import size

SMALL = {"width": 4, "stem": "cifar", "num_classes": 5, "input_size": 16}


def test_auxiliary_head_parameters_match_torchvision():
    assert size(abstract_variables(create("googlenet", aux_heads=True)).params) == 13_004_888


@pytest.mark.parametrize("name", ["googlenet", "googlenet_paper"])
def test_sizes_and_channels_match_the_table(name):
    arch = create(name)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: features(arch, v, x), abstract_variables(arch), images)
    expected = [(28, 192), (28, 480), (14, 512), (14, 528), (14, 832), (7, 1024)]
    names = ("stem", "stage1", "stage2", "stage3", "stage4", "stage5")
    assert [(maps[name].shape[1], maps[name].shape[3]) for name in names] == expected
    assert [widths.total for widths in TABLE.values()] == [256, 480, 512, 512, 512, 528, 832, 832, 1024]


@pytest.mark.compiles_large
def test_auxiliary_heads_of_the_paper_pool_to_4x4():
    arch = create("googlenet_paper", aux_heads=True, num_classes=7)
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    run = functools.partial(jax.eval_shape, lambda v, x: apply(arch, v, x), abstract_variables(arch))
    outputs, _ = run(images)
    assert [logits.shape for logits in outputs.aux] == [(2, 7), (2, 7)]
    for side in (223, 270):
        run(jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32))
    for side in (222, 271):
        with pytest.raises(UserError, match="input sizes that fit: 223 to 270"):
            run(jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32))


@pytest.mark.compiles_large
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_every_branch_and_auxiliary_head_gets_a_gradient(name):
    arch = create(name, aux_heads=True, **SMALL)
    variables = jax.jit(init, static_argnums=0)(arch, jax.random.key(0))
    images, labels = jax.random.normal(jax.random.key(1), (8, 16, 16, 3)), jnp.arange(8) % 5

    class NoSmoothing:
        label_smoothing = jnp.float32(0)

    @jax.jit
    def gradient(params):
        def loss(params):
            outputs, _ = apply(arch, variables._replace(params=params), images, train=True, key=jax.random.key(2))
            return CrossEntropy()(outputs, Batch(images, labels), NoSmoothing()).mean()

        return jax.grad(loss)(params)

    for path, leaf in jax.tree.leaves_with_path(gradient(variables.params)):
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
