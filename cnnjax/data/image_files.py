"""Decode one image from an untrusted file with Pillow, with size limits."""

import contextlib
import io
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cnnjax.data.deep_color import has_deep_color, is_deep_gray, read_samples
from cnnjax.system.files import open_plain

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Formats that are decoded, detected from the content; others, such as EPS, make Pillow start external programs."""
GRAYSCALE_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
COLOR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
MOST_FILE_BYTES = 64 * 2**20
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 2**26
"""Pillow's limit, 89 million."""
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""EXIF's tag for the rotation of a photo, and its values for a rotation by 90 degrees either way."""
MOST_VALUE = 2**16 - 1
"""Largest value of a 16-bit image, which becomes 255."""

# The EXIF data may be damaged even if the image is intact. `warnings.catch_warnings` would not be safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class NoPictureError(ValueError):
    """Explains why a file cannot be read as an image."""


def as_mode(image: Image.Image, channels: int) -> Image.Image:
    """Return an image in grayscale (1 channel) or RGB (3); Pillow's ``convert`` would copy it even if the mode already
    matches.
    """
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def from_pixels(pixels: np.ndarray) -> Image.Image:
    """Return the image of an array uint8 [H, W, C], grayscale with one channel or RGB with three."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


class UnknownFormatError(NoPictureError):
    """The content is in none of the supported formats."""


class Picture(NamedTuple):
    """A decoded picture of 8 bits per channel that can be converted to grayscale or RGB."""

    image: Image.Image
    gray: bool
    """Whether it is grayscale."""
    mode: str
    """Pillow's name of its pixel format in the file, such as RGB, L or CMYK."""
    largest: int | None = None
    """Largest value, if the file has more than 8 bits per channel."""


def decode_picture(
    content: bytes, size: tuple[int, int] | None = None, shrink: float = 1, max_value: int = MOST_VALUE
) -> Picture:  # fmt: skip
    """Decode the picture in a file and rotate it according to its EXIF orientation.

    Args:
        content: the content of the file.
        size: width and height, upright or rotated; a picture of another size is returned without being decoded.
        shrink: factor by which the decoded picture may be smaller than the original; JPEG is decoded faster at a half,
        a quarter or an eighth.
        max_value: value that becomes 255, if the file has more than 8 bits per channel.

    Raises:
        NoPictureError: it is damaged, of an unsupported format, or has more pixels than Pillow allows, 89 million.
    """
    with _opened(io.BytesIO(content)) as (image, gray):
        if size is not None and sorted(image.size) != sorted(size):
            return Picture(image, gray, image.mode)
        if has_deep_color(image):  # asked first, because Pillow may decode a PNG to find its EXIF data
            scaled, largest_sample = eight_bits_of_samples(read_samples(content, image), max_value)
            orientation = image.getexif().get(ORIENTATION, 1)
            return Picture(_on_white(_upright(scaled, orientation)), gray, f"{image.mode};16", largest_sample)
        if shrink >= 2 and image.format == "JPEG":
            image.draft(image.mode, (math.ceil(image.width / shrink), math.ceil(image.height / shrink)))
        if image.getexif().get(ORIENTATION, 1) == 1:
            image.load()
            turned = image
        else:
            turned = ImageOps.exif_transpose(image)
        upright, largest = eight_bits(turned, max_value)
        return Picture(upright, gray, turned.mode, largest)


def read_header(file: BinaryIO) -> tuple[tuple[int, int], bool]:
    """Return width and height of a picture after its rotation, and whether it is grayscale, without decoding it.

    Raises:
        NoPictureError: it is of an unsupported format or mode, or has more pixels than Pillow allows, 89 million.
    """
    with _opened(file) as (image, gray):
        turned = image.getexif().get(ORIENTATION) in SIDEWAYS
        return (image.size[::-1] if turned else image.size), gray


