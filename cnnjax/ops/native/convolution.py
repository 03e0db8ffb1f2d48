"""Convolution and its two gradients, as three JAX primitives.

On a CPU each primitive is computed by the library (convolution.cc), elsewhere by XLA. All three are bilinear and each
is the transpose of another, so derivatives of any order and mode exist. Under `vmap` the members are computed one
after another, because a CPU gains nothing from batching them.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cnnjax.ops.dispatch import input_gradient_is_forward, kernel_gradient_is_dot
from cnnjax.ops.native.lowering import make_primitive
from cnnjax.ops.window import POINTWISE, Window, output_shape, turned

FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT = "forward", "input_gradient", "kernel_gradient"
"""Kinds, as parsed by `kind_of` in convolution_handlers.cc."""


def convolution(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Convolve [N, H, W, C] with [h, w, C / groups, C']; both float32, or both bfloat16.

    Raises:
        ValueError: the shapes or dtypes do not match.
    """
    images, window = simplified(images, kernel, window)
    return _forward.bind(images, kernel, window=window, spatial=())


def simplified(images: jax.Array, kernel: jax.Array, window: Window) -> tuple[jax.Array, Window]:
    """Apply the stride and padding of a 1x1 kernel to the images, and return the images and the remaining window.

    With a strided or padded 1x1 kernel, oneDNN 2.6 writes beyond its own memory (kernel gradient) or adds the wrong
    elements (epilogue).
    """
    if images.shape[3] != kernel.shape[2] * window.groups or images.dtype != kernel.dtype:
        raise ValueError(
            f"a kernel {kernel.dtype}{list(kernel.shape)} does not fit images {images.dtype}{list(images.shape)}"
        )
    if kernel.shape[:2] != (1, 1) or (window.strides == (1, 1) and not any(map(any, window.padding))):
        return images, window
    images = jnp.pad(images, ((0, 0), *window.padding, (0, 0)))[:, :: window.strides[0], :: window.strides[1]]
    return images, POINTWISE._replace(groups=window.groups)


