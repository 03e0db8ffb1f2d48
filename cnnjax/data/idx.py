"""The IDX format of the MNIST files: read strictly, plain or gzipped whatever the suffix, and written.

A file is two zero bytes, the type (8: unsigned bytes), the number of axes, each axis's length as a big-endian 32-bit
number, then the values (LeCun, Cortes, Burges, "The MNIST database").
"""

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np

from cnnjax.errors import UserError
from cnnjax.system.files import open_plain

UNSIGNED_BYTES = 8
MOST_BYTES = 2**30
"""Maximum bytes of the values; the largest published set, EMNIST ByClass, has 0.6 GiB."""


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Return the uint8 array in ``path``, with ``axes`` axes: 3 for images [N, H, W], 1 for labels [N].

    Raises:
        UserError: the file is unreadable, of another kind, truncated or too long.
    """
    header_size = 4 + 4 * axes
    try:
        with open_plain(path) as stored, gzip.GzipFile(fileobj=stored) if is_gzip(stored) else stored as file:
            header = file.read(header_size)
            if len(header) < header_size or header[:2] != b"\0\0":
                raise UserError(f"{path} is not an IDX file: its first bytes are {header[:4].hex() or 'missing'}")
            if header[2] != UNSIGNED_BYTES or header[3] != axes:
                raise UserError(
                    f"{path} holds IDX type {header[2]} with {header[3]} axes; "
                    f"type {UNSIGNED_BYTES} (unsigned bytes) with {axes} axes is needed (were the files swapped?)"
                )
            shape = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
            expected = math.prod(shape)
            if expected > MOST_BYTES:  # a few megabytes of gzip could unpack to as many gigabytes
                raise UserError(
                    f"{path} says it holds {expected:,} bytes {list(shape)}; at most {MOST_BYTES:,} are allowed"
                )
            # Request one byte more than expected, to detect a longer file without reading all of it.
            body = file.read(expected + 1)
    except (OSError, EOFError, zlib.error, OverflowError, MemoryError) as error:
        raise UserError(f"{path} cannot be read as an IDX file: {str(error) or type(error).__name__}") from error
    if len(body) != expected:
        actual = "more" if len(body) > expected else f"{len(body):,}"
        raise UserError(f"{path} declares {expected:,} bytes {list(shape)} but holds {actual}; download the file again")
    return np.frombuffer(body, np.uint8).reshape(shape)


def is_gzip(file: io.BufferedReader) -> bool:
    """Return whether a file is gzipped, by its first bytes: some mirrors drop the suffix, some browsers unpack."""
    return file.peek(2)[:2] == b"\x1f\x8b"


def idx_bytes(array: np.ndarray) -> bytes:
    """Return a uint8 array as the content of an IDX file."""
    header = bytes([0, 0, UNSIGNED_BYTES, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + np.ascontiguousarray(array, np.uint8).tobytes()


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array as IDX; gzipped reproducibly if the name ends in ``.gz``."""
    data = idx_bytes(array)
    path.write_bytes(gzip.compress(data, compresslevel=9, mtime=0) if path.suffix == ".gz" else data)
