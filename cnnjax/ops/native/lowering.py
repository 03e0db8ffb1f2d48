"""An operation of the native part as a primitive of JAX: on a CPU by the library where it can, elsewhere by XLA."""

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
    """Return a primitive whose results have ``shapes``: an array, or with ``several`` a list of them.

    ``xla`` computes it from arrays. ``native`` is its rule of lowering on a CPU, taken where ``library`` finds one and
    no array is empty, since the library does not know empty ones. ``parameters`` are named, and are no arrays.
    """
    made = Primitive(name)
    made.multiple_results = several
    made.def_impl(functools.partial(jax.jit, static_argnames=tuple(parameters))(made.bind))
    made.def_abstract_eval(shapes)
    elsewhere = mlir.lower_fun(xla, multiple_results=several)

    def on_cpu(context: Any, *operands: Any, **given: Any) -> Any:
        empty = any(0 in array.shape for array in (*context.avals_in, *context.avals_out))
        rule = elsewhere if native is None or empty or library() is None else native
        return rule(context, *operands, **given)

    mlir.register_lowering(made, elsewhere)
    mlir.register_lowering(made, on_cpu, platform="cpu")
    return made
