"""Compare pools, local response normalization, convolutions and squeeze-and-excitation with torch, in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional as F  # noqa: N812

from cnnjax.benchmark.torch_networks import import_torchvision
from cnnjax.models.blocks import SqueezeExcite
from cnnjax.models.layers import Conv
from cnnjax.models.pools import AdaptiveAveragePool, AveragePool, MaxPool
from cnnjax.models.regularization import LocalResponseNorm

SIZES = [1, 2, 3, (1, 3), (3, 2), (4, 5)]
STRIDES = [1, 2, 3, (1, 2), (3, 1), 5]
SHAPES = [(2, 7, 8, 3), (1, 9, 5, 2), (1, 12, 13, 1)]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def image(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def with_gradient(function, x, weights):
    outputs, backward = jax.vjp(function, x)
    return outputs, *backward(weights)


def compare(ours, theirs, x):
    """Assert equal outputs and equal gradients of a weighted sum; ``theirs`` takes [N, C, H, W]."""
    inputs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    expected = theirs(inputs)
    weights = image(tuple(expected.shape), 1)
    (expected * torch.from_numpy(weights)).sum().backward()
    outputs, grad = jax.jit(with_gradient, static_argnums=0)(
        ours, jnp.asarray(x), jnp.asarray(weights.transpose(0, 2, 3, 1))
    )
    assert outputs.shape == tuple(expected.permute(0, 2, 3, 1).shape)
    np.testing.assert_allclose(outputs, expected.detach().permute(0, 2, 3, 1), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(grad, inputs.grad.permute(0, 2, 3, 1), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_pools_equal_torch(size, ceil_mode):
    """All strides with several paddings, cycling through the shapes."""
    halves = tuple(number // 2 for number in (size if isinstance(size, tuple) else (size, size)))
    paddings = {(0, 0), halves, (0, halves[1])}
    for x, (stride, padding) in zip(
        itertools.cycle(map(image, SHAPES)), itertools.product(STRIDES, sorted(paddings)), strict=False
    ):
        geometry = {"padding": padding, "ceil_mode": ceil_mode}
        compare(MaxPool(size, stride, **geometry), lambda t: F.max_pool2d(t, size, stride, **geometry), x)  # noqa: B023
        for include_pad in (False, True):
            options = {**geometry, "count_include_pad": include_pad}
            compare(AveragePool(size, stride, **options), lambda t: F.avg_pool2d(t, size, stride, **options), x)  # noqa: B023


@pytest.mark.parametrize("size", [1, 2, (3, 5), 7, (12, 13), (14, 3)])
def test_adaptive_pooling_equals_torch(size):
    for x in map(image, SHAPES):
        compare(AdaptiveAveragePool(size), lambda t: F.adaptive_avg_pool2d(t, size), x)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_local_response_normalization_equals_torch(size):
    x = 20 * image((2, 3, 4, 7))
    compare(
        LocalResponseNorm(size, alpha=0.01, beta=0.75, k=2.0),
        lambda t: F.local_response_norm(t, size, 0.01, 0.75, 2.0),
        x,
    )


@pytest.mark.parametrize("size", [(1, 7), (7, 1), (3, 2), 3])
@pytest.mark.parametrize("stride", [1, (2, 1), (1, 3)])
@pytest.mark.parametrize("padding", [0, (0, 3), (3, 0), 1])
def test_rectangular_convolutions_equal_torch(size, stride, padding):
    conv = Conv(4, 6, size, stride=stride, padding=padding, groups=2, dtype="float64", rngs=nnx.Rngs(0))
    kernel = torch.from_numpy(np.asarray(conv.kernel.get_value()).transpose(3, 2, 0, 1).copy())
    compare(conv, lambda t: F.conv2d(t, kernel, None, stride, padding, groups=2), image((2, 9, 8, 4)))


def test_squeeze_and_excitation_equals_torchvision():
    import_torchvision()
    from torchvision.ops import SqueezeExcitation

    peer = SqueezeExcitation(6, 2).double()
    block = SqueezeExcite(6, 2, dtype="float64", rngs=nnx.Rngs(0))
    for name, ours in (("fc1", block.fc1), ("fc2", block.fc2)):
        theirs = getattr(peer, name)
        ours.kernel.set_value(jnp.asarray(theirs.weight.detach().numpy().transpose(2, 3, 1, 0)))
        ours.bias.set_value(jnp.asarray(theirs.bias.detach().numpy()))
    compare(block, peer, image((2, 5, 4, 6)))
