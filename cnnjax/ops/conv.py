"""Convolution as functions of arrays, computed by the algorithm that `cnnjax.ops.dispatch` selects."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops import packing
from cnnjax.ops.dispatch import conv_algorithm
from cnnjax.ops.native import convolution as native
from cnnjax.ops.native.epilogue import NONLINEARITIES, convolution_with_epilogue
from cnnjax.ops.window import Window, make_window, output_shape

Activation = Callable[..., jax.Array]
Affine = tuple[jax.Array | None, jax.Array | None]
"""Scale [C'] and offset [C'] applied after a convolution, or None."""


@jax.named_scope("convolution")
def conv_general_dilated(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Any, *, rhs_dilation: tuple[int, int],
    feature_group_count: int, **options: Any,
) -> jax.Array:  # fmt: skip
    """Convolve [N, H, W, C] with [h, w, C / groups, C']; a replacement for `lax.conv_general_dilated` in nnx.Conv."""
    window = make_window(images, kernel, strides, padding, rhs_dilation, feature_group_count)
    algorithm = conv_algorithm(images, kernel, window)
    if algorithm == "xla":
        return lax.conv_general_dilated(
            images, kernel, strides, padding, rhs_dilation=rhs_dilation, feature_group_count=feature_group_count,
            **options,
        )  # fmt: skip
    if algorithm == "members":
        return packing.convolution(images, kernel, window, tuple(sorted(options.items())))
    algorithms = {
        "native": native.convolution, "matmul": _by_matmul, "patches": _by_patches, "shifts": _by_shifts,
        "blocks": _by_blocks,
    }  # fmt: skip
    return algorithms[algorithm](images, kernel, window)


def conv_affine(
    images: jax.Array, kernel: jax.Array, window: Window, affine: Callable[[], Affine], *, activation: Activation,
    residual: jax.Array | None, in_steps: Callable[[], jax.Array],
) -> jax.Array:  # fmt: skip
    """Return activation(conv(images) * scale + offset + residual).

    The native library computes it in one pass; other algorithms call ``in_steps()``, which computes it step by step.
    """
    if conv_algorithm(images, kernel, window) != "native":
        return in_steps()
    return _with_epilogue(
        functools.partial(convolution_with_epilogue, images, kernel, window), affine(), activation, residual
    )


@jax.named_scope("convolution")
def _with_epilogue(
    convolution: Callable[..., jax.Array], affine: Affine, activation: Activation, residual: jax.Array | None
) -> jax.Array:
    """Return a native convolution with scale, offset, residual and activation as its epilogue."""
    scale, offset = affine
    names = (name for name, function in NONLINEARITIES.items() if function is activation)
    nonlinearity = next(names, None)
    y = convolution(scale=scale, offset=offset, residual=residual, nonlinearity=nonlinearity or "identity")
    return y if nonlinearity else activation(y)


def _by_matmul(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Compute a 1x1 convolution as a matrix product of the strided positions and the kernel."""
    (strided,) = _shifted(images, kernel, window)
    return jnp.einsum("nhwc,co->nhwo", strided, kernel[0, 0])


def _by_patches(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Compute a grouped convolution as a matrix product of gathered patches (im2col) and the kernel."""
    height, width, inputs, outputs = kernel.shape
    shifted = [x.reshape(*x.shape[:3], window.groups, inputs) for x in _shifted(images, kernel, window)]
    patches = jnp.concatenate(shifted, axis=-1)
    matrices = kernel.reshape(height * width * inputs, window.groups, outputs // window.groups)
    products = jnp.einsum("nhwgk,kgo->nhwgo", patches, matrices)
    return products.reshape(*products.shape[:3], outputs)


def _by_shifts(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Compute a depthwise convolution as a sum of elementwise products, one per kernel position."""
    repeats = kernel.shape[3] // window.groups  # outputs per channel
    flat = kernel.reshape(-1, kernel.shape[3])
    shifted = (jnp.repeat(x, repeats, axis=-1) if repeats > 1 else x for x in _shifted(images, kernel, window))
    products = [x * flat[place][None, None, None] for place, x in enumerate(shifted)]
    return sum(products[1:], start=products[0])


def _by_blocks(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Compute a convolution of stride 2 as one of stride 1 on blocks of 2x2 positions, with four times the channels."""
    _, height, width, outputs = output_shape(images, kernel, window)
    taps = [-(-size // 2) for size in kernel.shape[:2]]
    sides = [2 * (count - 1 + tap) for count, tap in zip((height, width), taps, strict=True)]
    edges = [
        (before, side - before - extent, 0)
        for (before, _), side, extent in zip(window.padding, sides, images.shape[1:3], strict=True)
    ]
    zero, none = jnp.zeros((), images.dtype), (0, 0, 0)
    padded = lax.pad(images, zero, [none, *edges, none])
    blocks = padded.reshape(len(images), sides[0] // 2, 2, sides[1] // 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    full = jnp.pad(
        kernel, [(0, 2 * tap - size) for tap, size in zip(taps, kernel.shape[:2], strict=True)] + 2 * [(0, 0)]
    )
    matrix = full.reshape(taps[0], 2, taps[1], 2, -1, outputs).transpose(0, 2, 1, 3, 4, 5)
    return lax.conv_general_dilated(
        blocks.reshape(*blocks.shape[:3], -1), matrix.reshape(*taps, -1, outputs), (1, 1), "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def _shifted(images: jax.Array, kernel: jax.Array, window: Window) -> list[jax.Array]:
    """Return the inputs [N, H', W', C] that each kernel position multiplies."""
    _, height, width, _ = output_shape(images, kernel, window)
    padded = jnp.pad(images, ((0, 0), *window.padding, (0, 0)))
    (down, right), shifted = window.strides, []
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            top, left = i * window.dilation[0], j * window.dilation[1]
            end = (len(images), top + (height - 1) * down + 1, left + (width - 1) * right + 1, images.shape[3])
            shifted.append(lax.slice(padded, (0, top, left, 0), end, (1, down, right, 1)))
    return shifted
