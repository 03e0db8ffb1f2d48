"""A depthwise convolution and the 1x1 convolution of its results, with what follows, at once.

On a CPU the library computes both strip by strip, so that what lies between them never goes through memory. A
derivative needs what lies between: there the same is done in separate steps.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters import batching

from cnnjax.ops.native.convolution import (
    attributes,
    convolution,
    one_after_the_other,
    xla_convolution,
)
from cnnjax.ops.native.epilogue import NONLINEARITIES, Epilogue, epilogue_attributes, finished, make_epilogue
from cnnjax.ops.native.library import F32, check_arrays, load_kernels
from cnnjax.ops.native.lowering import make_primitive
from cnnjax.ops.window import POINTWISE, Window, output_shape

AT_ONCE = ("identity", "relu")
"""The nonlinearities that conv1x1.cc knows."""


def separable_convolution(
    images: jax.Array, depthwise: jax.Array, pointwise: jax.Array, window: Window, *, rectified: bool = False,
    scale: jax.Array | None = None, offset: jax.Array | None = None, residual: jax.Array | None = None,
    nonlinearity: str = "identity",
) -> jax.Array:  # fmt: skip
    """Return nonlinearity(pointwise(depthwise(images)) * scale + offset + residual), all of it float32.

    Images [N, H, W, C], or with ``rectified`` their ReLU, by ``depthwise`` [h, w, 1, C], which ``window`` moves with
    dilation 1, and then by ``pointwise`` [1, 1, C, C']. ``scale`` and ``offset`` are [C']; ``residual`` has the
    shape of the result.

    Raises:
        ValueError: they do not fit each other.
    """
    channels, outputs = images.shape[3], _shape(images, depthwise, pointwise, window=window).shape
    check_arrays(
        images=(images, images.shape, F32), depthwise=(depthwise, (*depthwise.shape[:2], 1, channels), F32),
        pointwise=(pointwise, (1, 1, channels, outputs[3]), F32), scale=(scale, outputs[3:], F32),
        offset=(offset, outputs[3:], F32), residual=(residual, outputs, F32),
    )  # fmt: skip
    if window.groups != images.shape[3] or window.dilation != (1, 1):
        raise ValueError(f"{window} is not that of a depthwise convolution of {images.shape[3]} channels, undilated")
    at_once = nonlinearity if nonlinearity in AT_ONCE else "identity"
    epilogue, others = make_epilogue(scale, offset, residual, at_once)
    result = _differentiable(window, rectified, epilogue, images, depthwise, pointwise, *others)
    return result if at_once == nonlinearity else NONLINEARITIES[nonlinearity](result)


def _shape(images: Any, depthwise: Any, pointwise: Any, *others: Any, window: Window, **_: Any) -> jax.core.ShapedArray:
    outputs = (*output_shape(images, depthwise, window)[:3], pointwise.shape[3])
    return jax.core.ShapedArray(outputs, images.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _differentiable(window: Window, rectified: bool, epilogue: Epilogue, *operands: jax.Array) -> jax.Array:
    return _at_once.bind(*operands, window=window, rectified=rectified, epilogue=epilogue)


@_differentiable.defjvp
def _jvp(window: Window, rectified: bool, epilogue: Epilogue, primals: Any, tangents: Any) -> Any:
    return jax.jvp(functools.partial(_in_steps, convolution, window, rectified, epilogue), primals, tangents)


def _in_steps(
    convolve: Callable[..., jax.Array], window: Window, rectified: bool, epilogue: Epilogue, images: jax.Array,
    depthwise: jax.Array, pointwise: jax.Array, *others: jax.Array,
) -> jax.Array:  # fmt: skip
    weighed = convolve(jax.nn.relu(images) if rectified else images, depthwise, window)
    return finished(epilogue, convolve(weighed, pointwise, POINTWISE), *others)


def _by_xla(*operands: jax.Array, window: Window, rectified: bool, epilogue: Epilogue) -> jax.Array:
    return _in_steps(xla_convolution, window, rectified, epilogue, *operands)


def _native(context: Any, *operands: Any, window: Window, rectified: bool, epilogue: Epilogue) -> Any:
    told = attributes(window)
    return jax.ffi.ffi_lowering("cnnjax_separable")(
        context, *operands, strides=told["strides"], before=told["before"], rectified=rectified,
        **epilogue_attributes(epilogue),
    )  # fmt: skip


_at_once = make_primitive(
    "separable_convolution", _shape, _by_xla, _native, ["window", "rectified", "epilogue"], library=load_kernels
)
batching.primitive_batchers[_at_once] = functools.partial(one_after_the_other, _at_once)
