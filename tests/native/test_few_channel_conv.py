"""Convolutions with few output channels, compared with XLA's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.ops.dispatch import input_gradient_is_forward
from cnnjax.ops.native.convolution import convolution, xla_convolution
from cnnjax.ops.native.epilogue import NONLINEARITIES, convolution_with_epilogue
from cnnjax.ops.native.library import load
from cnnjax.ops.window import Window
from tests.native.test_native_convolution import CLOSE, error, exact, random
from tests.native.test_winograd import check_against_xla, counting, needs_kernels

counted = counting("few_channel_conv")


@st.composite
def cases(draw, most_channels=8):
    """Draw convolutions for which `fits_few_channel_conv` holds, forward and backward, with rows of all lengths."""
    padding = tuple((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in range(2))
    height, width = draw(st.integers(1, 6)), draw(st.integers(2, 6))
    inputs, outputs = draw(st.integers(1, most_channels)), draw(st.integers(1, 8))
    width += max(0, -(-5 // inputs) - width)  # enough products for the kernel gradient
    images = (
        draw(st.integers(1, 3)),
        draw(st.integers(max(1, height - sum(padding[0])), 12)),
        draw(st.sampled_from([8, 9, 15, 28, 31, 64])) + width,
        inputs,
    )
    return images, (height, width, inputs, outputs), Window((1, 1), padding, (1, 1), 1), draw(st.integers(0, 2**31))


@needs_kernels
@given(cases())
def test_output_and_gradients_equal_xla_in_float64(counted, case):
    _, kernel_shape, window, _ = case
    narrow = 1 + input_gradient_is_forward(jax.ShapeDtypeStruct(kernel_shape, jnp.float32), window)
    check_against_xla(counted, case, calls=3 if load().is_wide else narrow)


@needs_kernels
@given(
    cases(most_channels=20), st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.sampled_from(sorted(NONLINEARITIES)),
)  # fmt: skip
def test_an_epilogue_equals_separate_steps(counted, case, parts, nonlinearity):
    images_shape, kernel_shape, window, seed = case
    images, kernel = random(seed, images_shape, kernel_shape)
    with jax.enable_x64(True):
        expected = np.asarray(xla_convolution(*(np.asarray(a, np.float64) for a in (images, kernel)), window))
    scale, offset, residual = random(seed + 2, kernel_shape[-1:], kernel_shape[-1:], expected.shape)
    given_parts = {name: part for name, part, there in zip(
        ("scale", "offset", "residual"), (scale, offset, residual), parts, strict=True) if there}  # fmt: skip
    counted()
    actual = convolution_with_epilogue(images, kernel, window, **given_parts, nonlinearity=nonlinearity)
    jax.block_until_ready(actual)
    assert counted() == 1
    expected = (
        expected * given_parts.get("scale", 1.0) + given_parts.get("offset", 0.0) + given_parts.get("residual", 0.0)
    )
    with jax.enable_x64(True):
        result = np.asarray(NONLINEARITIES[nonlinearity](jnp.asarray(expected)))
    # The convolution is rounded on its own scale, and a nonlinearity with slope at most 1 does not amplify that error.
    scale = max(np.abs(expected).max(), np.abs(result).max())
    assert np.abs(actual - result).max() < CLOSE * scale


LENET = Window((1, 1), ((2, 2), (2, 2)), (1, 1), 1)


@needs_kernels
def test_a_large_mean_loses_no_precision():
    images, kernel = random(0, (64, 28, 28, 1), (5, 5, 1, 6))
    images = np.abs(images) + 10
    actual, back = jax.vjp(lambda x, w: convolution(x, w, LENET), images, kernel)
    (cotangent,) = random(1, actual.shape)
    for ours, theirs in zip((actual, *back(cotangent + 1)), exact(images, kernel, LENET, cotangent + 1), strict=True):
        assert error(ours, theirs) < CLOSE


@needs_kernels
def test_results_are_reproducible():
    images, kernel, cotangent = random(0, (32, 28, 28, 1), (5, 5, 1, 6), (32, 28, 28, 6))

    @jax.jit
    def both(x, w, y):
        actual, back = jax.vjp(lambda x, w: convolution(x, w, LENET), x, w)
        return actual, *back(y)

    first = both(images, kernel, cotangent)
    for _ in range(20):
        assert jax.tree.all(jax.tree.map(np.array_equal, both(images, kernel, cotangent), first))


def pointwise(values, nonlinearity):
    """Apply a nonlinearity through a convolution whose kernel copies the middle of three columns."""
    kernel = np.float32([0, 1, 0]).reshape(1, 3, 1, 1)
    window = Window((1, 1), ((0, 0), (1, 1)), (1, 1), 1)
    images = np.float32(values).reshape(1, 1, -1, 1)
    return np.asarray(convolution_with_epilogue(images, kernel, window, nonlinearity=nonlinearity)).reshape(-1)


@needs_kernels
def test_sigmoid_and_tanh_are_accurate_near_zero_and_far_from_it(counted):
    values = np.concatenate([np.linspace(-100, 100, 40001), np.logspace(-30, 1, 1000)]).astype(np.float32)
    wide = values.astype(np.float64)
    with np.errstate(over="ignore"):
        expected = {"sigmoid": 1 / (1 + np.exp(-wide)), "tanh": np.tanh(wide)}
    for nonlinearity, exactly in expected.items():
        actual = pointwise(values, nonlinearity)
        np.testing.assert_allclose(actual, exactly, rtol=1e-6, atol=1e-37)
    assert counted() == 2


@needs_kernels
def test_nan_and_infinity_propagate():
    images, kernel = random(0, (4, 12, 12, 2), (3, 3, 2, 6))
    window = Window((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    images[3, 5, 5, 1] = np.nan
    for nonlinearity in NONLINEARITIES:
        actual = np.asarray(convolution_with_epilogue(images, kernel, window, nonlinearity=nonlinearity))
        touched = np.zeros(actual.shape, bool)
        touched[3, 4:7, 4:7] = True
        assert np.array_equal(np.isnan(actual), touched)
    far = np.float32([-3e38, -1000, 0, 1000, 3e38, 0, 0, 0])
    offset = np.float32([np.inf])
    assert list(pointwise(far, "sigmoid")) == [0, 0, 0.5, 1, 1, 0.5, 0.5, 0.5]
    assert list(pointwise(far, "tanh")) == [-1, -1, 0, 1, 1, 0, 0, 0]
    for sign, limits in ((1, {"relu": np.inf, "sigmoid": 1, "tanh": 1}), (-1, {"relu": 0, "sigmoid": 0, "tanh": -1})):
        for nonlinearity, limit in limits.items():
            actual = convolution_with_epilogue(
                images[:1], kernel[..., :1], window, offset=sign * offset, nonlinearity=nonlinearity
            )
            assert (np.asarray(actual) == limit).all()