@contextlib.contextmanager
def _opened(file: BinaryIO) -> Iterator[tuple[Image.Image, bool]]:
    """Open a picture with Pillow in a thread-safe way; turn any error into a `NoPictureError`."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise NoPictureError(f"it has {image.width}x{image.height} pixels; at most {MOST_PIXELS:,} are allowed")
            gray = image.mode in GRAYSCALE_MODES or is_deep_gray(image)
            if not gray and image.mode not in COLOR_MODES:
                raise NoPictureError(f"its pixel format {image.mode} is not supported; convert it to RGB")
            yield image, gray
    except UnidentifiedImageError as error:
        raise UnknownFormatError("not an image") from error
    except Exception as error:  # Pillow raises many kinds of errors for a damaged file
        raise NoPictureError(str(error) or type(error).__name__) from error


def read_picture_file(path: Path | str) -> bytes:
    """Return the content of a file; a file that is too large is not read."""
    with open_picture_file(path) as file:
        return file.read()


def open_picture_file(path: Path | str) -> BinaryIO:
    """Open a file; a file that is too large is not opened."""
    file = open_plain(path)
    try:
        check_file_size(os.fstat(file.fileno()).st_size)
    except NoPictureError:
        file.close()
        raise
    return file


def check_file_size(size: int) -> None:
    """Raise `NoPictureError` for a file that is too large."""
    if size > MOST_FILE_BYTES:
        raise NoPictureError(f"it has {size:,} bytes; at most {MOST_FILE_BYTES:,} are allowed")


def eight_bits(image: Image.Image, max_value: int) -> tuple[Image.Image, int | None]:
    """Return an image with 8 bits per channel on a white background, and its largest value if it had more bits."""
    if image.mode == "F":
        raise NoPictureError("its values are floating-point numbers; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits, or 32 bits that hold 16-bit values, as for a PGM file
        values = np.asarray(image)
        if values.min() < 0 or values.max() > MOST_VALUE:
            raise NoPictureError(f"its values go from {values.min()} to {values.max()}; convert it to 8 or 16 bits")
        return eight_bits_of_samples(values[..., None], max_value)
    return _on_white(image), None


def low_bits(largest: int, white: int) -> int | None:
    """Return how many bits the values of dark images seem to have, or None if they reach the upper half of the range.

    Args:
        largest: the largest value seen in images with more than 8 bits per channel.
        white: the value that becomes white.
    """
    return largest.bit_length() if largest.bit_length() < white.bit_length() else None


def eight_bits_of_samples(samples: np.ndarray, max_value: int) -> tuple[Image.Image, int]:
    """Return the image of samples from 0 to 65,535 and the largest one; ``max_value`` becomes 255.

    Args:
        samples: integers [H, W, C]: gray, gray and alpha, RGB, or RGB and alpha. Alpha is opaque at 65,535.
        max_value: the value that becomes white.

    Raises:
        NoPictureError: a value is larger than ``max_value``.
    """
    channels = samples.shape[-1]
    colors = channels - 1 if channels in (2, 4) else channels
    largest = int(samples[..., :colors].max())
    if largest > max_value:
        raise NoPictureError(f"its values go up to {largest}; --data.max-value {max_value} is too low")
    pixels = np.empty(samples.shape, np.uint8)
    pixels[..., :colors] = _scaled(max_value)[samples[..., :colors]]
    pixels[..., colors:] = _scaled(MOST_VALUE)[samples[..., colors:]]
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels), largest


def _scaled(white: int) -> np.ndarray:
    """Return the 8-bit value of each value up to ``white``, which becomes 255."""
    return (np.arange(white + 1) * 256 // (white + 1)).astype(np.uint8)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image rotated by the EXIF orientation of the file that it was read from."""
    image.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


def _on_white(image: Image.Image) -> Image.Image:
    """Return an image without transparency, on a white background."""
    if not image.has_transparency_data:
        return image
    layered = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
