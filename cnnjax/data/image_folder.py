"""Images in folders, in a directory or a zip, of any size and format.

    train/CLASS/FILE, validation/CLASS/FILE (or val/), test/CLASS/FILE      any of the last two may be missing
    CLASS/FILE                                                              no parts

Both may lie in one folder at the top. The classes are the folders of ``train``. Images are in the order of their paths,
so that a directory and a zip of it give the same arrays. Whether a file is an image is decided by its content; files
that are not used are counted and named. Nothing in a zip is written to the disk.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax.data.dataset import Loaded, Split
from cnnjax.data.image_files import (
    MOST_FILE_BYTES,
    UnknownFormatError,
    check_file_size,
    decode_picture,
    read_picture_file,
)
from cnnjax.data.preprocessing import Preprocessing, fit
from cnnjax.errors import UserError, listed
from cnnjax.system import signals
from cnnjax.system.archives import open_zip

PARTS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}
"""Folders that are parts, with the part that each is."""
LAYOUT = "train/CLASS/FILE and test/CLASS/FILE"
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""A file with one of these that is no image is damaged; another file is left out."""
DEEPEST = 5
"""Levels of folders that are looked into."""
MOST_PIXEL_BYTES = 16 * 2**30
CHUNK_BYTES = 2**24

Arranged = dict[str, dict[str, list[str]]]
"""The paths of each part's files by class."""


class Files(NamedTuple):
    """The files of a directory or a zip by their paths, with ``/`` between names and at the end of a folder's."""

    names: list[str]
    size: Callable[[str], int]
    read: Callable[[str], bytes]


class Decoded(NamedTuple):
    """Images uint8 [N, H, W, C], which of the files they are, bool, and the files that are not images."""

    pixels: np.ndarray
    kept: np.ndarray
    left_out: list[str]
    damaged: list[str]


def load_image_folder(place: Path, size: int | None = None, skip_damaged: bool = False) -> Loaded:
    """Load a directory or a zip; mean and standard deviation are those of all its training images.

    Args:
        place: the directory or zip.
        size: height and width in pixels: each image is resized on its short side and its center is cropped. Without it
            all images must have one size.
        skip_damaged: leave damaged files out and report them.

    Raises:
        UserError: it is missing or laid out differently, images are damaged, or their sizes differ without ``size``.
    """
    with open_files(place) as files:
        arranged, unused = arrange(place, files.names)
        names = [name for part in arranged.values() for images in part.values() for name in images]
        decoded = decode(place, files, names, size, skip_damaged)
    classes = tuple(arranged["train"])
    numbers = {name: number for number, name in enumerate(classes)}
    parts, start = {}, 0
    kept_before = np.concatenate([[0], np.cumsum(decoded.kept)])
    for part, by_class in arranged.items():
        labels = np.repeat(
            np.array([numbers[name] for name in by_class], np.int32), [len(images) for images in by_class.values()]
        )
        end = start + len(labels)
        kept = decoded.kept[start:end]
        check_classes(place, part, by_class, labels[kept])
        parts[part] = Split(decoded.pixels[kept_before[start] : kept_before[end]], labels[kept])
        start = end
    mean, std = training_statistics(place, parts["train"].images)
    return Loaded(parts, classes, mean, std, notices=notices(place, unused + decoded.left_out, decoded.damaged))


def notices(place: Path, left_out: list[str], damaged: list[str]) -> tuple[str, ...]:
    """Return a sentence about the files that are not used, and one about those that are damaged."""
    sentences = []
    if left_out:
        why = "not images, or outside the layout"
        sentences.append(f"{len(left_out):,} files of {place} are not used ({why}): {listed(left_out)}")
    if damaged:
        sentences.append(f"{len(damaged):,} damaged files of {place} are not used: {listed(damaged)}")
    return tuple(sentences)


