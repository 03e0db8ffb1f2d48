"""Convolution windows: strides, padding, dilation and groups."""

from typing import Any, NamedTuple

import jax
from jax import lax


class Window(NamedTuple):
    """How a kernel moves over images; pairs are (vertical, horizontal)."""

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    groups: int


POINTWISE = Window((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
"""Window of a 1x1 convolution with stride 1 and no padding."""


def make_window(images: jax.Array, kernel: jax.Array, strides: Any, padding: Any, dilation: Any, groups: int) -> Window:
    """Return the window of a convolution, with explicit padding."""
    if isinstance(padding, str):
        extent = [(k - 1) * d + 1 for k, d in zip(kernel.shape[:2], dilation, strict=True)]
        padding = lax.padtype_to_pads(images.shape[1:3], extent, strides, padding)
    above_below, left_right = (tuple(edge) for edge in padding)
    return Window(tuple(strides), (above_below, left_right), tuple(dilation), groups)


def output_shape(images: Any, kernel: Any, window: Window, _: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Return the shape (N, H', W', C') of the convolution of [N, H, W, C] with [h, w, C / groups, C']."""
    extents = ((k - 1) * d + 1 for k, d in zip(kernel.shape[:2], window.dilation, strict=True))
    height, width = (
        max(0, (size + before + after - extent) // stride + 1)
        for size, (before, after), extent, stride in zip(
            images.shape[1:3], window.padding, extents, window.strides, strict=True
        )
    )
    return images.shape[0], height, width, kernel.shape[3]


def turned(kernel: Any, window: Window) -> Window:
    """Return the window of the input gradient as a convolution with the kernel rotated by 180 degrees."""
    extents = ((k - 1) * d for k, d in zip(kernel.shape[:2], window.dilation, strict=True))
    above_below, left_right = (
        (extent - before, extent - after) for extent, (before, after) in zip(extents, window.padding, strict=True)
    )
    return window._replace(padding=(above_below, left_right))
