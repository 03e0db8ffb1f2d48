"""Weight files, read as data: nothing in them is executed, and a damaged file raises a one-line error.

The format is detected from the first bytes, not from the name.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cnnjax.convert.keras_file import HDF5_MAGIC, open_archive, open_h5
from cnnjax.convert.safetensors_file import open_safetensors
from cnnjax.convert.state_dict import without_prefix
from cnnjax.convert.tensors import GET_AGAIN, USUAL, Choice, Tensors, naming
from cnnjax.convert.torch_file import open_old_torch, open_torch_zip
from cnnjax.errors import UserError
from cnnjax.system.archives import open_zip
from cnnjax.system.files import open_plain

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
MOST_TENSORS = 100_000
LARGEST_HEADER = 10 * 2**20
"""Maximum bytes of a safetensors header; the largest networks here need a few hundred thousand."""

Opener = Callable[..., contextlib.AbstractContextManager[Tensors]]


@contextlib.contextmanager
def open_tensors(path: Path, largest: int, choice: Choice = USUAL) -> Iterator[Tensors]:
    """Open a torch, safetensors or Keras file.

    Args:
        path: the file.
        largest: maximum bytes of the unpacked weights in an archive.
        choice: which of the file's tensors to read.

    Raises:
        UserError: the file is missing, damaged or in another format; reading a tensor may raise it, too.
    """
    with contextlib.ExitStack() as stack:
        with _as_user_error(path):
            tensors = stack.enter_context(_opener(path, choice)(path, largest))
        if len(tensors.shapes) > MOST_TENSORS:
            raise UserError(f"{path} holds {len(tensors.shapes):,} tensors, more than any network; {GET_AGAIN}")
        with naming(path):
            tensors = without_prefix(tensors._replace(read=_as_user_error(path)(tensors.read)), choice.prefix)
        yield tensors


@contextlib.contextmanager
def _as_user_error(path: Path) -> Iterator[None]:
    """Turn any exception into a UserError: libraries do not document what they raise for damaged files."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = str(error).partition("\n")[0][:200] or type(error).__name__
        raise UserError(f"{path} is damaged or in another format ({message}); {GET_AGAIN}") from error


def _opener(path: Path, choice: Choice) -> Opener:
    opener = _opener_of_format(path)
    if opener in (open_torch_zip, open_old_torch):
        return functools.partial(opener, key=choice.key)
    if choice.key is not None:
        raise UserError(f"--key chooses an entry of a torch file, but {path} is not one; leave out --key")
    return opener


def _opener_of_format(path: Path) -> Opener:
    try:
        with open_plain(path) as file:
            start = file.read(16)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from error
    if start.startswith(HDF5_MAGIC):
        return open_h5
    if start.startswith(ZIP_MAGIC):
        with open_zip(path) as archive:
            return open_archive if "config.json" in archive.members else open_torch_zip
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= min(size - 8, LARGEST_HEADER):
        return open_safetensors
    if start.startswith(PICKLE_MAGIC):
        return open_old_torch
    raise UserError(
        f"{path} is not a weight file; give a torch .pth, a .safetensors, or a Keras .h5, .weights.h5 or .keras file, "
        f"or {GET_AGAIN}"
    )
