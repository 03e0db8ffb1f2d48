"""The ONNX graph of a traced computation: one or more nodes for each JAX primitive, constants computed beforehand.

The batch size stays symbolic, so it never becomes a constant of the graph. A broadcast is not computed where ONNX
broadcasts by itself: a `Value` may be narrow, with axes of size 1 that stand for larger ones.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cnnjax.errors import UserError
from cnnjax.parallel import on_cpu

Shape = Sequence[Any]
"""Sizes of axes: numbers, and symbolic expressions of JAX."""


class Value(NamedTuple):
    """A tensor of the graph by name, or a known array."""

    name: str | None = None
    array: np.ndarray | None = None
    narrow: bool = False
    """Whether axes of size 1 stand for larger ones."""
    shape: Shape = ()
    """The full shape."""
    dtype: Any = None


@dataclasses.dataclass
class Graph:
    """Nodes and constants, in the order in which they are added."""

    batch: str
    """Name of a tensor whose first axis is the batch."""
    nodes: list[NodeProto] = dataclasses.field(default_factory=list)
    constants: list[TensorProto] = dataclasses.field(default_factory=list)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def numbers(self, numbers: Sequence[int] | np.ndarray) -> str:
        """Return a constant vector of whole numbers."""
        return self.constant(np.asarray(numbers, np.int64).reshape(-1))

    def name(self, value: Value) -> str:
        """Return the name of a value, narrow or not."""
        return self.constant(np.asarray(value.array)) if value.name is None else value.name

    def full(self, value: Value) -> str:
        """Return the name of a value whose axes all have their full size."""
        name = self.name(value)
        return self.node("Expand", name, self.sizes(value.shape)) if value.narrow else name

    def sizes(self, shape: Shape) -> str:
        """Return a vector of sizes, computed from the batch if one of them is symbolic."""
        if is_static(shape):
            return self.numbers(shape)
        batch = self.node("Shape", self.batch, start=0, end=1)
        parts = [self.numbers([size]) if isinstance(size, int) else batch for size in shape]
        return self.node("Concat", *parts, axis=0)


Operation = Callable[[Graph, Mapping[str, Any], list[Value]], Value]
"""Adds the nodes of a primitive with its parameters and inputs; returns its output, without shape and dtype."""


def is_static(shape: Shape) -> bool:
    return all(isinstance(size, int) for size in shape)


def add_equations(
    graph: Graph, closed: ClosedJaxpr, inputs: Sequence[Value], operations: Mapping[str, Operation]
) -> list[Value]:
    """Add a traced computation to the graph; return the values of its outputs.

    Raises:
        UserError: the network uses a primitive that is not in ``operations``.
    """
    jaxpr = closed.jaxpr
    known = [_known(array) for array in closed.consts]
    values: dict[Any, Value] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*known, *inputs), strict=True))

    def read(variable: Any) -> Value:
        return _known(variable.val) if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        arguments = [read(variable) for variable in equation.invars]
        if inner := _inner(equation):
            outputs = add_equations(graph, inner, arguments, operations)
        elif _is_known(equation, arguments):
            outputs = _computed(equation, arguments)
        else:
            name = equation.primitive.name
            if name not in operations:
                raise UserError(
                    f"ONNX export does not support JAX's {name!r}, which the network uses; use --to stablehlo"
                )
            aval: Any = equation.outvars[0].aval
            output = operations[name](graph, equation.params, arguments)
            outputs = [output._replace(shape=aval.shape, dtype=aval.dtype)]
        values |= zip(equation.outvars, outputs, strict=True)
    return [read(variable) for variable in jaxpr.outvars]


def _known(array: Any) -> Value:
    array = np.asarray(array)
    return Value(array=array, shape=array.shape, dtype=array.dtype)


def _inner(equation: JaxprEqn) -> ClosedJaxpr | None:
    """Return the computation that an equation calls, if it calls one."""
    called = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    return ClosedJaxpr(called, []) if isinstance(called, Jaxpr) else called


def _is_known(equation: JaxprEqn, arguments: Sequence[Value]) -> bool:
    """Return whether the output can be computed now: a parameter, or what depends only on parameters."""
    avals: list[Any] = [variable.aval for variable in equation.outvars]
    return all(is_static(aval.shape) for aval in avals) and all(
        value.array is not None and not value.narrow for value in arguments
    )


def _computed(equation: JaxprEqn, arguments: Sequence[Value]) -> list[Value]:
    with on_cpu():
        outputs = equation.primitive.bind(*(jax.numpy.asarray(value.array) for value in arguments), **equation.params)
    outputs = outputs if equation.primitive.multiple_results else [outputs]
    return [_known(output) for output in outputs]
