"""Pooling of feature maps as functions of arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.ops.dispatch import parameter_dtype, pool_algorithm
from cnnjax.ops.native.pooling import LARGEST_POOL
from cnnjax.ops.native.pooling import max_pool as native_max_pool


@jax.named_scope("pooling")
def max_pool(x: jax.Array, *, size: int, stride: int, padding: int, pad_value: float = -jnp.inf) -> jax.Array:
    """Take the largest of each window of [N, H, W, C]; what lies outside counts as ``pad_value``.

    Of equal values the first in the window gets the gradient.
    """
    if padding and pad_value != -jnp.inf:
        edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        x, padding = jnp.pad(x, edges, constant_values=pad_value), 0
    algorithm = pool_algorithm(x.dtype)
    if algorithm == "native" and size <= LARGEST_POOL:
        return native_max_pool(x, size=size, stride=stride, padding=padding)
    if algorithm != "reduce_window":
        return _largest_of_slices(_largest_of_slices(x, 2, size, stride, padding), 1, size, stride, padding)
    around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    lowest = np.asarray(-np.inf, x.dtype)  # a constant: of a traced value XLA could not tell that it is a maximum
    return jax.lax.reduce_window(x, lowest, jax.lax.max, (1, size, size, 1), (1, stride, stride, 1), around)


def _largest_of_slices(x: jax.Array, axis: int, size: int, stride: int, padding: int) -> jax.Array:
    """Take the largest of each window along one axis; a NaN is the largest."""
    edges = [(padding, padding) if a == axis else (0, 0) for a in range(x.ndim)]
    x = jnp.pad(x, edges, constant_values=-jnp.inf)
    count = (x.shape[axis] - size) // stride + 1
    first, *others = (jax.lax.slice_in_dim(x, i, i + (count - 1) * stride + 1, stride, axis) for i in range(size))
    for other in others:
        first = jnp.where((other > first) | jnp.isnan(other), other, first)
    return first


@jax.named_scope("pooling")
def global_average(x: jax.Array) -> jax.Array:
    """Return the mean [N, C] over all positions of [N, H, W, C], summed in float32 at least."""
    return x.astype(parameter_dtype(x.dtype)).mean((1, 2)).astype(x.dtype)
