"""One picture from a stranger's file, decoded by Pillow within bounds."""

import contextlib
import io
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cnnjax.system.files import open_plain

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""What is decoded, whatever a file is called; others, such as EPS, have Pillow start other programs."""
GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
MOST_FILE_BYTES = 64 * 2**20
MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 2**26
"""Pillow's limit, 89 million."""
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)
"""EXIF's tag for the rotation of a photo, and its values for a rotation by 90 degrees either way."""
MOST_VALUE = 2**16 - 1
"""Largest value of a 16-bit image, which becomes 255."""

# A camera's notes may be damaged although the picture is not. `warnings.catch_warnings` would not be safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class NoPictureError(ValueError):
    """Says in some words why a file is no picture."""


class UnknownFormatError(NoPictureError):
    """The content is of none of the formats that are read."""


def decode_picture(
    content: bytes, size: tuple[int, int] | None = None, shrink: float = 1
) -> tuple[Image.Image, bool]:  # fmt: skip
    """Return a picture that can be converted to grayscale or RGB, and whether it is grayscale.

    Args:
        content: the content of the file.
        size: width and height, upright or rotated; a picture of another size is returned without being decoded.
        shrink: factor by which the picture may be smaller; JPEG is decoded faster at a half, a quarter or an eighth.

    Raises:
        NoPictureError: it is damaged, of an unsupported format, or has more pixels than Pillow allows, 89 million.
    """
    with _opened(content) as (image, grey):
        if size is not None and sorted(image.size) != sorted(size):
            return image, grey
        if shrink >= 2 and image.format == "JPEG":
            image.draft(image.mode, (math.ceil(image.width / shrink), math.ceil(image.height / shrink)))
        return upright(image), grey


def read_header(content: bytes) -> tuple[tuple[int, int], bool]:
    """Return width and height of a picture after its rotation, and whether it is grayscale; it is not decoded.

    Raises:
        NoPictureError: it is of an unsupported format or mode, or has more pixels than Pillow allows, 89 million.
    """
    with _opened(content) as (image, grey):
        turned = image.getexif().get(ORIENTATION) in SIDEWAYS
        return (image.size[::-1] if turned else image.size), grey


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[tuple[Image.Image, bool]]:
    """Open a picture with Pillow, which may be used by several threads; any error is a `NoPictureError`."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise NoPictureError(f"it has {image.width}x{image.height} pixels; at most {MOST_PIXELS:,} are allowed")
            grey = image.mode in GREY_MODES
            if not grey and image.mode not in COLOUR_MODES:
                raise NoPictureError(f"its colours are of a rare kind, {image.mode}")
            yield image, grey
    except UnidentifiedImageError as error:
        raise UnknownFormatError("not an image") from error
    except Exception as error:  # Pillow raises many kinds of errors for a damaged file
        raise NoPictureError(str(error) or type(error).__name__) from error


def read_picture_file(path: Path | str) -> bytes:
    """Return the content of a file; a file that is too large is not read."""
    with open_plain(path) as file:
        check_file_size(os.fstat(file.fileno()).st_size)
        return file.read()


def check_file_size(size: int) -> None:
    """Raise `NoPictureError` for a file that is not worth reading."""
    if size > MOST_FILE_BYTES:
        raise NoPictureError(f"it has {size:,} bytes; at most {MOST_FILE_BYTES:,} are allowed")


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its camera says, of 8 bits a channel; what is transparent becomes white."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise NoPictureError("its values are floating-point numbers; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits, or 32 of which a PGM file uses 16
        values = np.asarray(image)
        if values.min() < 0 or values.max() > MOST_VALUE:
            raise NoPictureError(f"its values go from {values.min()} to {values.max()}; convert it to 8 or 16 bits")
        return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    layered = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
