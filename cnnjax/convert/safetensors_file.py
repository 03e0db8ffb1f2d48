"""The safetensors format: a JSON header, followed by the arrays."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from cnnjax.convert.tensors import GET_AGAIN, Shape, Tensors
from cnnjax.errors import UserError
from cnnjax.system.files import write_bytes

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I64": "int64"}


@contextlib.contextmanager
def open_safetensors(path: Path, largest: int) -> Iterator[Tensors]:
    """Open a safetensors file; the library checks that its offsets fit the file."""
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            shapes = {
                name: Shape(tuple(part.get_shape()), DTYPES.get(part.get_dtype(), part.get_dtype()))
                for name, part in slices.items()
            }
            yield Tensors(path, shapes, file.get_tensor)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file ({error}); {GET_AGAIN}") from error


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write arrays by name, atomically."""
    from safetensors.numpy import save

    write_bytes(path, save(tensors, {"format": "pt"}))
