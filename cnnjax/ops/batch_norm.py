"""Batch normalization as functions of arrays; `cnnjax.models.layers.BatchNorm` keeps the running statistics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.ops.dispatch import norm_algorithm, parameter_dtype
from cnnjax.ops.native.batch_norm import batch_norm as native_batch_norm

Activation = Callable[..., jax.Array]


def normalize_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float, dtype: Any, activation: Activation,
    residual: jax.Array | None, running_mean: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """Normalize [N, H, W, C] by its batch statistics (Ioffe and Szegedy 2015, algorithm 1).

    ``running_mean`` [C] does not change the result; close to the batch's mean, it makes a single pass accurate.

    Returns:
        activation(norm(x) + residual) in ``dtype``, and the batch's mean and biased variance [C].
    """
    algorithm = norm_algorithm(x.dtype)
    if algorithm == "native":
        relu = activation is jax.nn.relu
        y, mean, var = native_batch_norm(x, scale, bias, epsilon=epsilon, relu=relu, residual=residual)
        y = y.astype(dtype)
        return y if relu else activation(y), mean, var
    wide = x.astype(parameter_dtype(x.dtype))
    mean, var = moments_about(wide, running_mean) if algorithm == "one_pass" else moments(wide)
    factor, offset = scale_and_offset(scale, bias, mean, var, epsilon)
    return affine(x, factor, offset, dtype=dtype, activation=activation, residual=residual), mean, var


def affine(
    x: jax.Array, factor: jax.Array, offset: jax.Array, *, dtype: Any, activation: Activation,
    residual: jax.Array | None,
) -> jax.Array:  # fmt: skip
    """Return activation(x * factor [C] + offset [C] + residual) for [N, H, W, C], computed in at least float32."""
    wide = x.astype(parameter_dtype(x.dtype))
    y = (wide * factor[None, None, None] + offset[None, None, None]).astype(dtype)
    return activation(y if residual is None else y + residual)


def scale_and_offset(
    scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array]:
    """Return the norm as x * factor [C] + offset [C]."""
    factor = scale * jax.lax.rsqrt(var + epsilon)
    return factor, bias - mean * factor


@jax.custom_jvp
def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean and the biased variance [C] over all positions of [N, H, W, C].

    The derivative of the variance is written by hand: autodiff would pass through the mean again, only to add zero.
    """
    return x.mean((0, 1, 2)), x.var((0, 1, 2))


@moments.defjvp
def _moments_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> Any:
    (x,), (dx,) = primals, tangents
    mean, var = moments(x)
    return (mean, var), _tangents(x, mean, dx)


@jax.custom_jvp
def moments_about(x: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return `moments` from the sums of x - shift [C] and of its square, which one pass through memory computes.

    The variance loses the digits of (mean - shift)^2 / variance; ``shift`` has no gradient.
    """
    away = x - shift[None, None, None]
    mean = away.mean((0, 1, 2))
    return shift + mean, jnp.maximum(jnp.square(away).mean((0, 1, 2)) - jnp.square(mean), 0)


@moments_about.defjvp
def _moments_about_jvp(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> Any:
    (x, shift), (dx, _) = primals, tangents
    mean, var = moments_about(x, shift)
    return (mean, var), _tangents(x, mean, dx)


def _tangents(x: jax.Array, mean: jax.Array, dx: jax.Array) -> tuple[jax.Array, jax.Array]:
    return dx.mean((0, 1, 2)), 2 * ((x - mean[None, None, None]) * dx).mean((0, 1, 2))
