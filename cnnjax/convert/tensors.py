"""Common interface of weight files: named tensors, whose shapes and types are known before any is read."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax.errors import UserError

GET_AGAIN = "download it again, or check that it is the right file"
"""Advice for a damaged file."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's path before the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


class Shape(NamedTuple):
    """Shape and dtype of a tensor, as declared in the file."""

    shape: tuple[int, ...]
    dtype: str


class Tensors(NamedTuple):
    """Tensors of an open file: their declared shapes, and a function that reads one by name."""

    path: Path
    shapes: dict[str, Shape]
    read: Callable[[str], np.ndarray]
    definition: Any = None
    """The layers of the model in the file, a `keras_definition.Definition`; None for a file of weights alone."""
    notices: tuple[str, ...] = ()
    """What was chosen or left out, for the user."""


class Choice(NamedTuple):
    """The user's choice among the tensors of a file."""

    key: str | None = None
    """Entry of a torch file that holds the state dict; None: the usual ones."""
    prefix: str | None = None
    """Prefix of the names to read, which is removed; None: usual prefixes that every name has."""


USUAL = Choice()
