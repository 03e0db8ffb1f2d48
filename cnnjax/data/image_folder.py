"""Images of any size and format in a directory or a zip, decoded into memory or streamed.

Whether a file is an image is decided by its content; files that are not used are counted and named. `folder_layout`
describes the layout.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from cnnjax.data import photo_index, photos
from cnnjax.data.dataset import Loaded, Split
from cnnjax.data.folder_layout import Arranged, Files, Layout, arrange, check_classes, is_left_out, open_files
from cnnjax.data.image_files import MOST_VALUE, as_mode, check_file_size, decode_picture, low_bits
from cnnjax.data.photos import SAMPLED_CONTENTS, SAMPLED_PIXELS, Photos
from cnnjax.data.pixels import allocate_pixels, training_statistics
from cnnjax.data.preprocessing import Preprocessing, fit
from cnnjax.errors import UserError, counted, listed
from cnnjax.system import signals

STREAMED_BYTES = 2 * 2**30
"""Decoded size above which a folder is streamed instead of decoded into memory."""


class Options(NamedTuple):
    """How the images of a folder are read."""

    geometry: Preprocessing | None = None
    """Resize and crop. None requires images of the same size."""
    channels: int | None = None
    """1 or 3; None: 1 if all images are grayscale, else 3."""
    skip_damaged: bool = False
    """Leave damaged files out and report them, instead of refusing the folder."""
    max_value: int = MOST_VALUE
    """Value that becomes white in images with more than 8 bits per channel."""
    stream: Literal["auto", "always", "never"] = "auto"
    """Read the images during training instead of before; auto: if they need more than `STREAMED_BYTES`."""


def square(size: int) -> Preprocessing:
    """Return the geometry of images of ``size`` pixels: the short side is resized to it, the center cropped."""
    return Preprocessing(height=size, width=size, mean=(0.0,) * 3, std=(1.0,) * 3, resize="short", resize_size=size)


def load_image_folder(place: Path, options: Options = Options()) -> Loaded:  # noqa: B008, it is immutable
    """Load a directory or a zip; mean and standard deviation are those of its training images.

    Raises:
        UserError: it is missing or does not follow the layout, images are damaged, or their sizes differ and no
        geometry is given.
    """
    opened = contextlib.ExitStack()
    with contextlib.ExitStack() as closing:
        files = closing.enter_context(open_files(place))
        layout = arrange(place, files.names)
        names = [name for part in layout.arranged.values() for images in part.values() for name in images]
        if _is_streamed(options, len(names)):
            loaded = _streamed(place, files, layout, names, options, opened)
            opened.enter_context(closing.pop_all())  # a zip stays open as long as its photos are used
            return loaded
        decoded = decode(place, files, names, options)
    labeled = _labeled(place, layout.arranged, decoded.kept)
    parts = {part: Split(decoded.pixels[positions], labels) for part, (labels, positions) in labeled.items()}
    mean, std = training_statistics(place, parts["train"].images)
    kept = layout.names([name for name, is_kept in zip(names, decoded.kept, strict=True) if is_kept])
    return Loaded(
        parts, tuple(layout.arranged["train"]), mean, std,
        names={part: kept[positions] for part, (_, positions) in labeled.items()},
        left_out=_left_out(layout, decoded.left_out, decoded.damaged),
        notices=(
            *_notices(place, layout.unused + decoded.left_out, decoded.damaged),
            *_range_notice(decoded.largest_values, options),
        ),
    )  # fmt: skip


def _range_notice(largest_values: Sequence[int], options: Options) -> list[str]:
    """Return a sentence about images with more than 8 bits per channel."""
    if not largest_values:
        return []
    largest, white = max(largest_values), options.max_value
    bits = low_bits(largest, white)
    advice = f"; if they have {bits} bits, give --data.max-value {2**bits - 1}" if bits else ""
    return [f"images with more than 8 bits: {white:,} becomes white, and the largest value seen is {largest:,}{advice}"]


def _is_streamed(options: Options, count: int) -> bool:
    if options.geometry is None:
        if options.stream == "always":
            raise UserError("data.stream is 'always' and data.size is not given; give the size in pixels")
        return False
    if options.stream != "auto":
        return options.stream == "always"
    return count * options.geometry.height * options.geometry.width * 3 > STREAMED_BYTES


def _labeled(place: Path, arranged: Arranged, kept: np.ndarray) -> dict[str, tuple[np.ndarray, slice]]:
    """Return each split's labels int32 [N], and its range among the files that are kept.

    Args:
        place: the directory or zip.
        arranged: its files.
        kept: whether each file is used, bool, in the order of ``arranged``.
    """
    numbers = {name: number for number, name in enumerate(arranged["train"])}
    labeled, start, first = {}, 0, 0
    for part, by_class in arranged.items():
        labels = np.repeat(
            np.array([numbers[name] for name in by_class], np.int32), [len(images) for images in by_class.values()]
        )
        labels, start = labels[kept[start : start + len(labels)]], start + len(labels)
        check_classes(place, part, by_class, labels)
        labeled[part] = labels, slice(first, first + len(labels))
        first += len(labels)
    return labeled


def _notices(place: Path, left_out: Sequence[str], damaged: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence about the files that are not used, and one about the damaged ones."""
    sentences = []
    if left_out:
        why = "not images, or outside the layout"
        sentences.append(f"{counted(len(left_out), 'file')} of {place} not used ({why}): {listed(left_out)}")
    if damaged:
        sentences.append(f"{counted(len(damaged), 'damaged file')} of {place} not used: {listed(damaged)}")
    return tuple(sentences)


