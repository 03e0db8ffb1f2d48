"""JAX primitives that are lowered to the native library on a CPU, and to XLA elsewhere."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from cnnjax.ops.native.library import Library, load


def make_primitive(
    name: str, shapes: Callable[..., Any], xla: Callable[..., Any], native: Callable[..., Any] | None,
    parameters: Sequence[str], *, library: Callable[[], Library | None] = load, several: bool = False,
) -> Primitive:  # fmt: skip
    """Return a primitive whose abstract result is given by ``shapes``: one array, or a list of arrays with ``several``.

    ``xla`` computes the result with JAX operations. ``native`` is the lowering rule on a CPU; it is used if ``library``
    returns a library and no array is empty, since the library does not support empty arrays. ``parameters`` are the
    names of the static keyword arguments.
    """
    primitive = Primitive(name)
    primitive.multiple_results = several
    primitive.def_impl(functools.partial(jax.jit, static_argnames=tuple(parameters))(primitive.bind))
    primitive.def_abstract_eval(shapes)
    elsewhere = mlir.lower_fun(xla, multiple_results=several)

    def on_cpu(context: Any, *operands: Any, **static: Any) -> Any:
        empty = any(0 in array.shape for array in (*context.avals_in, *context.avals_out))
        rule = elsewhere if native is None or empty or library() is None else native
        return rule(context, *operands, **static)

    mlir.register_lowering(primitive, elsewhere)
    mlir.register_lowering(primitive, on_cpu, platform="cpu")
    return primitive
