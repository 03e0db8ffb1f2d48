"""What is in a data set: sizes, modes and value ranges, damaged files, duplicates and leaks between its splits."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cnnjax.config import Data
from cnnjax.data.dataset import Source
from cnnjax.data.decoding import decode_all
from cnnjax.data.folder_layout import arrange, is_left_out, open_files
from cnnjax.data.image_files import decode_picture, from_pixels
from cnnjax.data.sources import SOURCES, SourceEntry, find_source
from cnnjax.errors import UserError
from cnnjax.system import signals

THUMBNAIL = 16
"""Height and width of the grayscale thumbnails that are compared to find near duplicates."""
CORRELATION, DIFFERENCE = 0.98, 25
"""Minimum correlation and maximum mean absolute difference (in 256 levels) of thumbnails that are near duplicates."""
MOST_COMPARED = 300_000
"""Maximum number of images for the pairwise comparison."""
PREVIEW = 96
"""Maximum width and height of previews in pixels."""
BLOCK, AT_ONCE = 2048, 1024
"""Images compared, and images read, at a time."""


class Examined(NamedTuple):
    """The images of a data set that can be read; all arrays have one entry per image."""

    classes: tuple[str, ...]
    names: list[str]
    """Paths of the images, or PART/NUMBER if they are not files."""
    parts: np.ndarray
    """Name of the split."""
    labels: np.ndarray
    sizes: np.ndarray
    """Height and width in pixels, int32 [N, 2]."""
    modes: np.ndarray
    """Pillow's name of the pixel format, such as RGB, L or CMYK."""
    ranges: np.ndarray
    """Smallest and largest value after conversion to 8 bits, uint8 [N, 2]."""
    uniform: np.ndarray
    """Whether all pixels have the same color, bool [N]."""
    digests: np.ndarray
    """sha256 of size and pixels, bytes."""
    thumbnails: np.ndarray
    """uint8 [N, 16, 16]."""
    read: Callable[[int], np.ndarray]
    """Return the image at an index as uint8 [H, W, 3], at most `PREVIEW` pixels wide and high."""
    damaged: dict[str, str]
    """Path and reason of each file that cannot be read."""
    left_out: list[str]
    """Files that are not images, or are outside the layout."""
    largest: int | None = None
    """Largest value in image files with more than 8 bits per channel; None if there are none."""


class Pair(NamedTuple):
    """Two images that are alike, by index; ``likeness`` is 1 if their pixels are equal, else their correlation."""

    first: int
    second: int
    likeness: float


class Duplicates(NamedTuple):
    """Pairs of images that are alike, the most alike first."""

    pairs: list[Pair]
    compared: bool
    """Whether the search for near duplicates ran; it is skipped above `MOST_COMPARED` images."""


def examine(
    config: Data, report: Callable[[str], None] = lambda text: None, sources: dict[str, SourceEntry] = SOURCES
) -> Examined:  # fmt: skip
    """Read all images of a data set as they are stored, before any resizing.

    Args:
        config: the data set; damaged files of a folder are collected, regardless of ``skip_damaged``.
        report: receives the progress.
        sources: the table of data sets.

    Raises:
        UserError: the data set is missing, or does not follow the layout.
    """
    if config.source == "image_folder":
        if config.dir is None:
            raise UserError("image_folder needs a directory or a zip; give image_folder:PATH or --data.dir PATH")
        return _examine_folder(Path(config.dir), report)
    loaded = find_source(config.source, sources).load_from(config)
    names: list[str] = []
    labels, looked, places = [], [], []
    for part, source in loaded.parts.items():
        for start in range(0, len(source.labels), AT_ONCE):
            signals.poll()
            indices = np.arange(start, min(start + AT_ONCE, len(source.labels)))
            for index, pixels in zip(indices, source.read(indices), strict=True):
                picture = from_pixels(pixels)
                looked.append(_look(picture, picture.mode))
                names.append(loaded.names[part][int(index)] if part in loaded.names else f"{part}/{index}")
                places.append((part, int(index)))
            report(f"{len(names):,} images read")
        labels.append(source.labels)
    parts = [part for part, _ in places]
    read = functools.partial(_preview_of_source, loaded.parts, places)
    return _gathered(loaded.classes, names, parts, np.concatenate(labels), looked, read, {}, [])


