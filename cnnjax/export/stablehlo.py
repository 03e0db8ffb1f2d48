"""Export to StableHLO through `jax.export`: one file for CPU, CUDA and TPU, for any batch size."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError
from cnnjax.export.program import program, require_exportable
from cnnjax.export.verification import checked_file, compare_logits
from cnnjax.runs.predictor import Predictor

PLATFORMS = ("cpu", "cuda", "tpu")
CLASS_NAMES = "class_names"
"""Output with the class names: UTF-8, uint8 [classes, longest name], padded with zeros."""


def write_stablehlo(network: Predictor, out: Path) -> str:
    """Write the network, its preprocessing and its class names to ``out``; return a line that describes the file.

    ``jax.export.deserialize(bytearray(data)).call(images)`` returns a dict with the outputs of
    `cnnjax.export.program` and `CLASS_NAMES`. The batch size is symbolic, so XLA computes every operation: there are
    no calls to native code, and `jax.export` rejects any.

    Raises:
        UserError: flatbuffers is missing, or the file, read again, gives other logits.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise UserError(
            "flatbuffers is not installed; run pip install cnnjax[export], or pip install flatbuffers"
        ) from None
    require_exportable(network)
    data = exported(network).serialize()
    with checked_file(out, functools.partial(compare_logits, network, "read_stablehlo.py")) as temporary:
        temporary.write_bytes(data)
    return f"StableHLO for {', '.join(PLATFORMS)}, any batch size, {len(data) / 2**20:.1f} MiB"


def exported(network: Predictor) -> jax.export.Exported:
    """Return the exported computation."""
    run, names = program(network), encoded(network.classes)
    shape = network.preprocessing
    images = jax.ShapeDtypeStruct(
        jax.export.symbolic_shape(f"batch, {shape.height}, {shape.width}, {shape.channels}"), jnp.uint8
    )

    def with_names(images: jax.Array) -> dict[str, jax.Array]:
        return {**run(images), CLASS_NAMES: jnp.asarray(names)}

    return jax.export.export(jax.jit(with_names), platforms=PLATFORMS)(images)


def encoded(names: tuple[str, ...]) -> np.ndarray:
    """Return names as UTF-8, uint8 [names, longest], padded with zeros."""
    lines = [name.encode() for name in names]
    longest = max(map(len, lines), default=0)
    return np.array([list(line.ljust(longest, b"\0")) for line in lines], np.uint8).reshape(len(lines), longest)
