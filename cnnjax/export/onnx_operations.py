"""JAX's primitives as nodes of ONNX (operator set 18), for networks in evaluation mode."""

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import helper

from cnnjax.errors import UserError
from cnnjax.export.onnx_graph import Graph, Operation, Value, is_static

Params = Mapping[str, Any]
"""Parameters of a primitive in JAX."""


def elementwise(kind: str) -> Operation:
    """Return the operation of an elementwise node; ONNX broadcasts narrow inputs."""

    def add(graph: Graph, params: Params, inputs: list[Value]) -> Value:
        return _elementwise(inputs, graph.node(kind, *map(graph.name, inputs)))

    return add


def _elementwise(inputs: list[Value], name: str) -> Value:
    """Return the output of an elementwise node, which is narrow unless a non-scalar input has the full size."""
    full = any(not value.narrow and value.shape != () for value in inputs)
    return Value(name, narrow=not full and any(value.narrow for value in inputs))


def composed(*kinds: str) -> Operation:
    """Return the operation of several elementwise nodes, applied one after the other."""

    def add(graph: Graph, params: Params, inputs: list[Value]) -> Value:
        name = graph.node(kinds[0], *map(graph.name, inputs))
        for kind in kinds[1:]:
            name = graph.node(kind, name)
        return _elementwise(inputs, name)

    return add


