"""The layout of images in a directory or a zip: files, splits and classes.

    train/CLASS/FILE, validation/CLASS/FILE (or val/), test/CLASS/FILE      either of the last two may be missing
    CLASS/FILE                                                              no splits

Either layout may be nested in a single top-level folder. The classes are the folders of ``train``. Images are in the
order of their paths, so a directory and a zip of it give the same arrays. Nothing in a zip is written to the disk.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from cnnjax.data.image_files import (
    MOST_FILE_BYTES,
    UnknownFormatError,
    open_picture_file,
    read_header,
    read_picture_file,
)
from cnnjax.errors import UserError
from cnnjax.system.archives import open_zip

PARTS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}
"""Folder names that stand for splits."""
LAYOUT = "train/CLASS/FILE and test/CLASS/FILE"
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""A non-image with one of these suffixes counts as damaged; a non-image with any other suffix is left out."""
DEEPEST = 5
"""Maximum depth of folders at which symlinks to folders are followed."""

Arranged = dict[str, dict[str, list[str]]]
"""Paths of each split's files by class."""


class Files(NamedTuple):
    """The files of a directory or a zip by path, with ``/`` between names and at the end of a folder."""

    names: list[str]
    stamp: Callable[[str], tuple[int, int]]
    """Return the size in bytes and the modification time (in a zip, the CRC) of a file."""
    read: Callable[[str], bytes]
    open: Callable[[str], BinaryIO]
    """Open a file, to read only its header; in a zip, this unpacks it."""


@contextlib.contextmanager
def open_files(place: Path) -> Iterator[Files]:
    """Open a directory or a zip; a zip with paths outside itself is refused."""
    if place.is_dir():
        names = list(walk(str(place)))
        top = f"{place}/"

        def stamp(name: str) -> tuple[int, int]:
            status = os.stat(top + name)  # noqa: PTH116, five times as fast as Path's
            return status.st_size, status.st_mtime_ns

        yield Files(
            names, stamp, lambda name: read_picture_file(top + name), lambda name: open_picture_file(top + name)
        )  # fmt: skip
        return
    if not place.is_file():
        raise UserError(f"there is no directory or zip {place}; give one laid out as {LAYOUT} with --data.dir")
    with open_zip(place) as archive:
        # Windows writes backslashes as separators; `open_zip` has refused paths that leave the zip.
        members = {name.replace("\\", "/"): member for name, member in archive.members.items()}
        if len(members) < len(archive.members):
            raise UserError(f"{place} holds a file twice, once with / and once with \\; recreate the zip")
        stored = {name.replace("\\", "/"): name for name in archive.members}

        def read(name: str) -> bytes:
            return archive.read(stored[name], MOST_FILE_BYTES)

        yield Files(
            list(members), lambda name: (members[name].file_size, members[name].CRC), read,
            lambda name: io.BytesIO(read(name)),
        )  # fmt: skip


def raise_error(error: OSError) -> None:
    raise error


def walk(folder: str, on_error: Callable[[OSError], None] = raise_error) -> Iterator[str]:
    """Yield the visible files below a folder by their paths, and folders with ``/`` at the end.

    Below `DEEPEST` folders, symlinks to folders are yielded as files, so that a loop of symlinks ends. ``on_error`` is
    called for a folder that cannot be opened.
    """
    waiting = [(folder, "", 1)]
    while waiting:
        parent, prefix, depth = waiting.pop()
        try:
            opened = os.scandir(parent)
        except OSError as error:
            on_error(error)
            continue
        with opened as entries:
            for entry in entries:
                if not is_visible([entry.name]):
                    continue
                if entry.is_dir(follow_symlinks=depth <= DEEPEST):
                    yield f"{prefix}{entry.name}/"
                    waiting.append((entry.path, f"{prefix}{entry.name}/", depth + 1))
                else:
                    yield f"{prefix}{entry.name}"


def find_base(folder: Path) -> Path | None:
    """Return the folder that holds ``train``: the folder itself, or its only subfolder."""
    if (folder / "train").is_dir():
        return folder
    inner = [path for path in folder.iterdir() if is_visible([path.name]) and path.is_dir()]
    return inner[0] if len(inner) == 1 and (inner[0] / "train").is_dir() else None


def is_visible(path: list[str]) -> bool:
    return not any(name.startswith(".") or name == "__MACOSX" for name in path)


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def is_left_out(name: str, error: Exception) -> bool:
    """Return whether a file that raised ``error`` is not an image and has no image suffix; otherwise it is damaged."""
    return isinstance(error, UnknownFormatError) and not is_image(name)


