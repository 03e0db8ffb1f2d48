"""Native max pooling against a loop over places and the ways without it; skipped where it has not been built."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.ops import pooling
from cnnjax.ops.dispatch import pool_algorithm
from cnnjax.ops.native.pooling import (
    LARGEST_POOL,
    Pooling,
    _largest_and_places,
    _put,
    _take,
    _xla_largest,
    _xla_put,
    _xla_take,
    max_pool,
)
from tests.native.test_winograd import needs_kernels

USUAL = {"size": 3, "stride": 2, "padding": 1}


def by_slices(x, *, size, stride, padding):
    rows = pooling._largest_of_slices(x, 2, size, stride, padding)
    return pooling._largest_of_slices(rows, 1, size, stride, padding)


def by_loop(images, cotangent, tangent, *, size, stride, padding):
    """Return outputs, places, the gradient and the derivative along a tangent: one place after the other."""
    edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    images, tangent = np.pad(images, edges, constant_values=-np.inf), np.pad(tangent, edges)
    height, width = ((count - 1) * stride + 1 for count in cotangent.shape[1:3])
    windows = [np.s_[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)]
    outputs, places = images[windows[0]], np.zeros(cotangent.shape, np.uint8)
    for place, window in enumerate(windows):
        larger = (images[window] > outputs) | np.isnan(images[window])
        outputs, places = np.where(larger, images[window], outputs), np.where(larger, np.uint8(place), places)
    gradient, slope = np.zeros_like(images), np.zeros_like(cotangent)
    for place, window in enumerate(windows):
        gradient[window] += np.where(places == place, cotangent, 0)
        slope += np.where(places == place, tangent[window], 0)
    end = [length - padding for length in gradient.shape[1:3]]
    return outputs, places, gradient[:, padding : end[0], padding : end[1]], slope


def draw_images(rng, shape, special):
    """Return images with many equal values, and some of the special ones."""
    images = rng.integers(-2, 3, shape).astype(np.float32)
    for value in special:
        images[rng.random(shape) < 0.3] = value
    return images


@st.composite
def cases(draw):
    """Draw images and a window that fits them."""
    window = {"size": draw(st.integers(1, 5)), "stride": draw(st.integers(1, 4)), "padding": draw(st.integers(0, 6))}
    least = max(1, window["size"] - 2 * window["padding"])
    sides = [draw(st.integers(least, least + 9)) for _ in range(2)]
    shape = (draw(st.integers(1, 3)), *sides, draw(st.sampled_from([1, 3, 8, 16, 20, 64, 100])))
    special = draw(st.sets(st.sampled_from([-np.inf, np.inf, np.nan])))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    return draw_images(rng, shape, special), window, rng


@needs_kernels
@given(cases())
def test_it_and_its_derivatives_are_those_of_a_loop_over_places(case):
    images, sizes, rng = case
    window = Pooling(*sizes.values(), *images.shape[1:3])
    tangent = rng.normal(size=images.shape).astype(np.float32)
    found, places = _largest_and_places.bind(images, window=window)
    cotangent = rng.integers(-9, 9, found.shape).astype(np.float32)  # whole numbers: their sums are exact
    outputs, expected_places, gradient, slope = by_loop(images, cotangent, tangent, **sizes)
    np.testing.assert_array_equal(found, outputs)
    np.testing.assert_array_equal(places, expected_places)
    np.testing.assert_array_equal(max_pool(images, **sizes), outputs)
    np.testing.assert_array_equal(_put.bind(cotangent, places, window=window)[0], gradient)
    np.testing.assert_array_equal(_take.bind(tangent, places, window=window)[0], slope)


@needs_kernels
@pytest.mark.parametrize(
    ("shape", "size", "stride", "padding", "special"),
    [
        ((2, 9, 8, 20), 3, 2, 1, ()),
        ((2, 9, 8, 20), 3, 2, 1, (-np.inf, np.nan)),  # of a window's NaNs and of its padding the same get the gradient
        ((1, 3, 5, 3), 2, 1, 3, (-np.inf,)),  # some windows lie outside
    ],
)
def test_other_platforms_and_slices_give_the_same(shape, size, stride, padding, special):
    rng = np.random.default_rng(0)
    images, tangent = draw_images(rng, shape, special), rng.normal(size=shape).astype(np.float32)
    sizes = {"size": size, "stride": stride, "padding": padding}
    window = Pooling(size, stride, padding, *shape[1:3])
    outputs = jax.eval_shape(lambda x: max_pool(x, **sizes), images)
    cotangent = rng.integers(-9, 9, outputs.shape).astype(np.float32)

    def derivatives(pool):
        def run(x, change, cotangent):
            found, back = jax.vjp(lambda x: pool(x, **sizes), x)
            return found, *back(cotangent), jax.jvp(lambda x: pool(x, **sizes), (x,), (change,))[1]

        return jax.jit(run)(images, tangent, cotangent)

    @jax.jit
    def elsewhere(x, change, cotangent):
        found, places = _xla_largest(x, window=window)
        return (found, *_xla_put(cotangent, places, window=window), *_xla_take(change, places, window=window))

    ours = derivatives(max_pool)
    for others in (derivatives(by_slices), elsewhere(images, tangent, cotangent)):
        for found, expected in zip(ours, others, strict=True):
            np.testing.assert_array_equal(found, expected)


@needs_kernels
def test_second_derivatives_are_those_of_slices():
    images = np.random.default_rng(0).normal(size=(1, 4, 5, 2)).astype(np.float32)

    def curvatures(pool):
        def loss(x):
            return jnp.tanh(pool(x, **USUAL)).sum()

        return jax.jit(jax.hessian(loss))(images), jax.jit(jax.jacrev(jax.grad(loss)))(images)

    for ours, theirs in zip(curvatures(max_pool), curvatures(by_slices), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@needs_kernels
@pytest.mark.parametrize("axis", [0, 2])
def test_members_of_vmap_are_one_batch(axis):
    members = np.random.default_rng(0).normal(size=(3, 2, 6, 7, 5)).astype(np.float32)
    given_members = np.moveaxis(members, 0, axis)
    grads = jax.grad(lambda x: (max_pool(x, **USUAL) ** 2).sum())
    together = jax.jit(jax.vmap(grads, axis))
    np.testing.assert_array_equal(together(given_members), [grads(member) for member in members])
    assert "while" not in together.lower(given_members).as_text()
    # of one forward pass, many cotangents
    found, back = jax.vjp(lambda x: max_pool(x, **USUAL), members[0])
    cotangents = np.random.default_rng(1).normal(size=(3, *found.shape)).astype(np.float32)
    np.testing.assert_array_equal(jax.vmap(back)(cotangents)[0], [back(cotangent)[0] for cotangent in cotangents])


@needs_kernels
def test_the_same_bits_from_call_to_call():
    images = np.random.default_rng(0).normal(size=(8, 20, 20, 40)).astype(np.float32)
    run = jax.jit(jax.grad(lambda x: (max_pool(x, **USUAL) ** 3).sum()))
    first = run(images)
    assert all(np.array_equal(run(images), first) for _ in range(10))


@needs_kernels
def test_places_are_kept_for_a_derivative_alone():
    images = jnp.zeros((2, 8, 8, 16))

    def loss(x):
        return pooling.max_pool(x, **USUAL).sum()

    evaluation, training = (jax.jit(f).lower(images).as_text() for f in (loss, jax.grad(loss)))
    assert "cnnjax_max_pool" in evaluation
    assert "ui8" not in evaluation
    assert "cnnjax_max_pool_put" in training
    assert "ui8" in training


@needs_kernels
def test_on_other_platforms_there_is_nothing_native():
    step = jax.jit(jax.value_and_grad(lambda x: pooling.max_pool(x, **USUAL).sum()))
    exported = jax.export.export(step, platforms=["cuda", "tpu"])(jax.ShapeDtypeStruct((2, 8, 8, 16), jnp.float32))
    assert "custom_call" not in exported.mlir_module()


@needs_kernels
def test_a_window_of_more_places_than_are_counted_and_bfloat16_go_by_slices():
    def text(dtype, size):
        pool = jax.jit(lambda x: pooling.max_pool(x, size=size, stride=1, padding=0))
        return pool.lower(jnp.zeros((1, 20, 20, 1), dtype)).as_text()

    assert "cnnjax_max_pool" in text(jnp.float32, LARGEST_POOL)
    assert "cnnjax_max_pool" not in text(jnp.float32, LARGEST_POOL + 1)
    assert "cnnjax_max_pool" not in text(jnp.bfloat16, LARGEST_POOL)
    assert [pool_algorithm(dtype) for dtype in (jnp.float32, jnp.bfloat16)] == ["native", "slices"]
    # the last place, 255, is counted too
    images = np.arange(400.0, dtype=np.float32).reshape(1, 20, 20, 1)
    grads = jax.grad(lambda x: max_pool(x, size=LARGEST_POOL, stride=1, padding=0).sum())(images)
    np.testing.assert_array_equal(grads[0, -5:, -5:, 0], np.ones((5, 5)))
