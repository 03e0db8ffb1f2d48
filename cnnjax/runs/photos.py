"""Photos to classify: image files, and folders of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax.data import Preprocessing
from cnnjax.data.folder_layout import is_left_out_file, walk
from cnnjax.data.image_files import low_bits
from cnnjax.data.preprocessing import read_image_and_range
from cnnjax.errors import UserError, listed


class ReadPhotos(NamedTuple):
    """Images uint8 [N, H, W, C], their paths, and a message for each file that could not be read."""

    images: np.ndarray
    paths: list[str]
    problems: list[str]
    dark: list[str]
    """A message for each image with more than 8 bits per channel whose values are all low."""


class FoundPhotos(NamedTuple):
    """Paths of the image files that were given or are in given folders."""

    paths: list[str]
    left_out: list[str]
    """Files in the folders that are not images and have no image suffix, as in `folder_layout.is_left_out`."""
    problems: list[str]
    """A message for each subfolder that could not be opened."""


def find_photos(names: Sequence[str]) -> FoundPhotos:
    """Return the given files and, for each folder, the visible images in it and its subfolders, sorted.

    Raises:
        UserError: a folder contains no image.
    """
    paths: list[str] = []
    left_out: list[str] = []
    problems: list[str] = []
    for name in names:
        if not Path(name).is_dir():
            paths.append(name)
            continue
        errors: list[OSError] = []
        files = sorted(str(Path(name) / file) for file in walk(name, errors.append) if not file.endswith("/"))
        images = [file for file in files if not is_left_out_file(file)]
        if not images and not errors:
            raise UserError(f"the folder {name} contains no image; give a folder of images")
        paths += images
        left_out += sorted(set(files).difference(images))
        problems += [f"the folder {error.filename} cannot be opened ({error.strerror})" for error in errors]
    return FoundPhotos(paths, left_out, problems)


def require_photo(paths: Sequence[str]) -> None:
    """Raise UserError if files are given and none exists, before a network is downloaded for them."""
    if paths and not any(Path(path).exists() for path in paths):
        if len(paths) == 1:
            raise UserError(f"there is no image file {paths[0]}; check the path")
        raise UserError(f"none of the {len(paths):,} image files exists: {listed(paths, 2)}; check the paths")


def read_photos(paths: Sequence[str], preprocessing: Preprocessing) -> ReadPhotos:
    """Read the images, and report the files that cannot be read."""
    images, readable, problems, dark = [], [], [], []
    for path in paths:
        try:
            pixels, largest = read_image_and_range(path, preprocessing)
            images.append(pixels)
            readable.append(path)
            if largest is not None and (bits := low_bits(largest, preprocessing.max_value)):
                dark.append(
                    f"{path} has values up to {largest:,}, and {preprocessing.max_value:,} becomes white; if it has "
                    f"{bits} bits, train with --data.max-value {2**bits - 1}, or convert it to 8 bits"
                )
        except UserError as error:
            problems.append(str(error))
    shape = (0, preprocessing.height, preprocessing.width, preprocessing.channels)
    return ReadPhotos(np.stack(images) if images else np.zeros(shape, np.uint8), readable, problems, dark)
