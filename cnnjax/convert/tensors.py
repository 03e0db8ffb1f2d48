"""Common interface of weight files: named tensors, whose shapes and types are known before any is read."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

GET_AGAIN = "download it again, or check that it is the right file"
"""Advice for a damaged file."""


class Shape(NamedTuple):
    """Shape and dtype of a tensor, as declared in the file."""

    shape: tuple[int, ...]
    dtype: str


class Tensors(NamedTuple):
    """Tensors of an open file: their declared shapes, and a function that reads one by name."""

    path: Path
    shapes: dict[str, Shape]
    read: Callable[[str], np.ndarray]
