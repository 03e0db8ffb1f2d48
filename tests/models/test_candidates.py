"""Candidates for accelerators compute the same functions as the algorithms that they would replace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import apply, create, init
from cnnjax.errors import UserError
from cnnjax.ops import dispatch
from cnnjax.ops.batch_norm import moments, moments_about
from cnnjax.ops.conv import conv_general_dilated
from cnnjax.ops.pooling import max_pool
from tests.conftest import mostly_slow


@pytest.fixture
def in_float64():
    with jax.enable_x64(True):
        yield


def with_and_without(monkeypatch, name, function, *arguments):
    """Return value and gradients of a function without and with a candidate."""

    def both():
        value, pull = jax.vjp(lambda *given: function(*given), *arguments)
        return value, pull(jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape))

    monkeypatch.delenv("CNNJAX_CANDIDATES", raising=False)
    expected = both()
    monkeypatch.setenv("CNNJAX_CANDIDATES", name)
    return expected, both()


def assert_close(result, expected, atol):
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("mean", mostly_slow([1e4, 0.0], fast=1))
def test_moments_in_one_pass_equal_those_in_two(in_float64, mean):
    x = mean + jax.random.normal(jax.random.key(0), (4, 5, 6, 3), jnp.float64)
    shift = jnp.full(3, mean) + 0.1
    expected, pull = jax.vjp(moments, x)
    result, pull_about = jax.vjp(lambda x: moments_about(x, shift), x)
    assert_close(result, expected, 1e-11)
    assert_close(pull_about(result), pull(expected), 1e-12)


def test_a_running_mean_keeps_the_variance_accurate_in_float32():
    x = np.random.default_rng(0).normal(1e4, 1, (8, 8, 8, 2)).astype(np.float32)
    exact = x.astype(np.float64).var((0, 1, 2))
    near = moments_about(jnp.asarray(x), jnp.full(2, 1e4 + 0.5, jnp.float32))[1]
    far = moments_about(jnp.asarray(x), jnp.zeros(2, jnp.float32))[1]
    np.testing.assert_allclose(near, exact, rtol=1e-5)
    assert np.abs(far - exact).max() > 0.1


@pytest.mark.parametrize(
    ("size", "stride", "padding"), mostly_slow([(3, 2, 1), (3, 2, 0), (2, 2, 0), (3, 1, 1)], fast=1)
)
@pytest.mark.parametrize("ties", mostly_slow([True, False], fast=1))
def test_pooling_by_index_equals_slices(monkeypatch, size, stride, padding, ties):
    x = jax.random.normal(jax.random.key(size), (2, 9, 12, 3))
    x = jnp.round(x) if ties else x
    if ties:  # the gradient of a tie goes to the first position by rows; slices go by columns within rows
        x = x + 1e-3 * jnp.arange(12.0)[None, None, :, None]
    pool = lambda x: max_pool(x, size=size, stride=stride, padding=padding)  # noqa: E731
    expected, result = with_and_without(monkeypatch, "index", pool, x)
    np.testing.assert_array_equal(result[0], expected[0])
    assert_close(result[1], expected[1], 1e-6)


def test_pooling_by_index_gives_a_tie_to_the_first_position(monkeypatch):
    monkeypatch.setenv("CNNJAX_CANDIDATES", "index")
    gradient = jax.grad(lambda x: max_pool(x, size=2, stride=2, padding=0).sum())(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0], [0, 0]])


def test_pooling_by_index_keeps_nan(monkeypatch):
    monkeypatch.setenv("CNNJAX_CANDIDATES", "index")
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    y, _ = jax.vjp(lambda x: max_pool(x, size=2, stride=2, padding=0), x)
    np.testing.assert_array_equal(np.isnan(y[0, :, :, 0]), [[True, False], [False, False]])


@pytest.mark.parametrize("padding", [((2, 3), (0, 1)), *mostly_slow(["SAME", "VALID"], fast=0)])
@pytest.mark.parametrize(("kernel", "channels"), mostly_slow([(7, 3), (3, 3), (4, 1), (11, 4)], fast=1))
def test_a_convolution_of_blocks_is_exact(in_float64, monkeypatch, kernel, channels, padding):
    keys = jax.random.split(jax.random.key(0))
    images = jax.random.normal(keys[0], (2, 21, 18, channels), jnp.float64)
    weights = jax.random.normal(keys[1], (kernel, kernel, channels, 5), jnp.float64)

    def convolve(images, weights):
        return conv_general_dilated(
            images, weights, (2, 2), padding, rhs_dilation=(1, 1), feature_group_count=1,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    expected, result = with_and_without(monkeypatch, "blocks", convolve, images, weights)
    assert_close(result, expected, 1e-12)


@pytest.mark.compiles_large
def test_a_network_is_the_same_with_all_candidates(in_float64, monkeypatch):
    arch = create("resnet18", input_size=32, num_classes=5, width=8, dtype="float64")
    variables = init(arch, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3), jnp.float64)

    def loss(params):
        outputs, new = apply(arch, variables._replace(params=params), images, train=True)
        return jnp.square(outputs.logits).mean(), new

    results = []
    for names in ("", "one_pass,index,blocks"):
        monkeypatch.setenv("CNNJAX_CANDIDATES", names)
        assert dispatch.is_candidate("index") == bool(names)
        results.append(jax.jit(jax.value_and_grad(lambda params: loss(params), has_aux=True))(variables.params))
    assert_close(results[1], results[0], 1e-10)


def test_an_unknown_candidate_is_refused(monkeypatch):
    monkeypatch.setenv("CNNJAX_CANDIDATES", "one_pas")
    with pytest.raises(UserError, match="unknown CNNJAX_CANDIDATES 'one_pas'.*one_pass"):
        dispatch.is_candidate("index")
