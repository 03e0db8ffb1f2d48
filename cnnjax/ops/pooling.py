"""Pooling of feature maps as functions of arrays."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.ops.dispatch import parameter_dtype, pool_algorithm


@jax.named_scope("pooling")
def max_pool(x: jax.Array, *, size: int, stride: int, padding: int, pad_value: float = -jnp.inf) -> jax.Array:
    """Return the maximum of each window of [N, H, W, C]; padding counts as ``pad_value``.

    The first of equal values in a window gets the gradient.
    """
    if padding and pad_value != -jnp.inf:
        edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        x, padding = jnp.pad(x, edges, constant_values=pad_value), 0
    algorithm = pool_algorithm()
    if algorithm == "index":
        return _by_index(x, size, stride, padding)
    if algorithm == "slices":
        return _largest_of_slices(_largest_of_slices(x, 2, size, stride, padding), 1, size, stride, padding)
    return _windowed(x, size, stride, padding)


def _windowed(x: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    lowest = np.asarray(-np.inf, x.dtype)  # a constant, so that XLA recognizes a maximum
    return jax.lax.reduce_window(x, lowest, jax.lax.max, (1, size, size, 1), (1, stride, stride, 1), around)


def _largest_of_slices(x: jax.Array, axis: int, size: int, stride: int, padding: int) -> jax.Array:
    """Return the maximum of each window along one axis; NaN counts as the maximum."""
    edges = [(padding, padding) if a == axis else (0, 0) for a in range(x.ndim)]
    x = jnp.pad(x, edges, constant_values=-jnp.inf)
    count = (x.shape[axis] - size) // stride + 1
    first, *rest = (jax.lax.slice_in_dim(x, i, i + (count - 1) * stride + 1, stride, axis) for i in range(size))
    for other in rest:
        first = jnp.where((other > first) | jnp.isnan(other), other, first)
    return first


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _by_index(x: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    """Return the maximum of each window; the gradient reads the position that is kept for each window.

    Each input position gathers from the windows that it is part of, in one pass and always in the same order. XLA's
    own gradient searches each window again and scatters.
    """
    return _windowed(x, size, stride, padding)


def _by_index_forward(x: jax.Array, size: int, stride: int, padding: int) -> tuple[jax.Array, Any]:
    edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(x, edges, constant_values=-jnp.inf)
    height, width = ((extent - size) // stride + 1 for extent in padded.shape[1:3])
    best, index = jnp.full((len(x), height, width, x.shape[3]), -jnp.inf, x.dtype), jnp.uint8(0)
    for place, (i, j) in enumerate(np.ndindex(size, size)):
        end = (len(x), i + (height - 1) * stride + 1, j + (width - 1) * stride + 1, x.shape[3])
        other = jax.lax.slice(padded, (0, i, j, 0), end, (1, stride, stride, 1))
        larger = (other > best) | jnp.isnan(other)
        best, index = jnp.where(larger, other, best), jnp.where(larger, jnp.uint8(place), index)
    return best, (index, x.shape)


def _by_index_backward(size: int, stride: int, padding: int, kept: Any, gradient: jax.Array) -> tuple[jax.Array]:
    index, (_, height, width, _) = kept
    total = zero = jnp.zeros((), parameter_dtype(gradient.dtype))
    for place, (i, j) in enumerate(np.ndindex(size, size)):
        own = jnp.where(index == place, gradient.astype(zero.dtype), zero)
        edges = [(0, 0, 0)]
        for offset, extent, count in ((i, height, own.shape[1]), (j, width, own.shape[2])):
            low = offset - padding
            edges.append((low, extent - low - (count - 1) * stride - 1, stride - 1))
        total = total + jax.lax.pad(own, zero, [*edges, (0, 0, 0)])
    return (total.astype(gradient.dtype),)


_by_index.defvjp(_by_index_forward, _by_index_backward)


@jax.named_scope("pooling")
def global_average(x: jax.Array) -> jax.Array:
    """Return the mean [N, C] over all positions of [N, H, W, C], summed in at least float32."""
    return x.astype(parameter_dtype(x.dtype)).mean((1, 2)).astype(x.dtype)
