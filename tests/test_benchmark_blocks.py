import jax
import numpy as np
import pytest

from cnnjax import apply, init
from cnnjax.benchmark import blocks
from cnnjax.benchmark.blocks import BLOCKS, network
from cnnjax.complexity import complexity
from cnnjax.errors import UserError
from cnnjax.functional import stages
from cnnjax.models import list_models

# Kernels, then two parameters per channel of each norm, then the head.
RESNEXT = 512 * 256 + 9 * 8 * 256 + 256 * 512 + 2 * (256 + 256 + 512) + 513 * 10
ENTRY = 128 * 256 + 9 * 128 + 128 * 256 + 9 * 256 + 256 * 256 + 3 * 2 * 256 + 257 * 10
MIDDLE = 3 * (9 * 728 + 728 * 728 + 2 * 728) + 729 * 10


@pytest.mark.parametrize(
    ("name", "parameters", "output"),
    [
        ("resnext_block", RESNEXT, (28, 28, 512)),
        ("separable_entry", ENTRY, (37, 37, 256)),
        ("separable_middle", MIDDLE, (19, 19, 728)),
    ],
)
def test_parameters_and_output_shape_match_the_paper(name, parameters, output):
    counts = complexity(network(name))
    assert counts.parameters == parameters
    shapes = [layer.output_shape for layer in counts.layers]
    assert output in shapes or (74, 74, 256) in shapes  # complexity() lists no separate pooling layer
    assert stages(network(name)) == ("block",)


def test_multiply_adds_of_the_resnext_block():
    assert complexity(network("resnext_block")).multiply_adds == 784 * (2 * 512 * 256 + 9 * 8 * 256) + 5120


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.compiles_large) for name in BLOCKS],
)
def test_every_parameter_gets_a_gradient_and_training_updates_the_statistics(name):
    arch = network(name, input_size=6)
    variables = init(arch, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (3, *arch.image_shape))

    def loss(params):
        outputs, batch_stats = apply(arch, variables._replace(params=params), images, train=True)
        return (outputs.logits**2).sum(), batch_stats

    grads, batch_stats = jax.jit(jax.grad(loss, has_aux=True))(variables.params)
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(grads))
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), batch_stats, variables.batch_stats)
    assert all(jax.tree.leaves(moved))


@pytest.mark.compiles_large
def test_a_zero_image_gives_zero_logits_of_the_entry_block():
    arch = network("separable_entry", input_size=5)
    variables = init(arch, jax.random.key(0))
    zeros = np.zeros((1, *arch.image_shape), np.float32)
    np.testing.assert_array_equal(apply(arch, variables, zeros)[0].logits, np.zeros((1, 10)))


def test_network_returns_models_and_blocks():
    assert network("lenet", dtype="bfloat16").dtype == "bfloat16"
    assert not set(BLOCKS) & set(list_models())
    with pytest.raises(UserError, match="unknown model 'separable_midle'; did you mean 'separable_middle'"):
        blocks.network("separable_midle")