@contextlib.contextmanager
def open_files(place: Path) -> Iterator[Files]:
    """Open a directory or a zip; a zip with paths outside itself is refused."""
    if place.is_dir():
        names = list(walk(str(place)))
        yield Files(names, lambda name: (place / name).stat().st_size, lambda name: read_picture_file(place / name))
        return
    if not place.is_file():
        raise UserError(f"there is no directory or zip {place}; give one laid out {LAYOUT} with --data.dir")
    with open_zip(place) as archive:
        # Windows writes backslashes as separators; `open_zip` has refused paths that leave the zip.
        members = {name.replace("\\", "/"): member for name, member in archive.members.items()}
        if len(members) < len(archive.members):
            raise UserError(f"{place} holds a file twice, once with / and once with \\; recreate the zip")
        stored = {name.replace("\\", "/"): name for name in archive.members}
        yield Files(
            list(members), lambda name: members[name].file_size,
            lambda name: archive.read(stored[name], MOST_FILE_BYTES),
        )  # fmt: skip


def walk(folder: str, prefix: str = "", depth: int = 1) -> Iterator[str]:
    """Yield the visible files below a folder by their paths, and empty folders with ``/`` at the end."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_visible([entry.name]):
                continue
            if entry.is_dir():
                yield f"{prefix}{entry.name}/"
                if depth < DEEPEST:
                    yield from walk(entry.path, f"{prefix}{entry.name}/", depth + 1)
            else:
                yield f"{prefix}{entry.name}"


def find_base(folder: Path) -> Path | None:
    """Return the folder that holds ``train``: this one, or the only one in it."""
    if (folder / "train").is_dir():
        return folder
    inner = [path for path in folder.iterdir() if is_visible([path.name]) and path.is_dir()]
    return inner[0] if len(inner) == 1 and (inner[0] / "train").is_dir() else None


def is_visible(path: list[str]) -> bool:
    return not any(name.startswith(".") or name == "__MACOSX" for name in path)


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def arrange(place: Path, names: list[str]) -> tuple[Arranged, list[str]]:
    """Return the paths of each part's files by class, all sorted, and the visible files that lie elsewhere."""
    paths = sorted(path for name in names if is_visible(path := name.split("/")))
    tops = {path[0] for path in paths if len(path) > 1}
    depth = 1 if len(tops) == 1 and not tops & PARTS.keys() else 0
    folders = {path[depth] for path in paths if len(path) > depth + 1}
    parted = bool(folders & PARTS.keys())
    if parted and "train" not in folders:
        raise UserError(f"{place} has no folder train with a folder for each class; lay it out {LAYOUT}")
    if not parted and len({path[depth] for path in paths if len(path) == depth + 2 and path[-1]}) < 2:
        raise UserError(f"{place} has no folder train with a folder for each class; lay it out {LAYOUT}")
    arranged: Arranged = {part: {} for part in ("train", "validation", "test")}
    unused = []
    for path in paths:
        part, *inner = (path[depth:] or [""]) if parted else ["train", *path[depth:]]
        if PARTS.get(part) is None or (not inner and path[-1]):
            unused += ["/".join(path)] if path[-1] else []
            continue
        if len(inner) > 2 or (len(inner) == 1 and is_image(inner[0])):
            if inner[-1] == "" or not is_image(inner[-1]):
                unused += ["/".join(path)] if inner[-1] else []
                continue
            raise UserError(
                f"{place}/{'/'.join(path)} does not follow the layout {LAYOUT}; move it into a class folder"
            )
        if len(inner) == 2:
            images = arranged[PARTS[part]].setdefault(inner[0], [])
            if inner[1]:
                images.append("/".join(path))
        elif inner and inner[0]:
            unused.append("/".join(path))
    if parted and not arranged["train"]:
        raise UserError(f"{place} has no folder train with a folder for each class; lay it out {LAYOUT}")
    for name, images in arranged["train"].items():
        if not images:
            raise _without_images(place, name, "train")
    for part in ("validation", "test"):
        if not arranged[part]:
            del arranged[part]
        elif missing := [name for name in arranged["train"] if name not in arranged[part]]:
            raise UserError(
                f"{place}: the {part} images have no class {missing[0]!r} and the training images have one; "
                "both must have the same classes"
            )
        elif extra := [name for name in arranged[part] if name not in arranged["train"]]:
            raise UserError(
                f"{place}: the {part} images have a class {extra[0]!r} and the training images have none of that name; "
                "both must have the same classes"
            )
    return arranged, unused


def check_classes(place: Path, part: str, by_class: dict[str, list[str]], labels: np.ndarray) -> None:
    """Refuse a part in which a class has no image."""
    counts = np.bincount(labels, minlength=len(by_class))
    for name, count in zip(sorted(by_class), counts.tolist(), strict=False):
        if not count:
            raise _without_images(place, name, part)


