"""How a convolution is computed: by a rule of backend and shape, never by timing.

On an accelerator it is XLA's. On a CPU, XLA's is slow for some shapes and the native part (`cnnjax.native`, optional)
is faster for most; `way` says which shape goes which way, docs/performance.md the figures behind it.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax import native
from cnnjax.native import Window

Way = Literal["xla", "native", "matmul", "patches", "shifts"]
SMALLEST_MAP = 4
"""Positions of an output map up to which its patches are gathered and multiplied."""
FEW_POSITIONS = 1024
"""Positions in a batch up to which a product of matrices is faster than the native part, which reorders the kernel."""


@jax.named_scope("convolution")
def conv_general_dilated(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Any, *, rhs_dilation: tuple[int, int],
    feature_group_count: int, **options: Any,
) -> jax.Array:  # fmt: skip
    """Convolve [N, H, W, C] with [h, w, C / groups, C']: every convolution's way to the device."""
    window = make_window(images, kernel, strides, padding, rhs_dilation, feature_group_count)
    chosen = way(images, kernel, window)
    if chosen == "xla":
        return lax.conv_general_dilated(
            images, kernel, strides, padding, rhs_dilation=rhs_dilation, feature_group_count=feature_group_count,
            **options,
        )  # fmt: skip
    ways = {"native": native.convolution, "matmul": _by_matmul, "patches": _by_patches, "shifts": _by_shifts}
    return ways[chosen](images, kernel, window)


def make_window(images: jax.Array, kernel: jax.Array, strides: Any, padding: Any, dilation: Any, groups: int) -> Window:
    """Return a convolution's window with its padding in numbers."""
    if isinstance(padding, str):
        extent = [(k - 1) * d + 1 for k, d in zip(kernel.shape[:2], dilation, strict=True)]
        padding = lax.padtype_to_pads(images.shape[1:3], extent, strides, padding)
    above_below, left_right = (tuple(edge) for edge in padding)
    return Window(tuple(strides), (above_below, left_right), tuple(dilation), groups)


def lowering(dtype: Any) -> str:
    """Return what convolutions are computed by: the native part's library, "xla", or "xla-cpu" by the rules here."""
    if jax.default_backend() != "cpu":
        return "xla"
    library = native.load()
    usable = library is not None and (dtype == jnp.float32 or (dtype == jnp.bfloat16 and library.has_bfloat16))
    return library.version if library is not None and usable else "xla-cpu"


def way(images: jax.Array, kernel: jax.Array, window: Window) -> Way:
    """Return how this convolution is computed here."""
    by = lowering(images.dtype)
    known = all(isinstance(size, int) for size in images.shape)  # a program may be exported for any batch
    if by == "xla" or not known:
        return "xla"
    batch, height, width = output_positions(images, kernel, window)
    if 0 in (batch, height, width):
        return "xla"
    pointwise = kernel.shape[:2] == (1, 1) and window.groups == 1
    if height * width <= SMALLEST_MAP and window.groups == 1:
        return "patches"
    if by != "xla-cpu":
        return "matmul" if pointwise and batch * height * width <= FEW_POSITIONS else "native"
    if pointwise:
        return "matmul"
    if window.groups == 1:
        return "xla"
    return "shifts" if kernel.shape[2] == 1 else "patches"


def output_positions(images: jax.Array, kernel: jax.Array, window: Window) -> tuple[int, int, int]:
    """Return N, H and W of the result."""
    batch, height, width, _ = native.output_shape(images, kernel, window)
    return batch, height, width


def _by_matmul(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """A 1x1 convolution: the positions that the stride keeps, times the kernel."""
    (kept,) = _shifted(images, kernel, window)
    return jnp.einsum("nhwc,co->nhwo", kept, kernel[0, 0])


def _by_patches(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """All inputs of an output side by side, times the kernel as a matrix, in groups."""
    height, width, inputs, outputs = kernel.shape
    shifted = [x.reshape(*x.shape[:3], window.groups, inputs) for x in _shifted(images, kernel, window)]
    patches = jnp.concatenate(shifted, axis=-1)
    matrices = kernel.reshape(height * width * inputs, window.groups, outputs // window.groups)
    found = jnp.einsum("nhwgk,kgo->nhwgo", patches, matrices)
    return found.reshape(*found.shape[:3], outputs)


def _by_shifts(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """A depthwise convolution: one product of arrays for each place in the kernel, summed."""
    repeats = kernel.shape[3] // window.groups  # outputs of each channel
    flat = kernel.reshape(-1, kernel.shape[3])
    shifted = (jnp.repeat(x, repeats, axis=-1) if repeats > 1 else x for x in _shifted(images, kernel, window))
    products = [x * flat[place][None, None, None] for place, x in enumerate(shifted)]
    return sum(products[1:], start=products[0])


def _shifted(images: jax.Array, kernel: jax.Array, window: Window) -> list[jax.Array]:
    """Return, for each place in the kernel, the inputs [N, H', W', C] that it meets."""
    _, height, width = output_positions(images, kernel, window)
    padded = jnp.pad(images, ((0, 0), *window.padding, (0, 0)))
    (down, right), found = window.strides, []
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            top, left = i * window.dilation[0], j * window.dilation[1]
            end = (len(images), top + (height - 1) * down + 1, left + (width - 1) * right + 1, images.shape[3])
            found.append(lax.slice(padded, (0, top, left, 0), end, (1, down, right, 1)))
    return found
