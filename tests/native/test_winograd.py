"""3x3 kernels with enough to do for Winograd's filtering, against XLA's convolution in float64."""

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
    reason="the native part is not built or off, or it has no kernels for this processor",
)


def counting(algorithm: str):
    """Return a fixture: a function that returns how many convolutions it has computed since the last call."""

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
"""Of 4x4 outputs, for the gradient by the kernel, too."""
SAME = Window((1, 1), ((1, 1), (1, 1)), (1, 1), 1)


@st.composite
def cases(draw):
    """Draw images, a kernel and a window that go by Winograd, forward and back."""
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
def test_it_and_its_gradients_are_xlas_in_float64(counted, case):
    is_xlas_in_float64(counted, case, calls=3)


def is_xlas_in_float64(counted, case, calls):
    """Check a convolution and its gradients, of which so many are counted."""
    images_shape, kernel_shape, window, seed = case
    images, kernel = random(seed, images_shape, kernel_shape)
    found, back = jax.vjp(lambda x, w: convolution(x, w, window), images, kernel)
    (cotangent,) = random(seed + 1, found.shape)
    jax.block_until_ready(found)
    counted()
    results = (convolution(images, kernel, window), *back(cotangent))
    jax.block_until_ready(results)
    assert counted() == calls
    for ours, theirs in zip(results, exact(images, kernel, window, cotangent), strict=True):
        assert ours.shape == theirs.shape
        assert error(ours, theirs) < CLOSE


@needs_kernels
@given(cases(), st.tuples(st.booleans(), st.booleans(), st.booleans()), st.sampled_from(["identity", "relu"]))
def test_with_an_epilogue_it_is_the_same_in_steps(case, parts, nonlinearity):
    images_shape, kernel_shape, window, seed = case
    images, kernel = random(seed, images_shape, kernel_shape)
    plain = np.asarray(convolution(images, kernel, window), np.float64)
    scale, offset, residual = random(seed + 2, plain.shape[-1:], plain.shape[-1:], plain.shape)
    given_parts = {name: part for name, part, there in zip(
        ("scale", "offset", "residual"), (scale, offset, residual), parts, strict=True) if there}  # fmt: skip
    found = convolution_with_epilogue(images, kernel, window, **given_parts, nonlinearity=nonlinearity)
    expected = plain * given_parts.get("scale", 1.0) + given_parts.get("offset", 0.0) + given_parts.get("residual", 0.0)
    assert error(found, np.maximum(expected, 0) if nonlinearity == "relu" else expected) < CLOSE


@needs_kernels
def test_many_channels_and_a_large_mean_are_as_exact(counted):
    images, kernel = random(0, (-(-ENOUGH_TILES // 4), 8, 8, 256), (3, 3, 256, 128))
    images = np.abs(images) + 10
    found, back = jax.vjp(lambda x, w: convolution(x, w, SAME), images, kernel)
    (cotangent,) = random(1, found.shape)
    results = jax.block_until_ready((found, *back(cotangent)))
    assert counted() == 3
    for ours, theirs in zip(results, exact(images, kernel, SAME, cotangent), strict=True):
        assert error(ours, theirs) < CLOSE


@needs_kernels
@pytest.mark.parametrize("width", [4, 8, 16, 40, 72])
def test_each_group_has_its_own_channels(counted, width):
    window = SAME._replace(groups=4)
    shape = (-(-ENOUGH_TILES // 4), 8, 8, 4 * width)
    is_xlas_in_float64(counted, (shape, (3, 3, width, 4 * width), window, width), calls=3)


@needs_kernels
def test_depthwise_is_not_computed_by_it(counted):
    images, kernel = random(0, (-(-ENOUGH_TILES // 4), 8, 8, 32), (3, 3, 1, 32))
    jax.block_until_ready(convolution(images, kernel, SAME._replace(groups=32)))
    assert counted() == 0


@needs_kernels
def test_the_same_bits_each_time(counted):
    batch = -(-ENOUGH_TILES // 6)
    images, kernel, cotangent = random(0, (batch, 9, 8, 32), (3, 3, 32, 48), (batch, 9, 8, 48))

    @jax.jit
    def both(x, w, y):
        found, back = jax.vjp(lambda x, w: convolution(x, w, SAME), x, w)
        return found, *back(y)

    first = jax.block_until_ready(both(images, kernel, cotangent))
    assert counted() == 3
    for _ in range(20):
        assert jax.tree.all(jax.tree.map(np.array_equal, both(images, kernel, cotangent), first))


@needs_kernels
def test_what_is_not_finite_is_not_hidden(counted):
    images, kernel = random(0, (-(-ENOUGH_TILES // 16), 16, 16, 16), (3, 3, 16, 16))
    images[3, 5, 5, 7] = np.nan
    found = np.asarray(convolution(images, kernel, SAME))
    relu = np.asarray(convolution_with_epilogue(images, kernel, SAME, nonlinearity="relu"))
    assert counted() == 2
    for result in (found, relu):
        assert np.isnan(result[3, 4:7, 4:7]).all()
        assert np.isfinite(np.delete(result, 3, axis=0)).all()
    images[3, 5, 5, 7] = np.inf
    assert not jnp.isfinite(convolution(images, kernel, SAME)[3, 4:7, 4:7]).any()
