"""Dropout and local response normalization against their formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models.regularization import Dropout, LocalResponseNorm


def rngs(seed=0):
    return nnx.Rngs(default=jax.random.key(seed))


def test_dropout_drops_at_its_rate_and_keeps_the_mean():
    x = jnp.full((100, 4, 5, 10), 3.0)
    y = np.asarray(Dropout(0.25)(x, rngs()))
    np.testing.assert_allclose(np.unique(y), [0, 4])
    assert abs((y == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / y.size)
    assert (y == 0).sum(axis=(1, 2, 3)).std() > 0  # each image has its own mask


def test_dropout_is_a_function_of_the_key():
    x, drop = jnp.ones((8, 50)), Dropout(0.5)
    np.testing.assert_array_equal(drop(x, rngs(1)), drop(x, rngs(1)))
    assert (drop(x, rngs(1)) != drop(x, rngs(2))).any()
    stream = rngs(1)
    assert (drop(x, stream) != drop(x, stream)).any()  # a second call draws a new mask


def test_dropout_masks_are_equal_in_every_dtype():
    drop, masks = Dropout(0.5), []
    with jax.enable_x64(True):
        for dtype in ("bfloat16", "float32", "float64"):
            y = drop(jnp.ones((8, 50), dtype), rngs())
            assert y.dtype == dtype
            masks.append(np.asarray(y != 0))
    masks.append(np.asarray(drop(jnp.ones((8, 50)), rngs()) != 0))
    assert all((mask == masks[0]).all() for mask in masks)


def test_dropout_is_the_identity_in_evaluation_and_at_rate_0():
    x = jnp.ones((2, 3))
    drop = Dropout(0.5)
    drop.eval()
    assert drop(x) is x
    assert Dropout(0.0)(x) is x
    drop.train()
    with pytest.raises(UserError, match="dropout has no PRNG key in training"):
        drop(x)


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan")])
def test_invalid_rates_are_refused(rate):
    with pytest.raises(UserError, match=r"rate is .*; it must be at least 0 and below 1"):
        Dropout(rate)


def response(x, size, alpha, beta, k):
    """The equation of Krizhevsky et al. 2012, section 3.3, with alpha replaced by alpha / size."""
    result = np.empty_like(x)
    for c in range(x.shape[-1]):
        near = x[..., max(c - size // 2, 0) : c + (size - 1) // 2 + 1]
        result[..., c] = x[..., c] / (k + alpha / size * (near**2).sum(-1)) ** beta
    return result


@pytest.mark.parametrize("size", [1, 2, 5, 4, 20])
def test_local_response_normalization_equals_its_formula(size):
    x = np.random.default_rng(0).normal(0, 30, (2, 3, 4, 9))
    options = {"alpha": 0.02, "beta": 0.6, "k": 2.0}
    with jax.enable_x64(True):
        actual = LocalResponseNorm(size, **options)(jnp.asarray(x))
        assert actual.dtype == jnp.float64
        np.testing.assert_allclose(actual, response(x, size, **options), rtol=1e-12)
    narrow = jnp.asarray(x, jnp.bfloat16)
    wide = LocalResponseNorm(size, **options)(narrow.astype(jnp.float32))
    np.testing.assert_array_equal(LocalResponseNorm(size, **options)(narrow), wide.astype(jnp.bfloat16))


def test_alpha_is_the_paper_s_times_the_size():
    """With AlexNet's constants k = 2, n = 5, alpha = 1e-4, beta = 0.75; the paper does not divide alpha by n."""
    x = np.random.default_rng(0).normal(0, 50, (1, 1, 1, 5))
    paper = x[..., 2] / (2 + 1e-4 * (x**2).sum(-1)) ** 0.75
    with jax.enable_x64(True):
        actual = LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)(jnp.asarray(x))
        np.testing.assert_allclose(actual[..., 2], paper, rtol=1e-12)


@pytest.mark.compiles_large
def test_local_response_normalization_has_the_right_gradient():
    x = np.random.default_rng(0).normal(0, 3, (1, 2, 2, 6))
    norm = LocalResponseNorm(3, alpha=0.5, k=1.0)
    with jax.enable_x64(True):
        grad = jax.grad(lambda x: jnp.sin(norm(x)).sum())(jnp.asarray(x))
        step = np.zeros_like(x)
        step[0, 1, 0, 2] = 1e-6
        ends = [jnp.sin(norm(jnp.asarray(x + sign * step))).sum() for sign in (1, -1)]
        np.testing.assert_allclose(grad[0, 1, 0, 2], (ends[0] - ends[1]) / 2e-6, rtol=1e-7)
        assert np.isfinite(jax.grad(lambda x: norm(x).sum())(jnp.zeros_like(x))).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size is 0; it must be a whole number, 1 or more"),
        ({"size": 2.5}, "size is 2.5"),
        ({"alpha": -1.0}, "alpha is -1.0; it must be 0 or more"),
        ({"k": 0.0}, "k is 0.0; it must be greater than 0"),
    ],
)
def test_invalid_constants_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        LocalResponseNorm(**options)
