"""torch's state dicts, read by torch itself with ``weights_only``: tensors and plain containers, nothing that runs."""

import contextlib
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.convert.tensors import GET_AGAIN, Shape, Tensors
from cnnjax.errors import UserError

WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts keep the state dict beside other things."""


@contextlib.contextmanager
def open_torch(path: Path, largest: int) -> Iterator[Tensors]:
    """Open a state dict, bare or under one of `WRAPPERS`."""
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is a torch file, and torch, which only such files need, is not installed; install it with "
            "pip install torch, or give the same weights as .safetensors"
        ) from None
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _refuse_compressed(path)
    try:
        # Mapped, a file's tensors take no memory until they are read; the older format cannot be.
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, which could run code, or is damaged; it was not opened; give a file that "
            "torch.load(..., weights_only=True) reads"
        ) from error
    tensors = _state_dict(path, held, torch)

    def read(name: str) -> np.ndarray:
        return tensors[name].detach().float().contiguous().numpy()

    shapes = {name: Shape(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
    yield Tensors(path, shapes, read)


def _refuse_compressed(path: Path) -> None:
    """Refuse an archive that torch did not write: it would be mapped as it lies there, compressed."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise UserError(
                    f"{path}: its {member.filename} is compressed, which torch's files are not; {GET_AGAIN}"
                )


def _state_dict(path: Path, held: Any, torch: Any) -> dict[str, Any]:
    wrappers = [name for name in WRAPPERS if isinstance(held, dict) and isinstance(held.get(name), dict)]
    if len(wrappers) > 1:
        raise UserError(f"{path} holds both {' and '.join(wrappers)}; save the one that is meant as a file of its own")
    if wrappers:
        held = held[wrappers[0]]
    if not isinstance(held, dict):
        raise UserError(f"{path} holds a {type(held).__name__}; it must be a state dict: tensors by name")
    for name, tensor in held.items():
        plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_quantized
        if not isinstance(name, str) or not plain:
            raise UserError(f"{path} is no state dict: its entry {name!r} is no plain tensor; {GET_AGAIN}")
    return held
