"""Training-mode batch normalization with a residual and ReLU on a CPU, in few passes through memory.

XLA's separate loops read and write an array the size of the activations 13 times, forward and backward together. Here
it is 8 times, or 11 with a residual. Derivatives of any order and mode are correct; the first reverse-mode one is fast.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from cnnjax.ops.native.library import F32, check_arrays, load_kernels
from cnnjax.ops.native.lowering import make_primitive

AXES = (0, 1, 2)


class Settings(NamedTuple):
    """Compile-time settings."""

    epsilon: float
    relu: bool
    residual: bool


def batch_norm(
    x: jax.Array, scale: jax.Array, offset: jax.Array, *, epsilon: float, relu: bool = False,
    residual: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """Return relu((x - mean) / sqrt(variance + epsilon) * scale + offset + residual), the mean and the biased variance.

    All arrays are float32: ``x`` and ``residual`` [N, H, W, C], the others [C].

    Raises:
        ValueError: the shapes or dtypes do not match.
    """
    check_arrays(
        x=(x, x.shape, F32), scale=(scale, x.shape[3:], F32), offset=(offset, x.shape[3:], F32),
        residual=(residual, x.shape, F32),
    )  # fmt: skip
    settings = Settings(epsilon, relu, residual is not None)
    return tuple(_forward.bind(x, scale, offset, *([] if residual is None else [residual]), settings=settings))


def _wide(by_channel: jax.Array) -> jax.Array:
    return by_channel[None, None, None]


def _in_steps(x: jax.Array, scale: jax.Array, offset: jax.Array, *residual: jax.Array, settings: Settings) -> Any:
    mean, variance = x.mean(AXES), x.var(AXES)
    factor = scale * lax.rsqrt(variance + settings.epsilon)
    y = x * _wide(factor) + _wide(offset - mean * factor)
    y = y + residual[0] if residual else y
    return [jax.nn.relu(y) if settings.relu else y, mean, variance]


def _passed(y: jax.Array, tangent: jax.Array, settings: Settings) -> jax.Array:
    return jnp.where(y > 0, tangent, 0.0) if settings.relu else tangent


def _tangent_in_steps(
    dx: jax.Array, dscale: jax.Array, doffset: jax.Array, *rest: jax.Array, settings: Settings
) -> list[jax.Array]:
    """Return the tangent of y; ``rest`` is (residual tangent,) x, mean, variance, scale, offset, y."""
    x, mean, variance, scale, _, y = rest[-6:]
    deviation = lax.rsqrt(variance + settings.epsilon)
    standard = (x - _wide(mean)) * _wide(deviation)
    along = dx - _wide(dx.mean(AXES)) - standard * _wide((standard * dx).mean(AXES))
    dy = along * _wide(scale * deviation) + standard * _wide(dscale) + _wide(doffset)
    return [_passed(y, dy + rest[0] if settings.residual else dy, settings)]


def _gradient_in_steps(
    cotangent: jax.Array, x: jax.Array, mean: jax.Array, variance: jax.Array, scale: jax.Array, offset: jax.Array,
    y: jax.Array, *, settings: Settings,
) -> list[jax.Array]:  # fmt: skip
    """Return the cotangents of x, scale and offset, and of the residual if there is one."""
    passed = _passed(y, cotangent, settings)
    deviation = lax.rsqrt(variance + settings.epsilon)
    standard = (x - _wide(mean)) * _wide(deviation)
    doffset, dscale = passed.sum(AXES), (passed * standard).sum(AXES)
    count = x.size // x.shape[-1]
    dx = (passed - _wide(doffset / count) - standard * _wide(dscale / count)) * _wide(scale * deviation)
    return [dx, dscale, doffset, *([passed] if settings.residual else [])]


def _primitive(name: str, in_steps: Callable[..., Any], native: Callable[..., Any] | None) -> Primitive:
    """Return a primitive that XLA computes in steps, and ``native`` on a CPU."""

    def shapes(*operands: Any, settings: Settings) -> list[jax.core.ShapedArray]:
        outputs = jax.eval_shape(functools.partial(in_steps, settings=settings), *operands)
        return [jax.core.ShapedArray(x.shape, x.dtype) for x in outputs]

    def batched(operands: Sequence[Any], axes: Sequence[Any], *, settings: Settings) -> tuple[list[Any], list[int]]:
        outputs = jax.vmap(functools.partial(in_steps, settings=settings), in_axes=tuple(axes))(*operands)
        return outputs, [0] * len(outputs)

    primitive = make_primitive(name, shapes, in_steps, native, ["settings"], library=load_kernels, several=True)
    batching.primitive_batchers[primitive] = batched
    ad.primitive_jvps[primitive] = functools.partial(_jvp_in_steps, in_steps)
    return primitive


def _native(target: str, context: Any, *operands: Any, settings: Settings) -> Any:
    return jax.ffi.ffi_lowering(target)(context, *operands, epsilon=np.float32(settings.epsilon), relu=settings.relu)


def _native_gradient(context: Any, *operands: Any, settings: Settings) -> Any:
    """Omit the output if ReLU's mask can be computed without it."""
    needed = 7 if settings.relu and settings.residual else 6
    context = context.replace(avals_in=context.avals_in[:needed])
    return _native("cnnjax_batch_norm_gradient", context, *operands[:needed], settings=settings)


def _jvp_in_steps(in_steps: Any, primals: Any, tangents: Any, *, settings: Settings) -> Any:
    tangents = [ad.instantiate_zeros(tangent) for tangent in tangents]
    return jax.jvp(functools.partial(in_steps, settings=settings), tuple(primals), tuple(tangents))


_forward = _primitive("batch_norm", _in_steps, functools.partial(_native, "cnnjax_batch_norm"))
_tangent = _primitive("batch_norm_tangent", _tangent_in_steps, None)
_gradient = _primitive("batch_norm_gradient", _gradient_in_steps, _native_gradient)


def _forward_jvp(primals: Any, tangents: Any, *, settings: Settings) -> Any:
    x, scale, offset = primals[:3]
    results = y, mean, variance = _forward.bind(*primals, settings=settings)
    given = [ad.instantiate_zeros(tangent) for tangent in tangents]
    (dy,) = _tangent.bind(*given, x, mean, variance, scale, offset, y, settings=settings)
    dx = given[0]
    return results, [dy, dx.mean(AXES), 2 * ((x - _wide(mean)) * dx).mean(AXES)]


def _tangent_transpose(cotangents: Any, *operands: Any, settings: Settings) -> Any:
    (cotangent,), linear = cotangents, len(operands) - 6
    if isinstance(cotangent, ad.Zero):
        return [None] * len(operands)
    passes_all = settings.residual and not settings.relu  # then the residual has the cotangent of the result
    computed = settings._replace(residual=False) if passes_all else settings
    gradients = _gradient.bind(cotangent, *operands[linear:], settings=computed) + [cotangent] * passes_all
    inputs = zip(gradients, operands[:linear], strict=True)
    return [*(gradient if ad.is_undefined_primal(operand) else None for gradient, operand in inputs), *[None] * 6]


ad.primitive_jvps[_forward] = _forward_jvp
ad.primitive_transposes[_tangent] = _tangent_transpose
