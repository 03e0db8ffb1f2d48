"""Shared layers, compared with formulas and XLA's own operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import pooling
from cnnjax.ops.batch_norm import moments
from cnnjax.ops.pooling import max_pool


def test_derivatives_of_the_moments_equal_the_formula():
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 2)) + 3.0

    def plain(x):
        return x.mean((0, 1, 2)), ((x - x.mean((0, 1, 2), keepdims=True)) ** 2).mean((0, 1, 2))

    def loss(of):
        return lambda x: (jnp.sin(of(x)[0]) + of(x)[1] ** 2).sum()

    with jax.enable_x64(True):
        wide = jnp.asarray(x)
        for ours, theirs in zip(moments(wide), plain(wide), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        np.testing.assert_allclose(jax.grad(loss(moments))(wide), jax.grad(loss(plain))(wide), rtol=1e-9, atol=1e-12)
        change = jnp.asarray(np.random.default_rng(1).normal(size=x.shape))
        second = [jax.jvp(jax.grad(loss(of)), (wide,), (change,))[1] for of in (moments, plain)]
        np.testing.assert_allclose(*second, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [
        (3, 2, 1),
        *(pytest.param(*window, marks=pytest.mark.compiles_large) for window in ((3, 2, 0), (2, 2, 0), (3, 1, 1))),
    ],
)
def test_pooling_by_slices_equals_reduce_window(monkeypatch, size, stride, padding):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 4, (2, 9, 8, 3)), jnp.float32)  # with many ties

    def pooled(x):
        return max_pool(x, size=size, stride=stride, padding=padding)

    results = {}
    for algorithm in ("slices", "reduce_window"):
        monkeypatch.setattr(pooling, "pool_algorithm", lambda algorithm=algorithm: algorithm)
        result, back = jax.vjp(pooled, x)
        cotangent = jnp.asarray(np.random.default_rng(1).integers(1, 9, result.shape), jnp.float32)
        results[algorithm] = (result, *back(cotangent))
    for ours, theirs in zip(results["slices"], results["reduce_window"], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_max_pooling_propagates_nan():
    x = np.zeros((1, 4, 4, 1), np.float32)
    for place in ((0, 0), (1, 2), (3, 3)):
        x[0, *place, 0] = np.nan
        assert jnp.isnan(max_pool(jnp.asarray(x), size=2, stride=2, padding=0)).any()
        x[0, *place, 0] = 0
