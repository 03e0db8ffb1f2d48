"""Pooling compared with numpy loops that follow the documentation of torch and Keras."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow
from jax import export

from cnnjax.errors import UserError
from cnnjax.models.pools import AdaptiveAveragePool, AveragePool, MaxPool, global_average
from cnnjax.ops.native.library import HANDLERS

GEOMETRIES = [
    {"size": 2}, {"size": 3, "stride": 2}, {"size": 3, "stride": 2, "padding": 1}, {"size": 2, "stride": 3},
    {"size": 3, "stride": 2, "ceil_mode": True}, {"size": 2, "stride": 2, "padding": 1, "ceil_mode": True},
    {"size": 3, "stride": 3, "padding": 1, "ceil_mode": True}, {"size": 2, "stride": 4, "ceil_mode": True},
    {"size": (1, 3), "stride": (1, 2), "padding": (0, 1)}, {"size": (3, 2), "stride": (2, 3), "ceil_mode": True},
    {"size": (7, 1), "stride": 1, "padding": (3, 0)}, {"size": 3, "stride": 1, "padding": "SAME"},
    {"size": 3, "stride": 2, "padding": "SAME"}, {"size": (2, 5), "stride": (3, 2), "padding": "SAME"},
    {"size": (2, 3), "stride": 2, "padding": "VALID"},
]  # fmt: skip
SHAPE = (2, 7, 8, 3)


def spans(length, size, stride, padding, ceil_mode):
    """Return the start and end of each window along one axis; a start may lie in the padding."""
    if padding == "SAME":
        count = math.ceil(length / stride)
        before = max((count - 1) * stride + size - length, 0) // 2
        after = length  # windows may extend past the end; only the part inside is used
    else:
        before = after = padding
        rounded = math.ceil if ceil_mode else math.floor
        count = rounded((length + 2 * padding - size) / stride) + 1
        # A window that starts in the right padding is dropped.
        while ceil_mode and (count - 1) * stride - padding >= length:
            count -= 1
    starts = [i * stride - before for i in range(count)]
    return [(start, min(start + size, length + after)) for start in starts]


def windows(x, size, stride=None, padding=0, ceil_mode=False):
    """Yield (row, column, the values inside the map, the size of the window including padding)."""
    as_pair = lambda value: value if isinstance(value, tuple) else (value, value)  # noqa: E731
    size, stride = as_pair(size), as_pair(size if stride is None else stride)
    padding = as_pair(0 if padding == "VALID" else padding)
    axes = [spans(x.shape[1 + a], size[a], stride[a], padding[a], ceil_mode) for a in (0, 1)]
    for (i, (top, bottom)), (j, (left, right)) in itertools.product(enumerate(axes[0]), enumerate(axes[1])):
        inside = x[:, max(top, 0) : bottom, max(left, 0) : right]
        yield i, j, inside, (bottom - top) * (right - left)


def pooled(x, function, **geometry):
    actual = {(i, j): function(inside, places) for i, j, inside, places in windows(x, **geometry)}
    height, width = (1 + max(position[axis] for position in actual) for axis in (0, 1))
    return np.stack([np.stack([actual[i, j] for j in range(width)], 1) for i in range(height)], 1)


def image(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("geometry", mostly_slow(GEOMETRIES, 8))
def test_max_pooling_equals_numpy(float64, geometry):
    x = image(SHAPE) - 5  # a zero from the padding would be the maximum
    expected = pooled(x, lambda inside, places: inside.max((1, 2)), **geometry)
    np.testing.assert_array_equal(MaxPool(**geometry)(jnp.asarray(x)), expected)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("geometry", mostly_slow(GEOMETRIES, 8))
def test_average_pooling_equals_numpy(float64, geometry, counted):
    x = image(SHAPE) + 2
    if geometry.get("padding") == "SAME":
        counted, options = False, {}
    else:
        options = {"count_include_pad": counted}

    def mean(inside, places):
        return inside.sum((1, 2)) / (places if counted else inside.shape[1] * inside.shape[2])

    actual = AveragePool(**geometry, **options)(jnp.asarray(x))
    assert actual.dtype == jnp.float64
    np.testing.assert_allclose(actual, pooled(x, mean, **geometry), rtol=1e-13)


def test_sizes_and_divisors_follow_torch():
    """By hand: length 5, window 2, stride 2, padding 1, ceil_mode: windows at -1, 1 and 3; one at 5 is dropped."""
    x = jnp.arange(1.0, 6)[None, None, :, None]
    geometry = {"size": (1, 2), "stride": (1, 2), "padding": (0, 1), "ceil_mode": True}
    np.testing.assert_allclose(AveragePool(**geometry)(x)[0, 0, :, 0], [0.5, 2.5, 4.5])
    np.testing.assert_allclose(AveragePool(**geometry, count_include_pad=False)(x)[0, 0, :, 0], [1, 2.5, 4.5])
    np.testing.assert_allclose(MaxPool(**geometry)(x)[0, 0, :, 0], [1, 3, 5])
    # Length 4, window 3, stride 2, ceil_mode without padding: the last window holds 2 values and is divided by 2.
    ceiled = AveragePool((1, 3), (1, 2), ceil_mode=True)
    np.testing.assert_allclose(ceiled(x[:, :, :4])[0, 0, :, 0], [2, 3.5])


@pytest.mark.parametrize("size", [1, 3, (2, 5), (7, 8), (9, 4)])
def test_adaptive_pooling_equals_numpy(float64, size):
    x = image((2, 7, 8, 3))
    rows, columns = size if isinstance(size, tuple) else (size, size)

    def part(i, parts, length):
        return slice(math.floor(i * length / parts), math.ceil((i + 1) * length / parts))

    expected = np.stack(
        [np.stack([x[:, part(i, rows, 7), part(j, columns, 8)].mean((1, 2)) for j in range(columns)], 1)
         for i in range(rows)], 1,
    )  # fmt: skip
    actual = AdaptiveAveragePool(size)(jnp.asarray(x))
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)
    if size == 1:
        np.testing.assert_allclose(actual[:, 0, 0], global_average(jnp.asarray(x)), rtol=1e-12, atol=1e-15)


POOLS = {
    "max": MaxPool(3, 2, padding=1, ceil_mode=True), "max 1x3": MaxPool((1, 3), 2, padding="SAME"),
    "average": AveragePool(3, 2, padding=1, ceil_mode=True), "average 1x3": AveragePool((1, 3), padding="SAME"),
    "adaptive": AdaptiveAveragePool((3, 2)),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if name == "average" else pytest.param(name, marks=pytest.mark.compiles_large) for name in POOLS]
)
def test_the_gradient_equals_finite_differences(float64, name):
    pool, x = POOLS[name], image((1, 6, 7, 2))
    weights = np.random.default_rng(1).normal(size=pool(jnp.asarray(x)).shape)

    def loss(x):
        return (jnp.asarray(weights) * jnp.sin(pool(x))).sum()

    grad = jax.grad(jax.checkpoint(loss))(jnp.asarray(x))
    for place in [(0, 0, 0, 0), (0, 2, 3, 1), (0, 5, 6, 0)]:
        step = np.zeros_like(x)
        step[place] = 1e-6
        difference = (loss(jnp.asarray(x + step)) - loss(jnp.asarray(x - step))) / 2e-6
        np.testing.assert_allclose(grad[place], difference, rtol=1e-7, atol=1e-9)


def test_the_first_of_equal_values_gets_the_gradient():
    for pool in (MaxPool(2), MaxPool((1, 2))):
        grad = jax.grad(lambda x, pool=pool: pool(x).sum())(jnp.ones((1, 2, 2, 1)))
        assert float(grad[0, 0, 0, 0]) == 1
        assert float(grad.sum()) == pool(jnp.ones((1, 2, 2, 1))).size


@pytest.mark.compiles_large
@pytest.mark.parametrize("name", POOLS)
def test_jit_and_vmap_give_the_same_result(name):
    pool, x = POOLS[name], jnp.asarray(image((3, 2, 6, 7, 2)), jnp.float32)
    np.testing.assert_allclose(jax.vmap(jax.jit(pool))(x), jnp.stack([pool(part) for part in x]), rtol=1e-6)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("dtype", mostly_slow(["bfloat16", "float32"], 1))
def test_the_dtype_is_kept_and_means_are_summed_in_float32(name, dtype):
    x = jnp.asarray(image((2, 6, 7, 2)), dtype)
    actual = POOLS[name](x)
    assert actual.dtype == x.dtype
    np.testing.assert_array_equal(actual, POOLS[name](x.astype(jnp.float32)).astype(dtype))


NATIVE_CALLS = [export.DisabledSafetyCheck.custom_call(target) for target in HANDLERS]
"""Custom calls of the native library, if it is built."""


@pytest.mark.compiles_large
@pytest.mark.parametrize("name", POOLS)
def test_pools_export_with_a_symbolic_batch_size(name):
    (batch,) = export.symbolic_shape("batch")
    exported = export.export(jax.jit(POOLS[name]), disabled_checks=NATIVE_CALLS)(
        jax.ShapeDtypeStruct((batch, 6, 7, 2), jnp.float32)
    )
    for count in (1, 3):
        x = jnp.asarray(image((count, 6, 7, 2)), jnp.float32)
        np.testing.assert_allclose(exported.call(x), POOLS[name](x), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxPool(0), r"size is 0; it must be a whole number or a .height, width. pair"),
        (lambda: MaxPool(2, (1, 2, 3)), r"stride is \(1, 2, 3\); it must be"),
        (lambda: MaxPool(2.0), "size is 2.0; it must be"),
        (lambda: AveragePool(3, padding=-1), "padding is -1; it must be .* 0 or more"),
        (lambda: AveragePool(3, padding="same"), "padding is 'same'; it must be 'SAME', 'VALID', a whole number"),
        (lambda: AveragePool((3, 1), padding=1), r"padding is 1 for windows of size \(3, 1\); it must be at most half"),
        (lambda: MaxPool(3, padding="SAME", ceil_mode=True), "ceil_mode is True with padding 'SAME'"),
        (lambda: AveragePool(3, padding="SAME", count_include_pad=True), "count_include_pad is True with"),
        (lambda: AdaptiveAveragePool(0), "size is 0"),
        (lambda: MaxPool(3)(jnp.zeros((1, 2, 5, 1))), "does not fit a map of 2x5; use larger images"),
        (lambda: AdaptiveAveragePool(1)(jnp.zeros((1, 0, 5, 1))), "a map of 0x5 has no positions to pool"),
    ],
)
def test_invalid_pools_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
