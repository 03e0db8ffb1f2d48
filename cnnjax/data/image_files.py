"""One picture from a stranger's file, decoded by Pillow within bounds."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cnnjax.system.files import open_plain

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""What is decoded, whatever a file is called; others, such as EPS, have Pillow start other programs."""
GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
MOST_FILE_BYTES = 64 * 2**20
MOST_VALUE = 2**16 - 1
"""Largest value of a 16-bit image, which becomes 255."""


class NoPictureError(ValueError):
    """Says in some words why a file is no picture."""


class UnknownFormatError(NoPictureError):
    """The content is of none of the formats that are read."""


def decode_picture(content: bytes, size: tuple[int, int] | None = None) -> tuple[Image.Image, bool]:
    """Return a picture that can be made grey or RGB, and whether it is grey; of other than ``size`` it is not decoded.

    Args:
        content: the file's.
        size: width and height, upright or turned; None takes every size.

    Raises:
        NoPictureError: it is damaged, of a format that is not taken, or has more pixels than Pillow allows, 89 million.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the camera's notes, which may be damaged where the picture is not
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                grey = image.mode in GREY_MODES
                if not grey and image.mode not in COLOUR_MODES:
                    raise NoPictureError(f"its colours are of a rare kind, {image.mode}")
                if size is not None and sorted(image.size) != sorted(size):
                    return image, grey
                return upright(image), grey
    except UnidentifiedImageError as error:
        raise UnknownFormatError("not an image") from error
    except Exception as error:  # of a damaged file Pillow complains in every way there is
        raise NoPictureError(str(error) or type(error).__name__) from error


def read_picture_file(path: Path) -> bytes:
    """Return a file's content; what is too large is not read."""
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