def xla_convolution(images: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Convolve with XLA."""
    return lax.conv_general_dilated(
        images, kernel, window.strides, window.padding, rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=window.groups,
    )  # fmt: skip


def _xla_forward(images: jax.Array, kernel: jax.Array, *, window: Window, spatial: tuple[int, ...]) -> jax.Array:
    return xla_convolution(images, kernel, window)


def _xla_input_gradient(kernel: jax.Array, cotangent: jax.Array, *, window: Window, spatial: tuple[int, ...]) -> Any:
    images = jax.ShapeDtypeStruct(_input_shape(kernel, cotangent, window, spatial), cotangent.dtype)
    return jax.linear_transpose(lambda x: xla_convolution(x, kernel, window), images)(cotangent)[0]


def _xla_kernel_gradient(images: jax.Array, cotangent: jax.Array, *, window: Window, spatial: tuple[int, ...]) -> Any:
    kernel = jax.ShapeDtypeStruct(_kernel_shape(images, cotangent, window, spatial), cotangent.dtype)
    return jax.linear_transpose(lambda w: xla_convolution(images, w, window), kernel)(cotangent)[0]


def _input_shape(kernel: Any, cotangent: Any, window: Window, spatial: tuple[int, ...]) -> tuple[int, ...]:
    return cotangent.shape[0], *spatial, kernel.shape[2] * window.groups


def _kernel_shape(images: Any, cotangent: Any, window: Window, spatial: tuple[int, ...]) -> tuple[int, ...]:
    return *spatial, images.shape[3] // window.groups, cotangent.shape[3]


def _by_dot(images: jax.Array, cotangent: jax.Array, *, window: Window, spatial: tuple[int, ...]) -> jax.Array:
    """Return the kernel gradient [1, 1, C, C'] of a 1x1 convolution as one matrix product."""
    positions = (0, 1, 2)
    return lax.dot_general(images, cotangent, ((positions, positions), ((), ())))[None, None]


def _by_turned_kernel(
    kernel: jax.Array, cotangent: jax.Array, *, window: Window, spatial: tuple[int, ...]
) -> jax.Array:
    """Return the input gradient of a depthwise convolution as a convolution with the rotated kernel."""
    return _forward.bind(cotangent, kernel[::-1, ::-1], window=turned(kernel, window), spatial=())


def _product(name: str, kind: str, shape: Callable[..., tuple[int, ...]], xla: Callable[..., Any]) -> Primitive:
    """Return a primitive ``(a, b, window, spatial)``; ``spatial`` is the size that a and b do not determine."""

    def shaped(a: Any, b: Any, *, window: Window, spatial: tuple[int, ...]) -> jax.core.ShapedArray:
        return jax.core.ShapedArray(shape(a, b, window, spatial), a.dtype)

    by_dot, by_turned_kernel = (mlir.lower_fun(f, multiple_results=False) for f in (_by_dot, _by_turned_kernel))

    def native(context: Any, a: Any, b: Any, *, window: Window, spatial: tuple[int, ...]) -> Any:
        if kind == KERNEL_GRADIENT and kernel_gradient_is_dot(context.avals_in[0], window, spatial):
            return by_dot(context, a, b, window=window, spatial=spatial)
        if kind == INPUT_GRADIENT and input_gradient_is_forward(context.avals_in[0], window):
            return by_turned_kernel(context, a, b, window=window, spatial=spatial)
        return jax.ffi.ffi_lowering("cnnjax_convolution")(context, a, b, kind=kind, **attributes(window))

    product = make_primitive(name, shaped, xla, native, ["window", "spatial"])
    batching.primitive_batchers[product] = functools.partial(one_after_the_other, product)
    return product


def attributes(window: Window) -> dict[str, Any]:
    """Return a window as attributes for the library."""

    def numbers(values: Any) -> np.ndarray:
        return np.array(tuple(values), np.int64)

    return {
        "strides": numbers(window.strides),
        "dilation": numbers(window.dilation),
        "before": numbers(edge[0] for edge in window.padding),
        "after": numbers(edge[1] for edge in window.padding),
        "groups": np.int64(window.groups),
    }


def one_after_the_other(product: Primitive, operands: Any, axes: Any, **options: Any) -> tuple[Any, int]:
    """Batch a primitive by computing its members one after another."""
    moved = [x if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True)]
    batched = [x for x, axis in zip(moved, axes, strict=True) if axis is not None]

    def one(members: list[jax.Array]) -> Any:
        member = iter(members)
        return product.bind(
            *(x if axis is None else next(member) for x, axis in zip(moved, axes, strict=True)), **options
        )

    return lax.map(one, batched), 0


_forward = _product("convolution", FORWARD, output_shape, _xla_forward)
_input_gradient = _product("convolution_input_gradient", INPUT_GRADIENT, _input_shape, _xla_input_gradient)
_kernel_gradient = _product("convolution_kernel_gradient", KERNEL_GRADIENT, _kernel_shape, _xla_kernel_gradient)

# The transpose for each operand, given the cotangent of the result and the other operand.
ad.defbilinear(
    _forward,
    lambda y, x, w, window, spatial: _input_gradient.bind(w, y, window=window, spatial=x.aval.shape[1:3]),
    lambda y, x, w, window, spatial: _kernel_gradient.bind(x, y, window=window, spatial=w.aval.shape[:2]),
)
ad.defbilinear(
    _input_gradient,
    lambda x, w, y, window, spatial: _kernel_gradient.bind(x, y, window=window, spatial=w.aval.shape[:2]),
    lambda x, w, y, window, spatial: _forward.bind(x, w, window=window, spatial=()),
)
ad.defbilinear(
    _kernel_gradient,
    lambda w, x, y, window, spatial: _input_gradient.bind(w, y, window=window, spatial=x.aval.shape[1:3]),
    lambda w, x, y, window, spatial: _forward.bind(x, w, window=window, spatial=()),
)
