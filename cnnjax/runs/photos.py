"""Photos to classify: image files, and folders of them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax.data import Preprocessing, read_image
from cnnjax.errors import UserError


class ReadPhotos(NamedTuple):
    """Images uint8 [N, H, W, C], their paths, and a message for each file that could not be read."""

    images: np.ndarray
    paths: list[str]
    problems: list[str]


def find_photos(names: Sequence[str]) -> list[str]:
    """Return the given files and, for each folder, the visible files in it and its subfolders, sorted.

    Raises:
        UserError: a folder contains no file.
    """
    photos: list[str] = []
    for name in names:
        if not Path(name).is_dir():
            photos.append(name)
            continue
        files = sorted(_files_below(Path(name)))
        if not files:
            raise UserError(f"the folder {name} contains no file; give a folder of images")
        photos += files
    return photos


def _files_below(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (str(Path(parent) / name) for name in files if not name.startswith("."))


def read_photos(paths: Sequence[str], preprocessing: Preprocessing) -> ReadPhotos:
    """Read the images, and report the files that cannot be read."""
    images, readable, problems = [], [], []
    for path in paths:
        try:
            images.append(read_image(path, preprocessing))
            readable.append(path)
        except UserError as error:
            problems.append(str(error))
    shape = (0, preprocessing.height, preprocessing.width, preprocessing.channels)
    return ReadPhotos(np.stack(images) if images else np.zeros(shape, np.uint8), readable, problems)
