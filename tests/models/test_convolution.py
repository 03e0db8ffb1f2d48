"""The dispatch rules of convolutions, and our algorithms compared with XLA's convolution in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import conv
from cnnjax.ops import dispatch as rules
from cnnjax.ops.native.convolution import xla_convolution
from cnnjax.ops.window import Window

SAME = ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))


def shapes(images, kernel):
    return jax.ShapeDtypeStruct(images, jnp.float32), jax.ShapeDtypeStruct(kernel, jnp.float32)


@pytest.mark.parametrize(
    ("images", "kernel", "window", "plain", "native"),
    [
        ((8, 28, 28, 64), (3, 3, 64, 64), Window((1, 1), SAME, (1, 1), 1), "xla", "native"),
        ((8, 28, 28, 64), (1, 1, 64, 64), Window((1, 1), NONE, (1, 1), 1), "matmul", "native"),
        ((4, 28, 28, 64), (1, 1, 64, 64), Window((2, 2), NONE, (1, 1), 1), "matmul", "matmul"),
        ((1, 28, 28, 64), (1, 1, 64, 64), Window((1, 1), NONE, (1, 1), 1), "matmul", "matmul"),
        ((8, 2, 2, 64), (3, 3, 64, 64), Window((1, 1), SAME, (1, 1), 1), "patches", "patches"),
        ((8, 28, 28, 64), (3, 3, 2, 64), Window((1, 1), SAME, (1, 1), 32), "patches", "native"),
        ((8, 28, 28, 64), (3, 3, 1, 64), Window((1, 1), SAME, (1, 1), 64), "shifts", "native"),
        ((8, 2, 2, 64), (5, 5, 64, 64), Window((1, 1), SAME, (1, 1), 1), "xla", "xla"),
        ((8, 2, 2, 64), (5, 5, 1, 64), Window((1, 1), NONE, (1, 1), 64), "xla", "xla"),
    ],
)
def test_dispatch_rules(monkeypatch, images, kernel, window, plain, native):
    for by, expected in (("xla", "xla"), ("xla-cpu", plain), ("oneDNN 3.2", native)):
        monkeypatch.setattr(rules, "conv_library", lambda dtype, by=by: by)
        assert rules.conv_algorithm(*shapes(images, kernel), window) == expected


@pytest.mark.compiles_large
@pytest.mark.parametrize(
    ("strides", "dilation"),
    [
        ((2, 3), (2, 1)),
        *(
            pytest.param(*each, marks=pytest.mark.compiles_large)
            for each in [((1, 1), (1, 1)), ((1, 1), (2, 1)), ((2, 3), (1, 1))]
        ),
    ],
)
@pytest.mark.parametrize(
    ("convolve", "kernel", "groups"),
    [
        (conv._by_matmul, (1, 1, 6, 5), 1),
        (conv._by_patches, (3, 2, 6, 5), 1),
        (conv._by_patches, (3, 2, 2, 9), 3),
        (conv._by_shifts, (3, 3, 1, 6), 6),
        (conv._by_shifts, (2, 3, 1, 12), 6),
    ],
)
def test_each_algorithm_and_its_gradients_equal_xla(strides, dilation, convolve, kernel, groups):
    rng = np.random.default_rng(0)
    window = Window(strides, ((0, 1), (2, 0)), dilation, groups)
    with jax.enable_x64(True):
        images, weights = jnp.asarray(rng.normal(size=(2, 9, 8, 6))), jnp.asarray(rng.normal(size=kernel))
        actual, back = jax.vjp(lambda x, w: convolve(x, w, window), images, weights)
        expected, expected_back = jax.vjp(lambda x, w: xla_convolution(x, w, window), images, weights)
        cotangent = jnp.asarray(rng.normal(size=expected.shape))
        for ours, theirs in zip((actual, *back(cotangent)), (expected, *expected_back(cotangent)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_accelerators_use_xla(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert rules.conv_library(jnp.dtype("float32")) == "xla"
