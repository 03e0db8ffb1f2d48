"""torch state dicts: a zip since torch 1.6; before that, pickles followed by the values.

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

from cnnjax.convert.state_dict import select
from cnnjax.convert.tensors import GET_AGAIN, Shape, Tensors, naming
from cnnjax.convert.torch_pickle import Described, Storage, read_pickle
from cnnjax.errors import UserError, printable
from cnnjax.system.archives import open_zip
from cnnjax.system.files import open_plain

LARGEST_PICKLE = 8 * 2**20
"""Maximum bytes of the pickle that describes the tensors; a thousand tensors need a few hundred thousand."""
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

ReadStorage = Callable[[Storage], np.ndarray]


@contextlib.contextmanager
def open_torch_zip(path: Path, largest: int, key: str | None) -> Iterator[Tensors]:
    """Open a state dict saved by torch 1.6 or later; storages of more than ``largest`` bytes are not read."""
    with open_zip(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.members):
            raise UserError(
                f"{path} is a TorchScript program, which is not run; load it with torch.jit.load and save its weights "
                "with torch.save(model.state_dict(), FILE)"
            )
        for name, member in archive.members.items():
            if member.compress_type != zipfile.ZIP_STORED:
                raise UserError(f"{path}: {name[:80]!r} is compressed, which torch does not do; {GET_AGAIN}")
        pickles = [name for name in archive.members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise UserError(f"{path} is a zip, but not one written by torch or Keras; {GET_AGAIN}")
        folder = pickles[0].removesuffix("/data.pkl")
        order = f"{folder}/byteorder"
        if order in archive.members and archive.read(order, 16) != b"little":
            raise UserError(f"{path} was saved with another byte order; save it again on this kind of machine")
        described = _read_pickle(path, io.BytesIO(archive.read(pickles[0], LARGEST_PICKLE)))

        def read(storage: Storage) -> np.ndarray:
            return np.frombuffer(archive.read(f"{folder}/data/{storage.key}", largest), _dtype(storage))

        yield _tensors(path, described.value, key, read)


@contextlib.contextmanager
def open_old_torch(path: Path, largest: int, key: str | None) -> Iterator[Tensors]:
    """Open a state dict saved before torch 1.6: pickles, then the length and the values of each storage."""
    with open_plain(path) as file:
        start = io.BytesIO(file.read(LARGEST_PICKLE))
        parts = [_read_pickle(path, start) for _ in range(5)]
        (magic, protocol, machine, _, keys), kinds = [part.value for part in parts], parts[3].storages
        if (magic, protocol) != (OLD_MAGIC, OLD_PROTOCOL) or not isinstance(machine, dict):
            raise UserError(f"{path} is a pickle, but not a torch state dict; {GET_AGAIN}")
        if machine.get("little_endian") is not True:
            raise UserError(f"{path} was saved with another byte order; save it again on this kind of machine")
        offsets, offset = {}, start.tell()
        size = os.fstat(file.fileno()).st_size
        for name in keys:
            if name not in kinds:
                raise UserError(f"{path} contains values that belong to no tensor; {GET_AGAIN}")
            offsets[name] = offset + 8
            offset += 8 + kinds[name].length * _dtype(kinds[name]).itemsize
        if offset > size:
            raise UserError(f"{path} is truncated: it has {size:,} bytes and needs {offset:,}; {GET_AGAIN}")

        def read(storage: Storage) -> np.ndarray:
            file.seek(offsets[storage.key] - 8)
            count = int.from_bytes(file.read(8), "little")
            if count != storage.length:
                raise UserError(f"{path} is damaged: a tensor has {count:,} values instead of {storage.length:,}")
            if (needed := count * _dtype(storage).itemsize) > largest:
                raise UserError(f"{path} contains a tensor of {needed:,} bytes; the limit is {largest:,}; {GET_AGAIN}")
            return np.frombuffer(file.read(needed), _dtype(storage))

        yield _tensors(path, parts[3].value, key, read)


def _read_pickle(path: Path, file: io.BytesIO) -> Described:
    try:
        return read_pickle(file)
    except UserError as error:
        raise UserError(f"{path}: {error}; it was not opened; give a file that contains only tensors") from error


def _tensors(path: Path, described: Any, key: str | None, read: ReadStorage) -> Tensors:
    with naming(path):
        tensors, notices = select(described, key)

    def read_tensor(name: str) -> np.ndarray:
        tensor = tensors[name]
        values = read(tensor.storage)
        if len(values) != tensor.storage.length:
            raise UserError(f"{path} is damaged: {printable(name)} has the wrong number of values; {GET_AGAIN}")
        strides = [stride * values.itemsize for stride in tensor.strides]
        # `read_pickle` has checked that the view lies within the storage.
        view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False)
        return np.array(view, np.float64 if values.dtype == np.float64 else np.float32, order="C")

    shapes = {name: Shape(tensor.shape, tensor.storage.dtype) for name, tensor in tensors.items()}
    return Tensors(path, shapes, read_tensor, notices=notices)


def _dtype(storage: Storage) -> np.dtype:
    return np.dtype(jnp.bfloat16) if storage.dtype == "bfloat16" else np.dtype(storage.dtype).newbyteorder("<")