def is_left_out_file(path: str) -> bool:
    """Return whether a file is not an image and has no image suffix; only the header of the file is read."""
    if is_image(path):
        return False
    try:
        with open_picture_file(path) as file:
            read_header(file)
    except Exception as error:  # Pillow raises many kinds of errors for a damaged file
        return is_left_out(path, error)
    return False


class Layout(NamedTuple):
    """Where the images of a directory or a zip are."""

    arranged: Arranged
    """Paths of each split's files by class, all sorted."""
    unused: list[str]
    """Visible files outside the layout."""
    top: str
    """Folder around the splits, such as ``photos/``, or an empty string."""

    def names(self, used: Sequence[str]) -> list[str]:
        """Return paths without the folder around the splits, so that a zip with such a folder has the same names."""
        return [name.removeprefix(self.top) for name in used]


def arrange(place: Path, names: list[str]) -> Layout:
    """Find the splits and classes among the paths of a directory or a zip."""
    visible = [name for name in names if is_visible(name.split("/"))]
    visible.sort(key=lambda name: name.replace("/", "\0"))  # by path component, as if "/" sorted before every character
    tops = {name.partition("/")[0] for name in visible if "/" in name}
    depth = 1 if len(tops) == 1 and not tops & PARTS.keys() else 0
    folders = {path[depth] for name in visible if len(path := name.split("/")) > depth + 1}
    parted = bool(folders & PARTS.keys())
    for part in PARTS.values():
        if len(synonyms := [name for name in sorted(folders) if PARTS.get(name) == part]) > 1:
            raise UserError(
                f"{place} has the folders {' and '.join(synonyms)}, which all stand for the {part} images; keep one"
            )
    if parted and "train" not in folders:
        raise UserError(f"{place} has no folder train with a folder for each class; lay it out as {LAYOUT}")
    classes = {path[depth] for name in visible if len(path := name.split("/")) == depth + 2 and path[-1]}
    if not parted and len(classes) < 2:
        raise UserError(f"{place} has no folder train with a folder for each class; lay it out as {LAYOUT}")
    arranged: Arranged = {part: {} for part in ("train", "validation", "test")}
    unused = []
    for name in visible:
        path = name.split("/")
        part, *inner = (path[depth:] or [""]) if parted else ["train", *path[depth:]]
        if PARTS.get(part) is None or (not inner and path[-1]):
            unused += [name] if path[-1] else []
            continue
        if len(inner) > 2 or (len(inner) == 1 and is_image(inner[0])):
            if inner[-1] == "" or not is_image(inner[-1]):
                unused += [name] if inner[-1] else []
                continue
            raise UserError(f"{place}/{name} does not follow the layout {LAYOUT}; move it into a class folder")
        if len(inner) == 2:
            images = arranged[PARTS[part]].setdefault(inner[0], [])
            if inner[1]:
                images.append(name)
        elif inner and inner[0]:
            unused.append(name)
    if parted and not arranged["train"]:
        raise UserError(f"{place} has no folder train with a folder for each class; lay it out as {LAYOUT}")
    for name, images in arranged["train"].items():
        if not images:
            raise without_images(place, name, "train")
    for part in ("validation", "test"):
        if not arranged[part]:
            del arranged[part]
        elif missing := [name for name in arranged["train"] if name not in arranged[part]]:
            raise UserError(
                f"{place}: the {part} images have no class {missing[0]!r}, but the training images do; "
                "both must have the same classes"
            )
        elif extra := [name for name in arranged[part] if name not in arranged["train"]]:
            raise UserError(
                f"{place}: the {part} images have a class {extra[0]!r}, but the training images do not; "
                "both must have the same classes"
            )
    return Layout(arranged, unused, f"{tops.pop()}/" if depth else "")


def check_classes(place: Path, part: str, by_class: dict[str, list[str]], labels: np.ndarray) -> None:
    """Refuse a part in which a class has no image."""
    counts = np.bincount(labels, minlength=len(by_class))
    for name, count in zip(sorted(by_class), counts.tolist(), strict=False):
        if not count:
            raise without_images(place, name, part)


def without_images(place: Path, name: str, part: str) -> UserError:
    return UserError(
        f"{place}: the class {name!r} has no images in {part}; put some there ({' '.join(SUFFIXES)}), or remove the "
        "class from all parts"
    )
