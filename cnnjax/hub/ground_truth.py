"""A flat folder of photos, and a file that states the class of each.

    FILE CLASS     or FILE,CLASS: one line per photo; the suffix of the file may be missing, and further columns after
                   the class are ignored
    CLASS          one line per photo, in the order of the file names

A CLASS is a name, an id or a number counted from 0; see `class_labels.match_classes`.
"""

import contextlib
import re
from pathlib import Path

import numpy as np

from cnnjax.data.folder_layout import is_image, is_visible, open_files
from cnnjax.data.photos import Photos
from cnnjax.errors import UserError, counted, listed
from cnnjax.hub.class_labels import match_classes
from cnnjax.runs.predictor import Predictor
from cnnjax.system.files import read_bytes


def labelled_photos(folder: Path, ground_truth: Path, network: Predictor) -> Photos:
    """Return the photos of a flat folder or zip with their classes, decoded when they are read.

    Raises:
        UserError: the folder has no images, the file cannot be read, or it does not name every photo once.
    """
    opened = contextlib.ExitStack()
    with contextlib.ExitStack() as closing:
        files = closing.enter_context(open_files(folder))
        photos = sorted(name for name in files.names if is_image(name) and is_visible(name.split("/")))
        if not photos:
            raise UserError(f"{folder} contains no images; give the folder of the photos that {ground_truth} names")
        given = _classes(photos, ground_truth)
        classes = sorted(set(given))
        _refuse_numbers_from_1(classes, ground_truth, network)
        positions = match_classes(classes, network, str(ground_truth))
        opened.enter_context(closing.pop_all())
    labels = positions[np.searchsorted(classes, given)]
    geometry = network.preprocessing
    sizes = np.zeros((len(photos), 2), np.int32)  # needed only for random crops
    return Photos(folder, files, photos, labels, sizes, geometry, geometry.channels, opened)


def require_class_folders(folder: Path) -> None:
    """Raise UserError for a folder or zip without images, or with images outside of folders named after classes."""
    with open_files(folder) as files:
        photos = [name for name in files.names if is_image(name) and is_visible(name.split("/"))]
    if not photos:
        raise UserError(f"{folder} contains no images; give a folder with a folder of images for each class")
    if not any("/" in name for name in photos):
        raise UserError(
            f"the images in {folder} are not in folders named after their classes; give a file that states the class "
            "of each with --ground-truth FILE"
        )


def _classes(photos: list[str], ground_truth: Path) -> list[str]:
    """Return the class of each photo."""
    try:
        lines = read_bytes(ground_truth, 64).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{ground_truth} cannot be read as text ({error}); give one line per photo") from error
    rows = [re.split(r"[,\s]+", line.strip()) for line in lines if line.strip()]
    if rows and rows[0][0].lower() in ("imageid", "file", "filename", "image"):  # a header
        rows = rows[1:]
    if all(len(row) == 1 for row in rows):
        if len(rows) != len(photos):
            raise UserError(
                f"{ground_truth} has {counted(len(rows), 'line')} and the folder {counted(len(photos), 'image')}; give "
                "one line per image, in the order of the file names, or name the files"
            )
        return [row[0] for row in rows]
    by_name = {_stem(row[0]): row[1] for row in rows if len(row) > 1}
    if missing := [name for name in photos if _stem(name) not in by_name]:
        raise UserError(
            f"{ground_truth} states no class for {counted(len(missing), 'image')}: {listed(missing, 3)}; add them, or "
            "remove the images"
        )
    return [by_name[_stem(name)] for name in photos]


def _stem(name: str) -> str:
    stem = name.rpartition("/")[2]
    return stem.rpartition(".")[0] if is_image(stem) else stem


def _refuse_numbers_from_1(classes: list[str], ground_truth: Path, network: Predictor) -> None:
    """Refuse the numbers of the ILSVRC kit, which count from 1 in an order of their own."""
    if str(len(network.classes)) in classes and "0" not in classes:
        raise UserError(
            f"{ground_truth} numbers the classes from 1, as the ILSVRC kit does in an order of its own; give WordNet "
            "ids, or numbers from 0 in the order of the network's outputs"
        )
