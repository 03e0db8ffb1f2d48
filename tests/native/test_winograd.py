"""Winograd convolutions of 3x3 kernels, compared with XLA's convolution in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.ops.native.convolution import convolution
from cnnjax.ops.native.epilogue import convolution_with_epilogue
from cnnjax.ops.native.library import load
from cnnjax.ops.window import Window
from cnnjax.system.cpus import cores
from tests.native.test_native_convolution import CLOSE, error, exact, random

needs_kernels = pytest.mark.skipif(
    not getattr(load(), "has_kernels", False),
    reason="the native library is not built, is disabled, or has no kernels for this processor",
)


def counting(algorithm: str):
    """Return a fixture: a function that returns how often the algorithm ran since the function was last called."""

    @pytest.fixture
    def counted():
        seen = [load().calls(algorithm)]

        def more() -> int:
            seen.append(load().calls(algorithm))
            return seen[-1] - seen[-2]

        return more

    return counted


counted = counting("winograd")
ENOUGH_TILES = load().bound("winograd_tiles_to_sum") * cores() if load() else 1
"""Tiles of 4x4 outputs, enough for the kernel gradient too."""
SAME = Window((1, 1), ((1, 1), (1, 1)), (1, 1), 1)


@st.composite
def cases(draw):
    """Draw images, kernel and window for which Winograd is chosen, forward and backward."""
    padding = tuple((draw(st.integers(0, 4)), draw(st.integers(0, 4))) for _ in range(2))
    height, width = (draw(st.integers(max(1, 3 - sum(edge)), 15)) for edge in padding)
    out = [size + sum(edge) - 2 for size, edge in zip((height, width), padding, strict=True)]
    tiles = [min(-(-h // 4) * -(-w // 4) for h, w in (out, (height, width)))]
    groups = draw(st.sampled_from([1, 1, 4, 8]))
    widths = [16, 32, 48, 64, 80, 144] if groups == 1 else [4, 8, 12, 16, 20, 24]
    inputs, outputs = (draw(st.sampled_from(widths)) for _ in range(2))
    batch = -(-ENOUGH_TILES // tiles[0]) + draw(st.integers(0, 3))
    images = (batch, height, width, groups * inputs)
    kernel = (3, 3, inputs, groups * outputs)
    return images, kernel, Window((1, 1), padding, (1, 1), groups), draw(st.integers(0, 2**31))


@needs_kernels
@given(case=cases())
def test_output_and_gradients_equal_xla_in_float64(counted, case):
    check_against_xla(counted, case, calls=3)


def check_against_xla(counted, case, calls):
    """Compare a convolution and its gradients with XLA's, and check the number of Winograd calls."""
    images_shape, kernel_shape, window, seed = case
    images, kernel = random(seed, images_shape, kernel_shape)
    actual, back = jax.vjp(lambda x, w: convolution(x, w, window), images, kernel)
    (cotangent,) = random(seed + 1, actual.shape)
    jax.block_until_ready(actual)
    counted()
    results = (convolution(images, kernel, window), *back(cotangent))
    jax.block_until_ready(results)
    assert counted() == calls
    for ours, theirs in zip(results, exact(images, kernel, window, cotangent), strict=True):
        assert ours.shape == theirs.shape
        assert error(ours, theirs) < CLOSE


@needs_kernels
@given(cases(), st.tuples(st.booleans(), st.booleans(), st.booleans()), st.sampled_from(["identity", "relu"]))
def test_an_epilogue_equals_separate_steps(case, parts, nonlinearity):
    images_shape, kernel_shape, window, seed = case
    images, kernel = random(seed, images_shape, kernel_shape)
    plain = np.asarray(convolution(images, kernel, window), np.float64)
    scale, offset, residual = random(seed + 2, plain.shape[-1:], plain.shape[-1:], plain.shape)
    given_parts = {name: part for name, part, there in zip(
        ("scale", "offset", "residual"), (scale, offset, residual), parts, strict=True) if there}  # fmt: skip
    actual = convolution_with_epilogue(images, kernel, window, **given_parts, nonlinearity=nonlinearity)
    expected = plain * given_parts.get("scale", 1.0) + given_parts.get("offset", 0.0) + given_parts.get("residual", 0.0)
    assert error(actual, np.maximum(expected, 0) if nonlinearity == "relu" else expected) < CLOSE


@needs_kernels
def test_many_channels_and_a_large_mean_lose_no_precision(counted):
    images, kernel = random(0, (-(-ENOUGH_TILES // 4), 8, 8, 256), (3, 3, 256, 128))
    images = np.abs(images) + 10
    actual, back = jax.vjp(lambda x, w: convolution(x, w, SAME), images, kernel)
    (cotangent,) = random(1, actual.shape)
    results = jax.block_until_ready((actual, *back(cotangent)))
    assert counted() == 3
    for ours, theirs in zip(results, exact(images, kernel, SAME, cotangent), strict=True):
        assert error(ours, theirs) < CLOSE


@needs_kernels
@pytest.mark.parametrize("width", [4, 8, 16, 40, 72])
def test_groups_are_computed_independently(counted, width):
    window = SAME._replace(groups=4)
    shape = (-(-ENOUGH_TILES // 4), 8, 8, 4 * width)
    check_against_xla(counted, (shape, (3, 3, width, 4 * width), window, width), calls=3)


@needs_kernels
def test_depthwise_convolutions_do_not_use_winograd(counted):
    images, kernel = random(0, (-(-ENOUGH_TILES // 4), 8, 8, 32), (3, 3, 1, 32))
    jax.block_until_ready(convolution(images, kernel, SAME._replace(groups=32)))
    assert counted() == 0


@needs_kernels
def test_results_are_reproducible(counted):
    batch = -(-ENOUGH_TILES // 6)
    images, kernel, cotangent = random(0, (batch, 9, 8, 32), (3, 3, 32, 48), (batch, 9, 8, 48))

    @jax.jit
    def both(x, w, y):
        actual, back = jax.vjp(lambda x, w: convolution(x, w, SAME), x, w)
        return actual, *back(y)

    first = jax.block_until_ready(both(images, kernel, cotangent))
    assert counted() == 3
    for _ in range(20):
        assert jax.tree.all(jax.tree.map(np.array_equal, both(images, kernel, cotangent), first))


@needs_kernels
def test_nan_and_infinity_propagate(counted):
    images, kernel = random(0, (-(-ENOUGH_TILES // 16), 16, 16, 16), (3, 3, 16, 16))
    images[3, 5, 5, 7] = np.nan
    actual = np.asarray(convolution(images, kernel, SAME))
    relu = np.asarray(convolution_with_epilogue(images, kernel, SAME, nonlinearity="relu"))
    assert counted() == 2
    for result in (actual, relu):
        assert np.isnan(result[3, 4:7, 4:7]).all()
        assert np.isfinite(np.delete(result, 3, axis=0)).all()
    images[3, 5, 5, 7] = np.inf
    assert not jnp.isfinite(convolution(images, kernel, SAME)[3, 4:7, 4:7]).any()
