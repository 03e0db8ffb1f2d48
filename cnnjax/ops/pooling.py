"""Pooling of feature maps as functions of arrays."""

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
    if pool_algorithm() == "slices":
        return _largest_of_slices(_largest_of_slices(x, 2, size, stride, padding), 1, size, stride, padding)
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


@jax.named_scope("pooling")
def global_average(x: jax.Array) -> jax.Array:
    """Return the mean [N, C] over all positions of [N, H, W, C], summed in at least float32."""
    return x.astype(parameter_dtype(x.dtype)).mean((1, 2)).astype(x.dtype)