def _without_images(place: Path, name: str, part: str) -> UserError:
    return UserError(
        f"{place}: the class {name!r} has no images in {part}; put some there ({' '.join(SUFFIXES)}), or remove the "
        "class from all parts"
    )


def decode(place: Path, files: Files, names: list[str], size: int | None, skip_damaged: bool) -> Decoded:
    """Return the images: grayscale (C = 1) if all of them are, else RGB."""
    kept, left_out, damaged = np.zeros(len(names), bool), [], []
    reasons: list[str] = []
    pixels, first, count = np.empty((0, 0, 0, 0), np.uint8), "", 0
    width, height = (size, size) if size else (0, 0)
    for index, name in enumerate(names):
        signals.poll()
        try:
            check_file_size(files.size(name))
            wanted = None if size or not first else (width, height)
            image, grey = decode_picture(files.read(name), wanted)
        except UnknownFormatError as error:
            if not is_image(name):
                left_out.append(name)
                continue
            damaged.append(name)
            reasons.append(str(error))
            continue
        except Exception as error:  # zipfile and zlib raise many kinds of errors for a damaged file
            damaged.append(name)
            reasons.append(str(error))
            continue
        if not first:
            first = name
            width, height = (width, height) if size else image.size
            pixels = allocate_pixels(place, (len(names), height, width, 1 if grey else 3))
        if size is None and image.size != (width, height):
            raise UserError(
                f"{place}/{first} is {width}x{height} pixels and {name} {image.width}x{image.height}; all must be of "
                "one size: give --data.size PIXELS to resize and crop them"
            )
        if not grey and pixels.shape[-1] == 1:
            before = pixels[:count]
            pixels = allocate_pixels(place, (len(names), height, width, 3))
            pixels[:count] = before
        converted = image.convert("L" if pixels.shape[-1] == 1 else "RGB")
        fitted = fit(converted, square(size)) if size else converted
        pixels[count] = np.asarray(fitted).reshape(pixels.shape[1:])
        kept[index] = True
        count += 1
    if damaged and not skip_damaged:
        advice = "or leave damaged files out with --data.skip-damaged"
        if len(damaged) == 1:
            raise UserError(
                f"{place}/{damaged[0]} cannot be read as an image ({reasons[0]}); replace or remove it, {advice}"
            )
        raise UserError(
            f"{place}: {len(damaged):,} files cannot be read as images: {listed(damaged)}; replace or remove them, "
            f"{advice}"
        )
    return Decoded(pixels[:count], kept, left_out, damaged)


def square(size: int) -> Preprocessing:
    """Return the geometry of images of ``size`` pixels: the short side is resized to it, the center cropped."""
    return Preprocessing(height=size, width=size, mean=(0.0,) * 3, std=(1.0,) * 3, resize="short", resize_size=size)


def training_statistics(place: Path, images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return `mean_and_std` of training images; where nothing varies, a network cannot be trained: a UserError."""
    mean, std = mean_and_std(images)
    if not min(std):
        raise UserError(f"{place}: the training images all have one uniform color; give images that differ")
    return mean, std


def mean_and_std(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation by channel of uint8 [N, H, W, C] / 255, rounded to four digits.

    They are counted from how often each value occurs, so that no copy of the images is made.
    """
    values = np.arange(256) / 255
    step = max(1, CHUNK_BYTES // images[0].size)
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), step):
            counts += np.bincount(images[start : start + step, ..., channel].ravel(), minlength=256)
        shares = counts / counts.sum()
        mean = shares @ values
        means.append(round(float(mean), 4))
        stds.append(round(float(np.sqrt(shares @ (values - mean) ** 2)), 4))
    return tuple(means), tuple(stds)


def allocate_pixels(place: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array uint8 [N, H, W, C] for the images of a place, not filled; more than 16 GiB is a UserError."""
    size = int(np.prod(shape, dtype=object))
    if size > MOST_PIXEL_BYTES:
        raise UserError(
            f"{place} holds {shape[0]:,} images of {shape[2]}x{shape[1]} pixels, {size / 2**30:.1f} GiB decoded; "
            f"at most {MOST_PIXEL_BYTES // 2**30} GiB are taken, so give fewer or smaller images"
        )
    return np.empty(shape, np.uint8)