def _same(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    return inputs[0]


def _cast(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    to = helper.np_dtype_to_tensor_dtype(np.dtype(params["new_dtype"]))
    return _elementwise(inputs, graph.node("Cast", graph.name(inputs[0]), to=to))


def _select(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    condition, otherwise, then = map(graph.name, inputs)
    return _elementwise(inputs, graph.node("Where", condition, then, otherwise))


def _integer_pow(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    exponent = graph.constant(np.asarray(params["y"], inputs[0].dtype))
    return _elementwise(inputs, graph.node("Pow", graph.name(inputs[0]), exponent))


def _expm1(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    return _elementwise(inputs, graph.node("Sub", graph.node("Exp", graph.name(inputs[0])), _one(graph, inputs[0])))


def _log1p(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    return _elementwise(inputs, graph.node("Log", graph.node("Add", graph.name(inputs[0]), _one(graph, inputs[0]))))


def _one(graph: Graph, like: Value) -> str:
    return graph.constant(np.ones((), like.dtype))


def _square(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    name = graph.name(inputs[0])
    return _elementwise(inputs, graph.node("Mul", name, name))


def _broadcast(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    """Insert axes of size 1. They are expanded only where a full array is needed."""
    (value,), shape = inputs, params["shape"]
    sizes = [1] * len(shape)
    for axis, size in zip(params["broadcast_dimensions"], value.shape, strict=True):
        sizes[axis] = size
    narrow = tuple(sizes) != tuple(shape)
    if value.array is not None and not value.narrow:
        return Value(array=value.array.reshape(sizes), narrow=narrow)
    return Value(_reshaped(graph, value, sizes), narrow=narrow)


def _reshape(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    return Value(_reshaped(graph, inputs[0], params["new_sizes"]))


def _reshaped(graph: Graph, value: Value, sizes: Sequence[Any]) -> str:
    """Return the name of a reshaped value; one symbolic size is left to ONNX to infer."""
    if sum(not isinstance(size, int) for size in sizes) > 1:
        raise UserError("ONNX export does not support a reshape to several symbolic sizes; use --to stablehlo")
    fixed = [size if isinstance(size, int) else -1 for size in sizes]
    return graph.node("Reshape", graph.full(value), graph.numbers(fixed))


def _squeeze(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    return Value(graph.node("Squeeze", graph.full(inputs[0]), graph.numbers(params["dimensions"])))


def _transpose(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    name = graph.full(inputs[0])
    return Value(graph.node("Transpose", name, perm=list(params["permutation"])))


def _concatenate(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    return Value(graph.node("Concat", *map(graph.full, inputs), axis=params["dimension"]))


def _pad(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    lows, highs, interior = zip(*params["padding_config"], strict=True)
    if any(interior) or min(*lows, *highs) < 0:
        raise UserError("ONNX export does not support negative or interior padding; use --to stablehlo")
    name = graph.full(inputs[0])
    return Value(graph.node("Pad", name, graph.numbers([*lows, *highs]), graph.name(inputs[1])))


def _slice(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    shape = inputs[0].shape
    strides = params["strides"] or (1,) * len(shape)
    bounds = dict(enumerate(zip(params["start_indices"], params["limit_indices"], strides, strict=True)))
    return Value(_cut(graph, graph.full(inputs[0]), shape, bounds))


def _reverse(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    name, axes = graph.full(inputs[0]), params["dimensions"]
    first, last, step = ([number] * len(axes) for number in (-1, np.iinfo(np.int64).min, -1))
    return Value(graph.node("Slice", name, *map(graph.numbers, (first, last, axes, step))))


def _cut(graph: Graph, name: str, shape: Any, bounds: dict[int, tuple[Any, Any, int]]) -> str:
    """Return the name of a slice with start, end and step by axis; axes that are kept whole may be symbolic."""
    cut = {axis: bound for axis, bound in bounds.items() if bound != (0, shape[axis], 1)}
    if not cut:
        return name
    starts, ends, steps = zip(*cut.values(), strict=True)
    if not is_static((*starts, *ends)):
        raise UserError("ONNX export does not support a slice of the batch; use --to stablehlo")
    return graph.node("Slice", name, *(graph.numbers(numbers) for numbers in (starts, ends, list(cut), steps)))


def _gather(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    """Add a strided or contiguous slice, which JAX writes as a gather at known places if the batch is symbolic."""
    shape, places = inputs[0].shape, inputs[1].array
    dims, sizes = params["dimension_numbers"], params["slice_sizes"]
    axes, collapsed = dims.start_index_map, dims.collapsed_slice_dims
    name = graph.full(inputs[0])
    if places is not None and places.ndim == 1:  # one window
        bounds = {axis: (int(place), int(place) + sizes[axis], 1) for axis, place in zip(axes, places, strict=True)}
        name = _cut(graph, name, shape, bounds)
        return Value(graph.node("Squeeze", name, graph.numbers(collapsed)) if collapsed else name)
    picked = tuple(axis for axis in range(len(shape)) if axis not in dims.offset_dims)
    if places is not None and axes == collapsed == picked and (numbers := _grid(places)) is not None:
        for axis, wanted in zip(axes, numbers, strict=True):
            name = graph.node("Gather", name, graph.numbers(wanted), axis=axis)
        return Value(name)
    raise UserError("ONNX export does not support this form of indexing; use slices, or --to stablehlo")


def _grid(places: np.ndarray) -> list[np.ndarray] | None:
    """Return the positions along each of k axes if places [n1, ..., nk, k] are all their combinations, else None."""
    *sizes, count = places.shape
    if len(sizes) != count:
        return None
    first = [tuple(slice(None) if axis == n else 0 for axis in range(count)) for n in range(count)]
    numbers = [places[(*where, n)] for n, where in enumerate(first)]
    grid = np.stack(np.meshgrid(*numbers, indexing="ij"), axis=-1)
    return numbers if np.array_equal(places, grid) else None


def _reduce(kind: str) -> Operation:
    def add(graph: Graph, params: Params, inputs: list[Value]) -> Value:
        name = graph.full(inputs[0])
        return Value(graph.node(kind, name, graph.numbers(params["axes"]), keepdims=0))

    return add


def _dot(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    (left_sum, right_sum), (left_batch, right_batch) = params["dimension_numbers"]
    left = list(string.ascii_lowercase[: len(inputs[0].shape)])
    right = list(string.ascii_uppercase[: len(inputs[1].shape)])
    for ours, theirs in zip((*left_sum, *left_batch), (*right_sum, *right_batch), strict=True):
        right[theirs] = left[ours]
    kept = [left[axis] for axis in left_batch]
    kept += [left[axis] for axis in range(len(left)) if axis not in (*left_sum, *left_batch)]
    kept += [right[axis] for axis in range(len(right)) if axis not in (*right_sum, *right_batch)]
    return Value(
        graph.node("Einsum", *map(graph.full, inputs), equation=f"{''.join(left)},{''.join(right)}->{''.join(kept)}")
    )


def _conv(graph: Graph, params: Params, inputs: list[Value]) -> Value:
    """Add a convolution between two transpositions, because ONNX puts the channels first."""
    params = params
    images, kernel, output = params["dimension_numbers"]
    if set(params["lhs_dilation"]) != {1} or params["batch_group_count"] != 1 or np.min(params["padding"]) < 0:
        raise UserError("ONNX export does not support transposed convolutions; use --to stablehlo")
    x = graph.node("Transpose", graph.full(inputs[0]), perm=list(images))
    array = inputs[1].array
    if array is None:
        weights = graph.node("Transpose", graph.name(inputs[1]), perm=list(kernel))
    else:
        weights = graph.constant(np.ascontiguousarray(array.transpose(kernel)))
    lows, highs = zip(*params["padding"], strict=True)
    y = graph.node(
        "Conv", x, weights, strides=list(params["window_strides"]), pads=[*lows, *highs],
        dilations=list(params["rhs_dilation"]), group=params["feature_group_count"],
    )  # fmt: skip
    return Value(graph.node("Transpose", y, perm=[int(axis) for axis in np.argsort(output)]))


OPERATIONS: dict[str, Operation] = {
    **{name: elementwise(kind) for name, kind in {
        "abs": "Abs", "add": "Add", "and": "And", "div": "Div", "eq": "Equal", "erf": "Erf", "exp": "Exp",
        "floor": "Floor", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "log": "Log",
        "logistic": "Sigmoid", "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg", "not": "Not",
        "or": "Or", "pow": "Pow", "sign": "Sign", "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh",
    }.items()},
    "ne": composed("Equal", "Not"), "rsqrt": composed("Sqrt", "Reciprocal"),
    "stop_gradient": _same, "copy": _same, "copy_p": _same, "optimization_barrier": _same,
    "convert_element_type": _cast, "select_n": _select, "integer_pow": _integer_pow,
    "square": _square, "expm1": _expm1, "log1p": _log1p,
    "broadcast_in_dim": _broadcast, "reshape": _reshape, "squeeze": _squeeze, "transpose": _transpose,
    "concatenate": _concatenate, "pad": _pad, "slice": _slice, "rev": _reverse, "gather": _gather,
    "reduce_sum": _reduce("ReduceSum"), "reduce_max": _reduce("ReduceMax"),
    "dot_general": _dot, "conv_general_dilated": _conv,
}  # fmt: skip
"""Operations by the names of JAX's primitives."""
