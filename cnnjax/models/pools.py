"""Pooling over windows of any size, stride and padding, and adaptive pooling to a given output size.

Activations are [N, H, W, C]. Sizes, strides and paddings are one number or a (height, width) pair. The rules are those
of torch 2 (`MaxPool2d`, `AvgPool2d`, `AdaptiveAvgPool2d`) and, with ``padding="SAME"``, those of Keras 3.

Along an axis of length L, a window of size k with stride s and padding p on each side gives

    (L + 2 p - k) // s + 1 outputs, rounded up with ceil_mode;
    with ceil_mode, a last window that would start beyond the input and its left padding is dropped;
    with "SAME", ceil(L / s) outputs, with the smaller half of the padding on the left.

`cnnjax.models.layers.Pool` is plain 2x2 pooling with stride 2; `global_average` is the mean over all positions.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax.errors import UserError, require
from cnnjax.models.layers import global_average, max_pool, pair, parameter_dtype

__all__ = ["AdaptiveAveragePool", "AveragePool", "MaxPool", "global_average"]

Padding = int | tuple[int, int] | Literal["SAME", "VALID"]


class Axis(NamedTuple):
    """Windows along an axis of ``length`` positions; the first one starts ``before`` positions before the input."""

    length: int
    size: int
    stride: int
    before: int
    windows: int

    @property
    def after(self) -> int:
        """Positions that the windows cover after the end of the input."""
        return max((self.windows - 1) * self.stride + self.size - self.before - self.length, 0)

    def divisors(self, limit: int) -> np.ndarray:
        """Return the number of positions of each window [windows] that lie within ``limit`` positions of the input."""
        starts = np.arange(self.windows) * self.stride - self.before
        ends = np.minimum(starts + self.size, self.length + limit)
        return ends - np.maximum(starts, -limit)


class WindowPool(nnx.Module):
    """Base class of the pools that move a window over [N, H, W, C]."""

    def __init__(
        self, size: int | tuple[int, int], stride: int | tuple[int, int] | None = None, *, padding: Padding = 0,
        ceil_mode: bool = False,
    ):  # fmt: skip
        self.size = pair("size", size)
        self.stride = self.size if stride is None else pair("stride", stride)
        self.ceil_mode = ceil_mode
        self.padding: tuple[int, int] | Literal["SAME"] = "SAME"
        if padding != "SAME":
            unknown = isinstance(padding, str) and padding != "VALID"
            require(not unknown, "padding", padding, "'SAME', 'VALID', a whole number or a (height, width) pair")
            self.padding = pair("padding", 0 if padding == "VALID" else padding, least=0)
            if any(2 * edge > size for edge, size in zip(self.padding, self.size, strict=True)):
                raise UserError(
                    f"padding is {padding!r} for windows of size {self.size}; it must be at most half the size"
                )
        elif ceil_mode:
            raise UserError("ceil_mode is True with padding 'SAME', which always rounds up; omit ceil_mode")

    def axes(self, x: jax.Array) -> tuple[Axis, Axis]:
        """Return the windows along the height and the width of [N, H, W, C].

        Raises:
            UserError: no window fits.
        """
        height, width = (self._axis(number, x.shape[1 + number]) for number in (0, 1))
        if height.windows < 1 or width.windows < 1:
            raise UserError(
                f"a window of {self.size} with padding {self.padding} does not fit a map of {x.shape[1]}x{x.shape[2]}; "
                "use larger images or a smaller window"
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
    """Maximum of each window. Padding counts as -inf, and the first of equal values gets the gradient."""

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
    """Mean of each window, summed in at least float32.

    ``count_include_pad`` includes padding zeros in the divisor, but never positions that ceil_mode adds beyond them. By
    default padding counts, as in torch; with ``padding="SAME"`` it does not, as in Keras.
    """

    def __init__(
        self, size: int | tuple[int, int], stride: int | tuple[int, int] | None = None, *, padding: Padding = 0,
        ceil_mode: bool = False, count_include_pad: bool | None = None,
    ):  # fmt: skip
        super().__init__(size, stride, padding=padding, ceil_mode=ceil_mode)
        if padding == "SAME" and count_include_pad:
            raise UserError("count_include_pad is True with padding 'SAME', which is never counted; omit it")
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
    """Means over ``size`` parts of the height and width, for any input size, summed in at least float32.

    Part i of n along an axis of length L spans floor(i L / n) to ceil((i + 1) L / n). Parts overlap if n does not
    divide L, and repeat positions if n is larger than L.
    """

    def __init__(self, size: int | tuple[int, int]):
        self.size = pair("size", size)

    @jax.named_scope("pooling")
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [N, H, W, C] to [N, *size, C]."""
        if 0 in x.shape[1:3]:
            raise UserError(f"a map of {x.shape[1]}x{x.shape[2]} has no positions to pool; use larger images")
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
    first, *rest = (jax.lax.slice_in_dim(x, i, i + reach, axis.stride, along) for i in range(axis.size))
    return sum(rest, start=first)
