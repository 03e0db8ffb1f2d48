"""What every file of weights is to a converter: tensors by name, of known shape and type before any is read."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

GET_AGAIN = "download the file again, or check that it is the one meant"
"""What to do about a damaged file."""


class Shape(NamedTuple):
    """What a file says of a tensor."""

    shape: tuple[int, ...]
    dtype: str


class Tensors(NamedTuple):
    """An open file's tensors: what it holds, and how to read one."""

    path: Path
    shapes: dict[str, Shape]
    read: Callable[[str], np.ndarray]
