"""Recomputing stages in the backward pass changes memory and nothing else."""

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
    """Return a function of the parameters that gives ((loss, new statistics), gradient), and the parameters."""
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
    pytest.param(name, marks=() if name == "lenet" else pytest.mark.compiles_large) for name in NETWORKS
]


@pytest.mark.compiles_large
@pytest.mark.parametrize("name", NETWORKS_BY_NAME)
def test_loss_statistics_and_gradient_do_not_change(name):
    """Loss and statistics are equal bit for bit; in gradients the order of a sum may differ.

    A norm after a convolution cancels the gradient of the bias, which leaves only rounding. The bound is therefore
    relative to the network's largest gradient, in float64, where it can be as small as 1e-12.
    """
    with jax.enable_x64(True):
        check_remat(NETWORKS[name].replace(dtype="float64"))


def check_remat(arch):
    function, params = gradient(arch, ())
    expected = jax.jit(function)(params)
    for remat in (("all",), stages(arch)[:1]):
        (loss, moved), grads = jax.jit(gradient(arch, remat)[0], compiler_options=compiler_options("cpu"))(params)
        assert equal((loss, moved), expected[0]), remat
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[1]))
        for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected[1]), strict=True):
            assert np.abs(ours - theirs).max() <= 1e-12 * largest, remat
    if arch.family == "resnet":  # stochastic depth is active: another key gives another loss
        assert float(jax.jit(gradient(arch, (), seed=4)[0])(params)[0][0]) != float(expected[0][0])


@pytest.mark.parametrize("name", NETWORKS_BY_NAME)
def test_stages_match_features(name):
    arch = NETWORKS[name]
    images = jnp.zeros((1, *arch.image_shape))
    assert stages(arch) == tuple(features(arch, init(arch, jax.random.key(0)), images))


def test_all_selects_every_stage_and_unknown_stages_are_refused():
    arch = NETWORKS["resnet"]
    assert chosen_stages(arch, ()) == ()
    assert chosen_stages(arch, ("stage2",)) == ("stage2",)
    assert chosen_stages(arch, ("stage2", "all")) == ("stem", "stage1", "stage2")
    with pytest.raises(UserError, match="unknown remat stage 'stag2'; did you mean 'stage2'"):
        chosen_stages(arch, ("stem", "stag2"))
    with pytest.raises(UserError, match="unknown remat stage 'head'; choose from: all, stage1, stage2, stem"):
        gradient(arch, ("head",))[0](init(arch, jax.random.key(0)).params)