def _examine_folder(place: Path, report: Callable[[str], None]) -> Examined:
    with open_files(place) as files:
        layout = arrange(place, files.names)
        classes = tuple(layout.arranged["train"])
        entries = [
            (name, part, classes.index(label))
            for part, by_class in layout.arranged.items()
            for label, names in by_class.items()
            for name in names
        ]
        looked: list[Any] = [None] * len(entries)
        damaged: dict[str, str] = {}
        left_out: list[str] = []
        largest: list[int] = []

        def look(index: int) -> None:
            name = entries[index][0]
            try:
                picture = decode_picture(files.read(name))
                looked[index] = _look(picture.image, picture.mode)
                if picture.largest is not None:
                    largest.append(picture.largest)
            except Exception as error:  # Pillow, zipfile and zlib raise many kinds of errors for a damaged file
                if is_left_out(name, error):
                    left_out.append(name)
                else:
                    damaged[name] = str(error)

        for start in range(0, len(entries), AT_ONCE):
            signals.poll()
            indices = range(start, min(start + AT_ONCE, len(entries)))
            decode_all(look, indices, lambda index: f"{place}/{entries[index][0]}")
            report(f"{indices.stop:,} of {len(entries):,} files read")
    readable = [index for index, one in enumerate(looked) if one is not None]
    names, parts, labels = zip(*(entries[index] for index in readable), strict=True) if readable else ((), (), ())
    examined = _gathered(
        classes, list(names), list(parts), np.array(labels, np.int32), [looked[index] for index in readable],
        functools.partial(_preview_of_file, place, names), dict(sorted(damaged.items())),
        sorted([*layout.unused, *left_out]),
    )  # fmt: skip
    return examined._replace(largest=max(largest, default=None))


def _look(image: Image.Image, mode: str) -> tuple[Any, ...]:
    """Return size, mode, smallest and largest value, uniformity, digest and thumbnail of an image."""
    rgb = image if image.mode in ("L", "RGB") else image.convert("RGB")
    extrema: Any = rgb.getextrema()
    channels = [extrema] if rgb.mode == "L" else extrema
    low, high = min(channel[0] for channel in channels), max(channel[1] for channel in channels)
    uniform = all(channel[0] == channel[1] for channel in channels)
    digest = hashlib.sha256(repr((rgb.mode, rgb.size)).encode() + rgb.tobytes()).digest()
    small = rgb.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, reducing_gap=2).convert("L")
    return (rgb.height, rgb.width), mode, (low, high), uniform, digest, np.asarray(small)


def _gathered(
    classes: tuple[str, ...], names: list[str], parts: Sequence[str], labels: np.ndarray,
    looked: Sequence[tuple[Any, ...]], read: Callable[[int], np.ndarray], damaged: dict[str, str], left_out: list[str],
) -> Examined:  # fmt: skip
    if not looked:
        raise UserError("the data set has no readable image; check the files")
    sizes, modes, ranges, uniform, digests, thumbnails = zip(*looked, strict=True)
    return Examined(
        classes, names, np.array(parts), labels, np.array(sizes, np.int32), np.array(modes), np.array(ranges, np.uint8),
        np.array(uniform), np.array(digests, "V32"), np.stack(thumbnails), read, damaged, left_out,
    )  # fmt: skip


def _preview_of_file(place: Path, names: Sequence[str], index: int) -> np.ndarray:
    with open_files(place) as files:
        return _preview(decode_picture(files.read(names[index])).image)


def _preview_of_source(parts: Mapping[str, Source], places: Sequence[tuple[str, int]], index: int) -> np.ndarray:
    part, number = places[index]
    return _preview(from_pixels(parts[part].read(np.array([number]))[0]))


def _preview(image: Image.Image) -> np.ndarray:
    small = image.convert("RGB")
    small.thumbnail((PREVIEW, PREVIEW))
    return np.asarray(small)


def find_duplicates(examined: Examined, report: Callable[[str], None] = lambda text: None) -> Duplicates:
    """Return pairs of exact duplicates, and of near duplicates, such as the same photo resized or recompressed."""
    pairs = list(_equal(examined.digests))
    count = len(examined.names)
    if count > MOST_COMPARED:
        return Duplicates(pairs, False)
    equal = {(pair.first, pair.second) for pair in pairs}
    near = [pair for pair in _near(examined.thumbnails, report) if pair[:2] not in equal]
    return Duplicates(pairs + sorted(near, key=lambda pair: -pair.likeness), True)


def _equal(digests: np.ndarray) -> Iterator[Pair]:
    """Yield each image that equals an earlier one, with the first such image."""
    first: dict[bytes, int] = {}
    for index, digest in enumerate(digests):
        earlier = first.setdefault(digest.tobytes(), index)
        if earlier != index:
            yield Pair(earlier, index, 1.0)


def _near(thumbnails: np.ndarray, report: Callable[[str], None]) -> Iterator[Pair]:
    """Yield pairs of thumbnails that are alike. Thumbnails of one uniform value are left out."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    centered = flat - flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centered, axis=1, keepdims=True)
    units = centered / np.maximum(norms, 1e-6)
    for start in range(0, len(units), BLOCK):
        signals.poll()
        rows = units[start : start + BLOCK]
        correlation = rows @ units[start:].T
        for row, column in np.argwhere(np.triu(correlation >= CORRELATION, 1)):
            first, second = start + int(row), start + int(column)
            if np.abs(flat[first] - flat[second]).mean() <= DIFFERENCE:
                yield Pair(first, second, float(correlation[row, column]))
        report(f"{min(start + BLOCK, len(units)):,} of {len(units):,} images compared")
