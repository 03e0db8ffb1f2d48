"""Convolutions of members that train side by side under `jax.vmap`, each with its own kernel.

XLA turns a vmapped convolution into a grouped one with a group per member, which is slow for few channels per member.
Two ways to compute it as dense convolutions instead:

    one batch for all members   the kernels side by side: one convolution with C channels to members * C'
    a batch for each member     the kernels of some members as the blocks of a block-diagonal kernel: one convolution
                                with pack * C channels to pack * C' for each pack of members; the zeros cost arithmetic,
                                of which small convolutions have plenty to spare

`cnnjax.ops.dispatch.members_packed` decides how many members share a kernel. The gradients are packed alike. Under
`jax.vmap`, `convolution` has a reverse-mode derivative of first order only.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from cnnjax.ops import dispatch
from cnnjax.ops.window import Window

Pair = tuple[jax.Array, jax.Array]
Options = tuple[tuple[str, Any], ...]
"""Further arguments of `lax.conv_general_dilated`, by name."""


def convolution(images: jax.Array, kernel: jax.Array, window: Window, options: Options) -> jax.Array:
    """Convolve [N, H, W, C] with [h, w, C, C']; under `jax.vmap` over the kernel, members are packed."""
    forward, image_gradient, kernel_gradient = _functions(window, options)
    convolve = jax.custom_vjp(lambda images, kernel: forward(images, kernel))

    def save(images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Pair]:
        return forward(images, kernel), (images, kernel)

    def gradients(saved: Pair, outputs: jax.Array) -> Pair:
        return image_gradient(*saved, outputs), kernel_gradient(*saved, outputs)

    convolve.defvjp(save, gradients)
    return convolve(images, kernel)


@functools.cache
def _functions(window: Window, options: Options) -> tuple[Callable[..., jax.Array], ...]:
    """Return the convolution, and its gradients by the images and by the kernel, each with its rule for `jax.vmap`."""
    dense = functools.partial(_dense, window=window, options=options)
    members = functools.partial(members_convolution, window=window, options=options)

    def forward_rule(size: int, batched: list[bool], images: jax.Array, kernel: jax.Array) -> tuple[jax.Array, bool]:
        return members(images, _each(size, kernel, batched[1]), shared=not batched[0]), True

    forward = custom_vmap(dense)
    forward.def_vmap(forward_rule)

    def gradient(argument: int) -> Callable[..., jax.Array]:
        def rule(
            size: int, batched: list[bool], images: jax.Array, kernel: jax.Array, outputs: jax.Array
        ) -> tuple[jax.Array, bool]:  # fmt: skip
            shared = argument == 1 and not batched[0]
            images = images if shared else _each(size, images, batched[0])  # each member has its own gradient
            function = functools.partial(members, shared=shared)
            kernel, outputs = _each(size, kernel, batched[1]), _each(size, outputs, batched[2])
            return jax.vjp(function, images, kernel)[1](outputs)[argument], True

        alone = custom_vmap(lambda images, kernel, outputs: jax.vjp(dense, images, kernel)[1](outputs)[argument])
        alone.def_vmap(rule)
        return alone

    return forward, gradient(0), gradient(1)


def _each(members: int, array: jax.Array, is_batched: bool) -> jax.Array:
    """Return the array of each member, also if all members have the same one."""
    return array if is_batched else jnp.broadcast_to(array, (members, *array.shape))


def members_convolution(
    images: jax.Array, kernel: jax.Array, window: Window, options: Options, *, shared: bool
) -> jax.Array:  # fmt: skip
    """Return the outputs [M, N, H', W', C'] of kernels [M, h, w, C, C'] on images [N, H, W, C] or [M, N, H, W, C].

    ``shared`` tells whether all members have the same images.
    """
    dense = functools.partial(_dense, window=window, options=options)
    members, height, width, inputs, outputs = kernel.shape
    if shared:
        beside = jnp.moveaxis(kernel, 0, 3).reshape(height, width, inputs, members * outputs)
        return _apart(dense(images, beside), members)
    pack = dispatch.members_packed(members, inputs, outputs)
    if pack == 1:
        return jax.vmap(dense)(images, kernel)
    packs = [(images[start : start + pack], kernel[start : start + pack]) for start in range(0, members, pack)]
    return jnp.concatenate([_by_blocks(*arrays, dense) for arrays in packs])


def _by_blocks(images: jax.Array, kernel: jax.Array, dense: Callable[..., jax.Array]) -> jax.Array:
    """Return the outputs of some members by one convolution with a block-diagonal kernel."""
    members, height, width, inputs, outputs = kernel.shape
    blocks = jnp.einsum("mhwio,mn->hwmino", kernel, jnp.eye(members, dtype=kernel.dtype))
    diagonal = blocks.reshape(height, width, members * inputs, members * outputs)
    together = jnp.moveaxis(images, 0, 3)  # [N, H, W, M, C]: the channels of a member stay adjacent
    return _apart(dense(together.reshape(*together.shape[:3], members * inputs), diagonal), members)


def _apart(outputs: jax.Array, members: int) -> jax.Array:
    """Return [N, H, W, M * C] as [M, N, H, W, C]."""
    return jnp.moveaxis(outputs.reshape(*outputs.shape[:3], members, -1), 3, 0)


def _dense(images: jax.Array, kernel: jax.Array, window: Window, options: Options) -> jax.Array:
    """Convolve [N, H, W, C] with [h, w, C, C'] by XLA."""
    return lax.conv_general_dilated(
        images, kernel, window.strides, window.padding, rhs_dilation=window.dilation, **dict(options)
    )
