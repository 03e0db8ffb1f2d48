"""Pooling over windows of any height, width, stride and padding, and pooling to a given size.

Activations are [N, H, W, C]. Sizes, strides and paddings are one number, or a pair for height and width. The rules are
those of torch 2 (`MaxPool2d`, `AvgPool2d`, `AdaptiveAvgPool2d`) and, with ``padding="SAME"``, those of Keras 3.

Along one axis of length L, a window of k with stride s and padding p on each side gives

    (L + 2 p - k) // s + 1 results, rounded up with ceil_mode;
    with ceil_mode, a last window that would begin beyond the input and its left padding is left out;
    with "SAME", ceil(L / s), with the smaller half of the padding on the left.

`cnnjax.models.layers.Pool` is the plain 2x2 pooling with stride 2, `global_average` the mean over all positions.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models.layers import global_average, max_pool, pair, parameter_dtype

__all__ = ["AdaptiveAveragePool", "AveragePool", "MaxPool", "global_average"]

Padding = int | tuple[int, int] | Literal["SAME", "VALID"]


class Axis(NamedTuple):
    """How windows lie along one axis of length ``length``: ``windows`` of them, from ``before`` the first position."""

    length: int
    size: int
    stride: int
    before: int
    windows: int

    @property
    def after(self) -> int:
        """Positions behind the last one that the windows reach."""
        return max((self.windows - 1) * self.stride + self.size - self.before - self.length, 0)

    def divisors(self, limit: int) -> np.ndarray:
        """Return how many positions of each window [windows] lie within the input and ``limit`` positions around it."""
        starts = np.arange(self.windows) * self.stride - self.before
        ends = np.minimum(starts + self.size, self.length + limit)
        return ends - np.maximum(starts, -limit)


class WindowPool(nnx.Module):
    """Base of the pools that move a window over [N, H, W, C]."""

    def __init__(
        self, size: int | tuple[int, int], stride: int | tuple[int, int] | None = None, *, padding: Padding = 0,
        ceil_mode: bool = False,
    ):  # fmt: skip
        self.size = pair("size", size)
        self.stride = self.size if stride is None else pair("stride", stride)
        self.ceil_mode = ceil_mode
        self.padding: tuple[int, int] | Literal["SAME"] = "SAME"
        if padding != "SAME":
            self.padding = pair("padding", 0 if padding == "VALID" else padding, least=0)
            if any(2 * edge > size for edge, size in zip(self.padding, self.size, strict=True)):
                raise UserError(f"padding is {padding!r} for windows of {self.size}; it must be at most half the size")
        elif ceil_mode:
            raise UserError("ceil_mode is given with padding 'SAME', which rounds up by itself; leave ceil_mode out")

    def axes(self, x: jax.Array) -> tuple[Axis, Axis]:
        """Return how the windows lie along the height and the width of [N, H, W, C].

        Raises:
            UserError: not one window fits.
        """
        height, width = (self._axis(number, x.shape[1 + number]) for number in (0, 1))
        if height.windows < 1 or width.windows < 1:
            raise UserError(
                f"a window of {self.size} with padding {self.padding} does not fit a map of {x.shape[1]}x{x.shape[2]}; "
                "give larger images or a smaller window"
            )
        return height, width

    def _axis(self, number: int, length: int) -> Axis:
        size, stride = self.size[number], self.stride[number]
        if self.padding == "SAME":
            windows = -(-length // stride)
            return Axis(length, size, stride, max((windows - 1) * stride + size - length, 0) // 2, windows)
        padding = self.padding[number]
        windows = (length + 2 * padding - size + (stride - 1 if self.ceil_mode else 0)) // stride + 1
        if self.ceil_mode and (windows - 1) * stride >= length + padding:
            windows -= 1
        return Axis(length, size, stride, padding, windows)


class MaxPool(WindowPool):
    """The largest of each window; what lies outside counts as -inf, and of equal values the first gets the gradient."""

    @jax.named_scope("pooling")
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [N, H, W, C] to [N, H', W', C]."""
        height, width = axes = self.axes(x)
        padded = _padded(x, axes, -np.inf)
        if height.size == width.size and height.stride == width.stride:
            return max_pool(padded, size=height.size, stride=height.stride, padding=0)
        windows, strides = (1, height.size, width.size, 1), (1, height.stride, width.stride, 1)
        return jax.lax.reduce_window(padded, np.asarray(-np.inf, x.dtype), jax.lax.max, windows, strides, "VALID")


class AveragePool(WindowPool):
    """The mean of each window, summed in float32 at least.

    ``count_include_pad`` counts the padding in the divisor, as zeros, but never what ceil_mode adds beyond it. The
    default is torch's, which counts it; with ``padding="SAME"`` it is Keras's, which does not.
    """

    def __init__(
        self, size: int | tuple[int, int], stride: int | tuple[int, int] | None = None, *, padding: Padding = 0,
        ceil_mode: bool = False, count_include_pad: bool | None = None,
    ):  # fmt: skip
        super().__init__(size, stride, padding=padding, ceil_mode=ceil_mode)
        if padding == "SAME" and count_include_pad:
            raise UserError("count_include_pad is True with padding 'SAME', which is never counted; leave it out")
        self.count_include_pad = padding != "SAME" and count_include_pad is not False

    @jax.named_scope("pooling")
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [N, H, W, C] to [N, H', W', C]."""
        height, width = axes = self.axes(x)
        wide = _padded(x.astype(parameter_dtype(x.dtype)), axes, 0.0)
        sums = _sum_of_slices(_sum_of_slices(wide, 1, height), 2, width)
        limits = (axis.before if self.count_include_pad else 0 for axis in axes)
        rows, columns = (axis.divisors(limit) for axis, limit in zip(axes, limits, strict=True))
        divisors = np.asarray(np.outer(rows, columns), wide.dtype)[None, :, :, None]
        return (sums / divisors).astype(x.dtype)


class AdaptiveAveragePool(nnx.Module):
    """The means of ``size`` parts of height and width, whatever these are, summed in float32 at least.

    Part i of n along an axis of length L goes from floor(i L / n) to ceil((i + 1) L / n): parts overlap where n does
    not divide L, and repeat positions where n is larger than L.
    """

    def __init__(self, size: int | tuple[int, int]):
        self.size = pair("size", size)

    @jax.named_scope("pooling")
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [N, H, W, C] to [N, *size, C]."""
        if 0 in x.shape[1:3]:
            raise UserError(f"a map of {x.shape[1]}x{x.shape[2]} has nothing to pool; give larger images")
        wide = x.astype(parameter_dtype(x.dtype))
        for axis, parts in zip((1, 2), self.size, strict=True):
            length = x.shape[axis]
            bounds = [(i * length // parts, -(-(i + 1) * length // parts)) for i in range(parts)]
            means = [jax.lax.slice_in_dim(wide, *part, axis=axis).mean(axis, keepdims=True) for part in bounds]
            wide = jnp.concatenate(means, axis)
        return wide.astype(x.dtype)


def _padded(x: jax.Array, axes: Sequence[Axis], value: float) -> jax.Array:
    edges = [(axis.before, axis.after) for axis in axes]
    return jnp.pad(x, ((0, 0), *edges, (0, 0)), constant_values=value) if any(map(any, edges)) else x


def _sum_of_slices(x: jax.Array, along: int, axis: Axis) -> jax.Array:
    """Sum each window along one axis of a padded array."""
    reach = (axis.windows - 1) * axis.stride + 1
    first, *others = (jax.lax.slice_in_dim(x, i, i + reach, axis.stride, along) for i in range(axis.size))
    return sum(others, start=first)
