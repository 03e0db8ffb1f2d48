"""Max pooling as a primitive of JAX, and its derivative as two linear ones that are each other's transpose.

For a derivative the forward pass keeps which place in its window gave each output, uint8 [N, H', W', C]. `take` reads a
tangent at these places and `put` adds a cotangent to them, so that derivatives of any order and in any mode exist. On a
CPU all are the library's (pooling.cc), elsewhere XLA's choices among strided slices. `vmap` makes one batch of all.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from cnnjax.ops.native.library import load_kernels
from cnnjax.ops.native.lowering import make_primitive

LARGEST_POOL = 16
"""The side of the largest window whose places uint8 can count."""


class Pooling(NamedTuple):
    """How square windows move over maps of height x width."""

    size: int
    stride: int
    padding: int
    height: int
    width: int

    @property
    def outputs(self) -> tuple[int, int]:
        """Height and width of the result."""
        count = [(n + 2 * self.padding - self.size) // self.stride + 1 for n in (self.height, self.width)]
        return max(count[0], 0), max(count[1], 0)


def max_pool(x: jax.Array, *, size: int, stride: int, padding: int) -> jax.Array:
    """Take the largest of each window of [N, H, W, C], float32; outside is -inf, and a NaN is the largest.

    Of equal values the first in the window gets the gradient, of NaNs the last.
    """
    if size > LARGEST_POOL:
        raise ValueError(f"windows of {size} are larger than {LARGEST_POOL}")
    return _largest.bind(x, window=Pooling(size, stride, padding, *x.shape[1:3]))[0]


def _slices(x: jax.Array, window: Pooling, outside: float) -> Iterator[jax.Array]:
    """Yield, for each place in the window, what lies there: [N, H', W', C]."""
    edge = (window.padding, window.padding)
    padded = jnp.pad(x, ((0, 0), edge, edge, (0, 0)), constant_values=outside)
    height, width = (max((count - 1) * window.stride + 1, 0) for count in window.outputs)
    for i in range(window.size):
        for j in range(window.size):
            yield padded[:, i : i + height : window.stride, j : j + width : window.stride]


def _xla_largest(x: jax.Array, *, window: Pooling) -> list[jax.Array]:
    largest, *others = _slices(x, window, -jnp.inf)
    places = jnp.zeros(largest.shape, jnp.uint8)
    for place, other in enumerate(others, 1):
        larger = (other > largest) | jnp.isnan(other)
        largest, places = jnp.where(larger, other, largest), jnp.where(larger, np.uint8(place), places)
    return [largest, places]


def _xla_take(x: jax.Array, places: jax.Array, *, window: Pooling) -> list[jax.Array]:
    found = jnp.zeros(places.shape, x.dtype)
    for place, there in enumerate(_slices(x, window, 0.0)):
        found = jnp.where(places == place, there, found)
    return [found]


def _xla_put(outputs: jax.Array, places: jax.Array, *, window: Pooling) -> list[jax.Array]:
    images = jax.ShapeDtypeStruct(_images(outputs, window).shape, outputs.dtype)
    return list(jax.linear_transpose(lambda x: _xla_take(x, places, window=window)[0], images)(outputs))


def _images(x: Any, window: Pooling) -> jax.core.ShapedArray:
    return jax.core.ShapedArray((x.shape[0], window.height, window.width, x.shape[3]), jnp.float32)


def _outputs(x: Any, window: Pooling, dtype: Any = jnp.float32) -> jax.core.ShapedArray:
    return jax.core.ShapedArray((x.shape[0], *window.outputs, x.shape[3]), dtype)


def _primitive(
    name: str, target: str, xla: Callable[..., list[jax.Array]], *results: Callable[..., jax.core.ShapedArray]
) -> Primitive:
    """Return a primitive ``(*arrays, window)`` with a list of results, whose shapes the first array tells."""

    def native(context: Any, *arrays: Any, window: Pooling) -> Any:
        numbers = {name: np.int64(getattr(window, name)) for name in ("size", "stride", "padding")}
        return jax.ffi.ffi_lowering(target)(context, *arrays, **numbers)

    primitive = make_primitive(
        name, lambda x, *places, window: [result(x, window) for result in results],
        lambda *arrays, window: xla(*arrays, window=window)[: len(results)], native, ["window"], library=load_kernels,
        several=True,
    )  # fmt: skip
    batching.primitive_batchers[primitive] = functools.partial(_as_one_batch, primitive)
    return primitive


def _as_one_batch(primitive: Primitive, arrays: Any, axes: Any, *, window: Pooling) -> tuple[list[Any], list[int]]:
    """Batch a primitive: the images of all members are one batch."""
    members = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
    whole = [
        jnp.broadcast_to(x, (members, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(arrays, axes, strict=True)
    ]
    found = primitive.bind(*(x.reshape(math.prod(x.shape[:2]), *x.shape[2:]) for x in whole), window=window)
    return [x.reshape(members, x.shape[0] // max(members, 1), *x.shape[1:]) for x in found], [0] * len(found)


_places = functools.partial(_outputs, dtype=jnp.uint8)
_largest = _primitive("max_pool", "cnnjax_max_pool", _xla_largest, _outputs)
_largest_and_places = _primitive("max_pool_and_places", "cnnjax_max_pool", _xla_largest, _outputs, _places)
_take = _primitive("max_pool_take", "cnnjax_max_pool_take", _xla_take, _outputs)
_put = _primitive("max_pool_put", "cnnjax_max_pool_put", _xla_put, _images)


def _largest_jvp(primals: Any, tangents: Any, *, window: Pooling) -> Any:
    (largest, places), changes = _largest_and_places_jvp(primals, tangents, window=window)
    return [largest], changes[:1]


def _largest_and_places_jvp(primals: Any, tangents: Any, *, window: Pooling) -> Any:
    largest, places = _largest_and_places.bind(*primals, window=window)
    (change,) = _take.bind(*tangents, places, window=window)
    return [largest, places], [change, ad.Zero(_places(largest, window).to_tangent_aval())]


def _linear(primitive: Primitive, transpose: Primitive) -> None:
    """Tell how a primitive that is linear in its first operand, and has places as its second, is differentiated."""

    def jvp(primals: Any, tangents: Any, *, window: Pooling) -> Any:
        _, places = primals
        return primitive.bind(*primals, window=window), primitive.bind(tangents[0], places, window=window)

    def transposed(cotangents: Any, _: Any, places: Any, *, window: Pooling) -> Any:
        if isinstance(cotangents[0], ad.Zero):
            return [None, None]
        return *transpose.bind(*cotangents, places, window=window), None

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transposed


ad.primitive_jvps[_largest] = _largest_jvp
ad.primitive_jvps[_largest_and_places] = _largest_and_places_jvp
_linear(_take, _put)
_linear(_put, _take)
