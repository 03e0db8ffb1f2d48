"""Stages that are computed again for the gradient: what that changes (memory) and what not (everything else)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import apply, create, features, init
from cnnjax.errors import UserError
from cnnjax.functional import chosen_stages, stages
from cnnjax.ops.dispatch import compiler_options

NETWORKS = {
    "lenet": create("lenet"),
    "mlp": create("mlp"),
    "resnet": create("resnet18", depths=(2, 1), width=8, num_classes=5, input_size=32, stochastic_depth=0.5),
    "resnet v2": create("resnet50_v2", depths=(1, 2), width=8, num_classes=5, input_size=32, stochastic_depth=0.5),
}


def gradient(arch, remat, seed=3):
    """Return the function from parameters to the loss, the moved statistics and the gradient, and what it takes."""
    variables = init(arch, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, *arch.image_shape), arch.dtype)

    def loss(params):
        outputs, moved = apply(
            arch, variables._replace(params=params), images, train=True, key=jax.random.key(seed), remat=remat
        )
        return (outputs.logits**2).mean(), moved

    return jax.value_and_grad(loss, has_aux=True), variables.params


def equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


NETWORKS_BY_NAME = [
    pytest.param(name, marks=() if name in ("lenet", "mlp") else pytest.mark.compiles_large) for name in NETWORKS
]


@pytest.mark.parametrize("name", NETWORKS_BY_NAME)
def test_loss_statistics_and_gradient_are_the_same(name):
    """Loss and statistics bit for bit as the tests compile; in gradients the order of a sum may differ.

    A norm behind a convolution cancels the gradient of its bias, of which rounding alone is left. So the bound is a
    share of the network's largest gradient, in float64, where that share can be as small as 1e-12.
    """
    with jax.enable_x64(True):
        check_remat(NETWORKS[name].replace(dtype="float64"))


def check_remat(arch):
    function, params = gradient(arch, ())
    expected = jax.jit(function)(params)
    for remat in (("all",), stages(arch)[:1]):
        again = jax.jit(gradient(arch, remat)[0], compiler_options=compiler_options("cpu"))(params)
        (loss, moved), grads = again
        assert equal((loss, moved), expected[0]), remat
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[1]))
        for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected[1]), strict=True):
            assert np.abs(ours - theirs).max() <= 1e-12 * largest, remat
    if arch.family == "resnet":  # chance took part: another key gives another loss
        assert float(jax.jit(gradient(arch, (), seed=4)[0])(params)[0][0]) != float(expected[0][0])


@pytest.mark.parametrize("name", NETWORKS_BY_NAME)
def test_stages_are_those_of_features(name):
    arch = NETWORKS[name]
    images = jnp.zeros((1, *arch.image_shape))
    assert stages(arch) == tuple(features(arch, init(arch, jax.random.key(0)), images))


def test_all_stands_for_every_stage_and_a_mistyped_one_gets_near_matches():
    arch = NETWORKS["resnet"]
    assert chosen_stages(arch, ()) == ()
    assert chosen_stages(arch, ("stage2",)) == ("stage2",)
    assert chosen_stages(arch, ("stage2", "all")) == ("stem", "stage1", "stage2")
    with pytest.raises(UserError, match="unknown remat stage 'stag2'; did you mean 'stage2'"):
        chosen_stages(arch, ("stem", "stag2"))
    with pytest.raises(UserError, match="unknown remat stage 'head'; choose from: all, stage1, stage2, stem"):
        gradient(arch, ("head",))[0](init(arch, jax.random.key(0)).params)