def _left_out(layout: Layout, not_images: Sequence[str], damaged: Sequence[str]) -> dict[str, list[str]]:
    return {"damaged": layout.names(damaged), "unused": layout.names([*layout.unused, *not_images])}


def _streamed(
    place: Path, files: Files, layout: Layout, names: list[str], options: Options, opened: contextlib.ExitStack
) -> Loaded:  # fmt: skip
    """Return the images as `Photos`, which are read during training."""
    assert options.geometry is not None
    geometry = options.geometry.replace(max_value=options.max_value)
    stamps = np.fromiter(map(files.stamp, names), np.dtype((np.int64, 2)), len(names))
    index = photo_index.open_index(place, files, names, stamps, thorough=options.skip_damaged)
    if index.damaged and not options.skip_damaged:
        raise _damaged(place, [names[i] for i in index.damaged], next(iter(index.damaged.values())))
    usable = index.usable
    channels = options.channels or (1 if index.gray[usable].all() else 3)
    sizes = np.stack([index.heights, index.widths], axis=1)[usable]
    kept = [name for name, is_kept in zip(names, usable, strict=True) if is_kept]
    parts = {
        part: Photos(
            place, files, kept[positions], labels, sizes[positions], geometry, channels, opened
        )
        for part, (labels, positions) in _labeled(place, layout.arranged, usable).items()
    }  # fmt: skip
    train = parts["train"]
    mean, std = training_statistics(place, train.read(train.sample(SAMPLED_PIXELS)))
    notice = (
        f"{counted(len(kept), 'photo')} of {place} will be read during training; mean and standard deviation are those "
        f"of up to {SAMPLED_PIXELS:,} photos, and the fingerprint covers all names and sizes and the content of up to "
        f"{SAMPLED_CONTENTS} files of each split"
    )
    used = {part: layout.names(source.names) for part, source in parts.items()}
    left_out, damaged = ([names[i] for i in problems] for problems in (index.left_out, index.damaged))
    return Loaded(
        parts, tuple(layout.arranged["train"]), mean, std,
        fingerprint=photos.fingerprint(parts, used, stamps[usable, 0]),
        names=used,
        left_out=_left_out(layout, left_out, damaged),
        notices=(
            notice, *_notices(place, layout.unused + left_out, damaged), *_range_notice(train.largest_values, options)
        ),
    )  # fmt: skip


class Decoded(NamedTuple):
    """Images uint8 [N, H, W, C], whether each file is one of them (bool), and the left-out and damaged files."""

    pixels: np.ndarray
    kept: np.ndarray
    left_out: list[str]
    damaged: list[str]
    largest_values: list[int]
    """Largest value of each image with more than 8 bits per channel."""


def decode(place: Path, files: Files, names: list[str], options: Options) -> Decoded:
    """Decode all images into memory."""
    geometry = options.geometry
    kept, left_out, damaged = np.zeros(len(names), bool), [], []
    reasons: list[str] = []
    largest_values: list[int] = []
    pixels, first, count = np.empty((0, 0, 0, 0), np.uint8), "", 0
    width, height = (geometry.width, geometry.height) if geometry else (0, 0)
    for index, name in enumerate(names):
        signals.poll()
        try:
            check_file_size(files.stamp(name)[0])
            wanted = None if geometry or not first else (width, height)
            image, gray, _, largest = decode_picture(files.read(name), wanted, max_value=options.max_value)
        except Exception as error:  # zipfile and zlib raise many kinds of errors for a damaged file
            if is_left_out(name, error):
                left_out.append(name)
            else:
                damaged.append(name)
                reasons.append(str(error))
            continue
        if largest is not None:
            largest_values.append(largest)
        if not first:
            first = name
            width, height = (width, height) if geometry else image.size
            channels = options.channels or (1 if gray else 3)
            pixels = allocate_pixels(place, (len(names), height, width, channels))
        if geometry is None and image.size != (width, height):
            raise UserError(
                f"{place}/{first} is {width}x{height} pixels and {name} {image.width}x{image.height}; all must have "
                "the same size: give --data.size PIXELS to resize and crop them"
            )
        if not gray and pixels.shape[-1] == 1 and options.channels is None:
            before = pixels[:count]
            pixels = allocate_pixels(place, (len(names), height, width, 3))
            pixels[:count] = before
        converted = as_mode(image, pixels.shape[-1])
        fitted = fit(converted, geometry) if geometry else converted
        pixels[count] = np.asarray(fitted).reshape(pixels.shape[1:])
        kept[index] = True
        count += 1
    if damaged and not options.skip_damaged:
        raise _damaged(place, damaged, reasons[0])
    return Decoded(pixels[:count], kept, left_out, damaged, largest_values)


def _damaged(place: Path, damaged: Sequence[str], reason: str) -> UserError:
    """Return the error that names damaged files."""
    advice = "or leave damaged files out with --data.skip-damaged"
    if len(damaged) == 1:
        return UserError(f"{place}/{damaged[0]} cannot be read as an image ({reason}); replace or remove it, {advice}")
    return UserError(
        f"{place}: {len(damaged):,} files cannot be read as images, the first because of: {reason}; replace or remove "
        f"them, {advice}: {listed(damaged)}"
    )
