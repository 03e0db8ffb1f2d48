"""torch's state dicts as it saves them: a zip since torch 1.6, before that pickles and the values after them.

Both are read as data, without torch.
"""

import contextlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from cnnjax.convert.tensors import GET_AGAIN, Shape, Tensors
from cnnjax.convert.torch_pickle import Described, Storage, Tensor, read_pickle
from cnnjax.errors import UserError, printable
from cnnjax.system.archives import open_zip
from cnnjax.system.files import open_plain

WRAPPERS = ("state_dict", "model")
"""Keys under which training scripts keep the state dict beside other things."""
LARGEST_PICKLE = 8 * 2**20
"""Of what describes the tensors; of a network of a thousand tensors it has some hundred thousand bytes."""
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

ReadStorage = Callable[[Storage], np.ndarray]


@contextlib.contextmanager
def open_torch_zip(path: Path, largest: int) -> Iterator[Tensors]:
    """Open a state dict as torch saves it; no storage is read that has more than ``largest`` bytes."""
    with open_zip(path) as held:
        for name, member in held.members.items():
            if member.compress_type != zipfile.ZIP_STORED:
                raise UserError(f"{path}: its {name[:80]!r} is compressed, which torch does not do; {GET_AGAIN}")
        pickles = [name for name in held.members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise UserError(f"{path} is a zip, but not one written by torch or Keras; {GET_AGAIN}")
        folder = pickles[0].removesuffix("/data.pkl")
        order = f"{folder}/byteorder"
        if order in held.members and held.read(order, 16) != b"little":
            raise UserError(f"{path} was saved with another byte order; save it again on this kind of machine")
        described = _read_pickle(path, io.BytesIO(held.read(pickles[0], LARGEST_PICKLE)))

        def read(storage: Storage) -> np.ndarray:
            return np.frombuffer(held.read(f"{folder}/data/{storage.key}", largest), _dtype(storage))

        yield _tensors(path, described.value, read)


@contextlib.contextmanager
def open_old_torch(path: Path, largest: int) -> Iterator[Tensors]:
    """Open a state dict as torch saved it before 1.6: pickles, then each storage's values after their number."""
    with open_plain(path) as file:
        start = io.BytesIO(file.read(LARGEST_PICKLE))
        parts = [_read_pickle(path, start) for _ in range(5)]
        (magic, protocol, machine, _, keys), kinds = [part.value for part in parts], parts[3].storages
        if (magic, protocol) != (OLD_MAGIC, OLD_PROTOCOL) or not isinstance(machine, dict):
            raise UserError(f"{path} is a pickle, but not a torch state dict; {GET_AGAIN}")
        if machine.get("little_endian") is not True:
            raise UserError(f"{path} was saved with another byte order; save it again on this kind of machine")
        places, place = {}, start.tell()
        size = os.fstat(file.fileno()).st_size
        for key in keys:
            if key not in kinds:
                raise UserError(f"{path} holds values that belong to no tensor; {GET_AGAIN}")
            places[key] = place + 8
            place += 8 + kinds[key].length * _dtype(kinds[key]).itemsize
        if place > size:
            raise UserError(f"{path} is truncated: it has {size:,} bytes, and its tensors {place:,}; {GET_AGAIN}")

        def read(storage: Storage) -> np.ndarray:
            file.seek(places[storage.key] - 8)
            count = int.from_bytes(file.read(8), "little")
            if count != storage.length:
                raise UserError(f"{path} is damaged: {count:,} values are where {storage.length:,} should be")
            if (needed := count * _dtype(storage).itemsize) > largest:
                raise UserError(f"{path} holds {needed:,} bytes for a tensor; the limit is {largest:,}; {GET_AGAIN}")
            return np.frombuffer(file.read(needed), _dtype(storage))

        yield _tensors(path, parts[3].value, read)


def _read_pickle(path: Path, file: io.BytesIO) -> Described:
    try:
        return read_pickle(file)
    except UserError as error:
        raise UserError(f"{path}: {error}; it was not opened; give a file of tensors alone") from error


def _tensors(path: Path, described: Any, read: ReadStorage) -> Tensors:
    tensors = _state_dict(path, described)

    def read_tensor(name: str) -> np.ndarray:
        tensor = tensors[name]
        values = read(tensor.storage)
        if len(values) != tensor.storage.length:
            raise UserError(f"{path} is damaged: {printable(name)} does not hold the values it should; {GET_AGAIN}")
        strides = [stride * values.itemsize for stride in tensor.strides]
        # The record was checked: all of the view lies within the storage.
        view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False)
        return np.array(view, np.float32, order="C")

    shapes = {name: Shape(tensor.shape, tensor.storage.dtype) for name, tensor in tensors.items()}
    return Tensors(path, shapes, read_tensor)


def _state_dict(path: Path, held: Any) -> dict[str, Tensor]:
    """Return the tensors by name of a state dict, bare or under one of `WRAPPERS`."""
    wrappers = [name for name in WRAPPERS if isinstance(held, dict) and isinstance(held.get(name), dict)]
    if len(wrappers) > 1:
        raise UserError(f"{path} holds both {' and '.join(wrappers)}; save the one that is meant as a file of its own")
    if wrappers:
        held = held[wrappers[0]]
    if not isinstance(held, dict):
        raise UserError(f"{path} holds a {type(held).__name__.lower()}; it must be a state dict: tensors by name")
    for name, tensor in held.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            entry = printable(str(name)[:80])
            raise UserError(f"{path} is not a state dict: its entry {entry!r} is not a plain tensor; {GET_AGAIN}")
    return held


def _dtype(storage: Storage) -> np.dtype:
    return np.dtype(jnp.bfloat16) if storage.dtype == "bfloat16" else np.dtype(storage.dtype).newbyteorder("<")
