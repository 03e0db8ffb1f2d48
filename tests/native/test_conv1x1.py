"""1x1 convolutions, alone and of what a depthwise one gives, against XLA's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import example, given
from hypothesis import strategies as st

from cnnjax.models import layers
from cnnjax.ops.native.convolution import convolution, xla_convolution
from cnnjax.ops.native.epilogue import NONLINEARITIES, convolution_with_epilogue
from cnnjax.ops.native.library import load
from cnnjax.ops.native.separable import separable_convolution
from cnnjax.ops.window import POINTWISE, Window
from tests.native.test_native_convolution import CLOSE, error, random
from tests.native.test_winograd import counting, needs_kernels

counted, counted_gradients = counting("conv1x1"), counting("conv1x1_weight_grad")
seeds = st.integers(0, 2**31)
channels = st.sampled_from([1, 3, 7, 8, 16, 17, 31, 40, 64, 65, 100, 129])
"""Some fill vectors and panels, some do not."""
parts = st.tuples(st.booleans(), st.booleans(), st.booleans())


@st.composite
def pointwise(draw):
    images = (draw(st.integers(1, 3)), draw(st.integers(3, 12)), draw(st.integers(3, 12)), draw(channels))
    return images, (1, 1, images[-1], draw(channels)), draw(seeds)


@st.composite
def separable(draw):
    """Draw images, both kernels and how the first moves."""
    size = draw(st.sampled_from([(3, 3), (3, 3), (1, 3), (5, 5), (2, 4)]))
    strides = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (2, 1)]))
    padding = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(2))
    images = (draw(st.integers(1, 3)), draw(st.integers(5, 12)), draw(st.integers(5, 12)), draw(channels))
    window = Window(strides, padding, (1, 1), images[-1])
    return images, (*size, 1, images[-1]), (1, 1, images[-1], draw(channels)), window, draw(seeds)


def wide(function, *arrays):
    """Return the same in float64."""
    with jax.enable_x64(True):
        return np.asarray(function(*(jnp.asarray(a, jnp.float64) for a in arrays)))


def finishing(seed, shape, chosen):
    arrays = random(seed, shape[-1:], shape[-1:], shape)
    return {name: a for name, a, there in zip(("scale", "offset", "residual"), arrays, chosen, strict=True) if there}


def finished(result, some, nonlinearity):
    for name, change in (("scale", np.multiply), ("offset", np.add), ("residual", np.add)):
        result = change(result, some[name].astype(np.float64)) if name in some else result
    return wide(NONLINEARITIES[nonlinearity], result)


@needs_kernels
@given(pointwise())
@example(((1, 9, 9, 64), (1, 1, 64, 8), 0))
@example(((1, 9, 9, 63), (1, 1, 63, 40), 0))
def test_of_one_position_it_and_its_gradients_are_xlas(counted, counted_gradients, case):
    images_shape, kernel_shape, seed = case
    images, kernel = random(seed, images_shape, kernel_shape)
    (cotangent,) = random(seed + 1, (*images_shape[:3], kernel_shape[3]))
    counted(), counted_gradients()
    found, back = jax.vjp(lambda x, w: convolution(x, w, POINTWISE), jnp.asarray(images), jnp.asarray(kernel))
    change, of_kernel = jax.block_until_ready(back(jnp.asarray(cotangent)))
    few_outputs = kernel_shape[3] <= load().bound("few_channels") and images_shape[2] >= load().bound("few_channel_row")
    many_inputs = images_shape[3] >= load().bound("conv1x1_weight_grad_channels")
    assert counted() == 2
    assert counted_gradients() == (many_inputs and not (load().is_wide and few_outputs))
    assert error(of_kernel, wide(lambda x, y: jnp.einsum("nhwc,nhwo->co", x, y)[None, None], images, cotangent)) < CLOSE
    assert error(found, wide(lambda x, w: xla_convolution(x, w, POINTWISE), images, kernel)) < CLOSE
    assert error(change, wide(lambda y, w: jnp.einsum("nhwo,co->nhwc", y, w[0, 0]), cotangent, kernel)) < CLOSE


@needs_kernels
@given(pointwise(), parts, st.sampled_from(sorted(NONLINEARITIES)))
def test_of_one_position_with_what_follows_it_is_xlas(counted, case, chosen, nonlinearity):
    images_shape, kernel_shape, seed = case
    images, kernel = random(seed, images_shape, kernel_shape)
    kernel /= np.sqrt(kernel.shape[2])
    some = finishing(seed + 2, (*images_shape[:3], kernel_shape[3]), chosen)
    counted()
    found = jax.block_until_ready(
        convolution_with_epilogue(images, kernel, POINTWISE, **some, nonlinearity=nonlinearity)
    )
    assert counted() == 1
    plain = wide(lambda x, w: xla_convolution(x, w, POINTWISE), images, kernel)
    assert error(found, finished(plain, some, nonlinearity)) < CLOSE


@needs_kernels
def test_a_sum_over_many_positions_is_not_rounded_more_than_one_over_few():
    images, cotangent = (np.abs(a) for a in random(0, (8, 112, 112, 64), (8, 112, 112, 40)))
    kernel = jnp.zeros((1, 1, 64, 40))
    (found,) = jax.linear_transpose(lambda w: convolution(images, w, POINTWISE), kernel)(jnp.asarray(cotangent))
    expected = images.reshape(-1, 64).astype(np.float64).T @ cotangent.reshape(-1, 40).astype(np.float64)
    assert error(found[0, 0], expected) < CLOSE / 4


def in_steps(images, depthwise, pointwise, window, rectified):
    images = jax.nn.relu(images) if rectified else images
    return xla_convolution(xla_convolution(images, depthwise, window), pointwise, POINTWISE)


@needs_kernels
@given(separable(), st.booleans(), parts, st.sampled_from(sorted(NONLINEARITIES)))
def test_after_a_depthwise_one_it_is_xlas_of_both(case, rectified, chosen, nonlinearity):
    *shapes, window, seed = case
    images, depthwise, pointwise = random(seed, *shapes)
    depthwise /= np.sqrt(depthwise[..., 0].size)
    pointwise /= np.sqrt(pointwise.shape[2])
    arrays = images, depthwise, pointwise
    expected = wide(lambda *a: in_steps(*a, window, rectified), *arrays)
    some = finishing(seed + 3, expected.shape, chosen)
    found = separable_convolution(*arrays, window, rectified=rectified, **some, nonlinearity=nonlinearity)
    assert error(found, finished(expected, some, nonlinearity)) < CLOSE


def separable_case(seed=0, batch=2):
    arrays = random(seed, (batch, 9, 11, 24), (3, 3, 1, 24), (1, 1, 24, 40))
    return *map(jnp.asarray, arrays), Window((1, 1), ((1, 1), (1, 1)), (1, 1), 24)


def test_derivatives_of_both_are_those_of_the_steps():
    *arrays, window = separable_case()
    scale, offset = map(jnp.asarray, random(5, (40,), (40,)))

    def at_once(x, d, p, scale, offset):
        found = separable_convolution(x, d, p, window, rectified=True, scale=scale, offset=offset, nonlinearity="relu")
        return (found**2).sum()

    def one_by_one(x, d, p, scale, offset):
        found = in_steps(x, d, p, window, True) * scale[None, None, None] + offset[None, None, None]
        return (jax.nn.relu(found) ** 2).sum()

    found = jax.grad(at_once, tuple(range(5)))(*arrays, scale, offset)
    for mine, theirs in zip(found, jax.grad(one_by_one, tuple(range(5)))(*arrays, scale, offset), strict=True):
        assert error(mine, theirs) < CLOSE


def test_members_one_after_the_other_are_those_alone():
    first, second = separable_case(0), separable_case(1)
    window = first[-1]
    both = [jnp.stack(pair) for pair in zip(first[:-1], second[:-1], strict=True)]
    found = jax.vmap(lambda *a: separable_convolution(*a, window))(*both)
    for mine, alone in zip(found, (first, second), strict=True):
        np.testing.assert_array_equal(mine, separable_convolution(*alone))


@needs_kernels
def test_the_same_bits_from_call_to_call_and_what_is_not_finite_stays_at_its_position():
    images, depthwise, pointwise, window = separable_case()
    before = np.asarray(separable_convolution(images, depthwise, pointwise, window))
    np.testing.assert_array_equal(before, separable_convolution(images, depthwise, pointwise, window))
    after = np.array(separable_convolution(images.at[0, 4, 5, 3].set(jnp.nan), depthwise, pointwise, window))
    assert np.isnan(after[0, 3:6, 4:7]).all()
    after[0, 3:6, 4:7] = before[0, 3:6, 4:7]
    np.testing.assert_array_equal(after, before)


def test_kernels_that_do_not_fit_are_refused():
    images, depthwise, pointwise, window = separable_case()
    for wrong in (
        (images, depthwise[..., :8], pointwise, window),
        (images, depthwise, pointwise[:, :, :8], window),
        (images, depthwise, pointwise, window._replace(dilation=(2, 2))),
        (images, depthwise, pointwise, window._replace(groups=1)),
        (images, depthwise, pointwise.astype(jnp.bfloat16), window),
    ):
        with pytest.raises(ValueError, match="is needed|is not that of"):
            separable_convolution(*wrong)
    narrow = jnp.ones(40, jnp.bfloat16)
    with pytest.raises(ValueError, match=r"scale is bfloat16\[40\] where float32\[40\] is needed"):
        separable_convolution(images, depthwise, pointwise, window, scale=narrow)
    with pytest.raises(ValueError, match="offset is bfloat16"):
        convolution_with_epilogue(images, jnp.ones((1, 1, 24, 40)), POINTWISE, offset=narrow)


@pytest.mark.parametrize("others", [{"stride": 2}, {"padding": 1}])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_what_is_no_plain_pair_is_evaluated_in_steps(others, multiplier):
    options = {"bias": False, "dtype": "float32", "rngs": nnx.Rngs(0)}
    depthwise = layers.Conv(24, 24 * multiplier, 3, padding=1, groups=24, **options)
    pointwise = layers.Conv(24 * multiplier, 40, 1, **{"padding": 0, **others}, **options)
    norm = layers.BatchNorm(40, momentum=0.9, epsilon=1e-5, unbiased_variance=True, dtype="float32", rngs=nnx.Rngs(0))
    norm.use_running_average = True
    x = separable_case()[0]
    found = layers.separable_norm_act(depthwise, pointwise, norm, x)
    assert found.shape == pointwise(depthwise(x)).shape
    assert error(found, norm(pointwise(depthwise(x)))) < CLOSE


@needs_kernels
def test_a_network_takes_both_at_once_in_evaluation_alone():
    rngs = nnx.Rngs(0)
    options = {"bias": False, "dtype": "float32", "rngs": rngs}
    depthwise = layers.Conv(24, 24, 3, padding=1, groups=24, **options)
    pointwise = layers.Conv(24, 40, 1, padding=0, **options)
    norm = layers.BatchNorm(40, momentum=0.9, epsilon=1e-5, unbiased_variance=True, dtype="float32", rngs=rngs)
    x = separable_case()[0]

    def convolved(x):
        return layers.separable_norm_act(depthwise, pointwise, norm, x, before=jax.nn.relu, activation=jax.nn.relu)

    in_training = convolved(x)  # by the batch's own statistics
    assert error(in_training, jax.nn.relu(norm(pointwise(depthwise(jax.nn.relu(x)))))) < CLOSE
    norm.use_running_average = True
    assert "cnnjax_separable" in jax.jit(convolved).lower(x).as_text()
    assert error(convolved(x), jax.nn.relu(norm(pointwise(depthwise(jax.nn.relu(x)))))) < CLOSE
