"""A convolution with an epilogue: scale and offset per channel, a residual, a nonlinearity.

On a CPU the library applies the epilogue to each output before storing it, so the activations pass through memory once
instead of twice. The derivative of a nonlinearity is computed from its result, so nothing else is stored for it. With a
scale, whose derivative needs the plain convolution, the operations are differentiated in separate steps.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters import batching

from cnnjax.ops.dispatch import residual_is_a_step
from cnnjax.ops.native.convolution import (
    attributes,
    convolution,
    one_after_the_other,
    simplified,
    xla_convolution,
)
from cnnjax.ops.native.library import F32, check_arrays
from cnnjax.ops.native.lowering import make_primitive
from cnnjax.ops.window import Window, output_shape

NONLINEARITIES: dict[str, Callable[[Any], jax.Array]] = {
    "identity": jax.nn.identity, "relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "tanh": jax.nn.tanh,
}  # fmt: skip
"""Nonlinearities, by their names in algorithms.h."""
CHANGES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "identity": lambda result, change: change,
    "relu": lambda result, change: jnp.where(result > 0, change, jnp.zeros_like(change)),
    "sigmoid": lambda result, change: change * (result * (1 - result)),
    "tanh": lambda result, change: (change + change * result) * (1 - result),
}
"""Tangent of each nonlinearity, from its result and the tangent of its input."""


class Epilogue(NamedTuple):
    """The parts that are present, in the order in which they are applied."""

    scaled: bool
    shifted: bool
    residual: bool
    nonlinearity: str


def convolution_with_epilogue(
    images: jax.Array, kernel: jax.Array, window: Window, *, scale: jax.Array | None = None,
    offset: jax.Array | None = None, residual: jax.Array | None = None, nonlinearity: str = "identity",
) -> jax.Array:  # fmt: skip
    """Return nonlinearity(convolution * scale + offset + residual) of [N, H, W, C] and [h, w, C / groups, C'].

    ``scale`` and ``offset`` are float32 [C']; ``residual`` has the shape and type of the result.
    """
    images, window = simplified(images, kernel, window)
    outputs = output_shape(images, kernel, window)
    check_arrays(
        scale=(scale, outputs[3:], F32), offset=(offset, outputs[3:], F32), residual=(residual, outputs, images.dtype)
    )
    if residual is not None and residual_is_a_step(kernel, window):
        result = convolution_with_epilogue(images, kernel, window, scale=scale, offset=offset)
        return NONLINEARITIES[nonlinearity](result + residual)
    epilogue, parts = make_epilogue(scale, offset, residual, nonlinearity)
    return _differentiable(window, epilogue, images, kernel, *parts)


def make_epilogue(
    scale: jax.Array | None, offset: jax.Array | None, residual: jax.Array | None, nonlinearity: str
) -> tuple[Epilogue, list[jax.Array]]:
    """Return which parts are present, and their arrays."""
    epilogue = Epilogue(scale is not None, offset is not None, residual is not None, nonlinearity)
    return epilogue, [part for part in (scale, offset, residual) if part is not None]


def finished(epilogue: Epilogue, result: jax.Array, *parts: jax.Array) -> jax.Array:
    """Apply an epilogue in separate steps."""
    dtype, part = result.dtype, iter(parts)
    if epilogue.scaled:
        result = (result.astype(jnp.float32) * next(part)[None, None, None]).astype(dtype)
    if epilogue.shifted:
        result = (result.astype(jnp.float32) + next(part)[None, None, None]).astype(dtype)
    if epilogue.residual:
        result = result + next(part)
    return NONLINEARITIES[epilogue.nonlinearity](result)


def _in_steps(
    window: Window, epilogue: Epilogue, convolve: Callable[..., jax.Array], images: jax.Array, kernel: jax.Array,
    *parts: jax.Array,
) -> jax.Array:  # fmt: skip
    return finished(epilogue, convolve(images, kernel, window), *parts)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _differentiable(window: Window, epilogue: Epilogue, *operands: jax.Array) -> jax.Array:
    return _at_once.bind(*operands, window=window, epilogue=epilogue)


@_differentiable.defjvp
def _jvp(window: Window, epilogue: Epilogue, primals: Any, tangents: Any) -> Any:
    if epilogue.scaled:
        return jax.jvp(functools.partial(_in_steps, window, epilogue, convolution), primals, tangents)
    result = _differentiable(window, epilogue, *primals)
    linear = epilogue._replace(nonlinearity="identity")
    _, change = jax.jvp(functools.partial(_in_steps, window, linear, convolution), primals, tangents)
    return result, CHANGES[epilogue.nonlinearity](result, change)


def _by_xla(*operands: jax.Array, window: Window, epilogue: Epilogue) -> jax.Array:
    return _in_steps(window, epilogue, xla_convolution, *operands)


def _native(context: Any, *operands: Any, window: Window, epilogue: Epilogue) -> Any:
    return jax.ffi.ffi_lowering("cnnjax_convolution_with_epilogue")(
        context, *operands, **attributes(window), **epilogue_attributes(epilogue)
    )


def epilogue_attributes(epilogue: Epilogue) -> dict[str, Any]:
    """Return an epilogue as attributes for the library."""
    attributes = epilogue._asdict()
    residual = attributes.pop("residual")
    return {**attributes, "added": residual}


def _shape(images: Any, kernel: Any, *parts: Any, window: Window, epilogue: Epilogue) -> jax.core.ShapedArray:
    return jax.core.ShapedArray(output_shape(images, kernel, window), images.dtype)


_at_once = make_primitive("convolution_with_epilogue", _shape, _by_xla, _native, ["window", "epilogue"])
batching.primitive_batchers[_at_once] = functools.partial(one_after_the_other, _at_once)
