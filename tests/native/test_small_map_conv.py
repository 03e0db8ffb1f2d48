"""Large kernels at few positions, against XLA's convolution in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.ops.native.convolution import convolution, xla_convolution
from cnnjax.ops.native.epilogue import NONLINEARITIES, convolution_with_epilogue
from cnnjax.ops.native.library import load
from cnnjax.ops.window import Window
from tests.native.test_native_convolution import CLOSE, error, random
from tests.native.test_winograd import counting, needs_kernels

counted = counting("small_map_conv")


@st.composite
def cases(draw):
    """Draw images, a kernel and a window that `fits_small_map_conv`."""
    most_positions, least_weights = load().bound("small_map_positions"), load().bound("small_map_weights")
    size = draw(st.tuples(st.integers(1, 5), st.integers(2, 5)))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(2))
    out = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    batch = draw(st.integers(1, min(5, most_positions // (out[0] * out[1]))))
    outputs = draw(st.sampled_from([64, 128, 192, 320]))
    inputs = -(-least_weights // (size[0] * size[1] * outputs)) + draw(st.integers(0, 70))
    extents = [
        max(1, (n - 1) * stride + k - sum(edge)) for n, stride, k, edge in zip(out, strides, size, padding, strict=True)
    ]
    return (batch, *extents, inputs), (*size, inputs, outputs), Window(strides, padding, (1, 1), 1), draw(seeds)


seeds = st.integers(0, 2**31)


@needs_kernels
@given(
    cases(), st.tuples(st.booleans(), st.booleans(), st.booleans()), st.sampled_from(sorted(NONLINEARITIES)),
)  # fmt: skip
def test_with_what_follows_it_is_xlas_in_float64(counted, case, parts, nonlinearity):
    images_shape, kernel_shape, window, seed = case
    images, kernel = random(seed, images_shape, kernel_shape)
    kernel /= np.sqrt(kernel[..., 0].size)
    with jax.enable_x64(True):
        expected = np.asarray(xla_convolution(*(np.asarray(a, np.float64) for a in (images, kernel)), window))
    counted()
    assert error(jax.block_until_ready(convolution(images, kernel, window)), expected) < CLOSE
    assert counted() == 1
    scale, offset, residual = random(seed + 2, kernel_shape[-1:], kernel_shape[-1:], expected.shape)
    all_parts = {"scale": scale, "offset": offset, "residual": residual}
    some = {name: part for (name, part), there in zip(all_parts.items(), parts, strict=True) if there}
    found = convolution_with_epilogue(images, kernel, window, **some, nonlinearity=nonlinearity)
    jax.block_until_ready(found)
    assert counted() == 1
    for name, change in (("scale", np.multiply), ("offset", np.add), ("residual", np.add)):
        expected = change(expected, some[name].astype(np.float64)) if name in some else expected
    with jax.enable_x64(True):
        expected = np.asarray(NONLINEARITIES[nonlinearity](jnp.asarray(expected)))
    assert error(found, expected) < CLOSE


@needs_kernels
def test_a_kernel_of_one_position_and_the_bounds(counted):
    images, kernel = random(0, (1, 16, 16, 512), (1, 1, 512, 512))
    window = Window((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    found = np.asarray(convolution(images, kernel, window), np.float64)
    assert counted() == 1
    assert error(found, np.einsum("nhwc,co->nhwo", images.astype(np.float64), kernel[0, 0].astype(np.float64))) < CLOSE
    for more, fewer in (((1, 16, 17, 512), (1, 1, 512, 512)), ((1, 16, 16, 511), (1, 1, 511, 512))):
        jax.block_until_ready(convolution(*random(0, more, fewer), window))
        assert counted() == 0


@needs_kernels
def test_what_is_not_finite_stays_where_it_meets_the_kernel(counted):
    images, kernel = random(0, (1, 7, 7, 512), (3, 3, 512, 64))
    images[0, 0, 0, 100] = np.nan
    found = np.asarray(convolution(images, kernel, Window((1, 1), ((1, 1), (1, 1)), (1, 1), 1)))
    assert counted() == 1
    assert np.isnan(found[0, :2, :2]).all()
    assert np.isfinite(found[0, 2:]).all()
    assert np.isfinite(found[0, :, 2:]).all()
