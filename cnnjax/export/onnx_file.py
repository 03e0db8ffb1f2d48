"""Export to ONNX: one file for any batch size, with the preprocessing in the graph and the class names beside it."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp

from cnnjax import __version__
from cnnjax.errors import UserError
from cnnjax.export.program import program, require_exportable
from cnnjax.export.verification import checked_file, compare_logits
from cnnjax.runs.predictor import Predictor

OPSET, IR_VERSION = 18, 8
"""Version of the operators and of the file format: those of ONNX 1.13."""
IMAGES, CLASSES = "images", "classes"
"""Name of the input, and of the entry of the metadata with the class names as JSON."""


def write_onnx(network: Predictor, out: Path) -> str:
    """Write the network and its preprocessing to ``out``; return a line that describes the file.

    The input ``images`` is uint8 [N, H, W, C], the outputs are those of `cnnjax.export.program`; the metadata have the
    class names as a JSON list under ``classes``.

    Raises:
        UserError: a package is missing, the network is not float32, it uses an operation that is not supported, or
            onnxruntime computes other logits.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; run pip install cnnjax[export]") from None
    if network.arch.dtype != "float32":
        raise UserError(f"model.dtype is {network.arch.dtype!r}; ONNX export needs 'float32', or use --to stablehlo")
    require_exportable(network)
    data = onnx_model(network)
    with checked_file(out, functools.partial(compare_logits, network, "read_onnx.py")) as temporary:
        temporary.write_bytes(data)
    return f"ONNX with operator set {OPSET}, any batch size, {len(data) / 2**20:.1f} MiB"


def onnx_model(network: Predictor) -> bytes:
    """Return the bytes of the file, whose structure ONNX's checker has accepted."""
    import onnx
    from onnx import TensorProto, helper

    from cnnjax.export.onnx_graph import Graph, Value, add_equations
    from cnnjax.export.onnx_operations import OPERATIONS

    size = network.preprocessing
    shape = (size.height, size.width, size.channels)
    sizes = jax.export.symbolic_shape(f"batch, {', '.join(map(str, shape))}")
    traced, outputs = jax.make_jaxpr(program(network), return_shape=True)(jax.ShapeDtypeStruct(sizes, jnp.uint8))
    graph = Graph(batch=IMAGES)
    values = add_equations(graph, traced, [Value(IMAGES, shape=sizes, dtype=jnp.uint8)], OPERATIONS)
    for name, value in zip(sorted(outputs), values, strict=True):  # JAX sorts the keys of a dict
        graph.nodes.append(helper.make_node("Identity", [graph.full(value)], [name]))
    described = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", outputs[name].shape[1]]) for name in outputs
    ]
    images = helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["batch", *shape])
    model = helper.make_model(
        helper.make_graph(graph.nodes, network.arch.family, [images], described, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="cnnjax",
        producer_version=__version__,
    )  # fmt: skip
    helper.set_model_props(model, {CLASSES: json.dumps(list(network.classes), ensure_ascii=False)})
    onnx.checker.check_model(model)
    return model.SerializeToString()
