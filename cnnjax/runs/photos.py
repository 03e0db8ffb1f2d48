"""Photos that a user names to `predict`: files, and folders of them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax.data import Preprocessing, read_image
from cnnjax.errors import UserError


class ReadPhotos(NamedTuple):
    """Images uint8 [N, H, W, C], their paths, and a sentence for each file that could not be read."""

    images: np.ndarray
    paths: list[str]
    problems: list[str]


def find_photos(names: Sequence[str]) -> list[str]:
    """Return the files that are named, and for each folder the visible files in it and below, sorted.

    Raises:
        UserError: a folder holds no file.
    """
    photos: list[str] = []
    for name in names:
        if not Path(name).is_dir():
            photos.append(name)
            continue
        found = sorted(_files_below(Path(name)))
        if not found:
            raise UserError(f"the folder {name} holds no file; give a folder of images")
        photos += found
    return photos


def _files_below(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (str(Path(place) / name) for name in files if not name.startswith("."))


def read_photos(paths: Sequence[str], preprocessing: Preprocessing) -> ReadPhotos:
    """Read the files that are images; the others are reported."""
    images, readable, problems = [], [], []
    for path in paths:
        try:
            images.append(read_image(path, preprocessing))
            readable.append(path)
        except UserError as error:
            problems.append(str(error))
    shape = (0, preprocessing.height, preprocessing.width, preprocessing.channels)
    return ReadPhotos(np.stack(images) if images else np.zeros(shape, np.uint8), readable, problems)
