"""Color images, and grayscale images with alpha, of 16 bits per channel; Pillow itself keeps only the high bytes.

Pillow has no mode for them, but its decoders can deliver either byte of a sample, depending on the byte order that they
are asked for. An image is therefore decoded twice: once for the high bytes, once for the low bytes.
"""

import io
import math
import sys
from typing import Any

import numpy as np
from PIL import Image

OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""Byte order for which a decoder delivers the low bytes, by the image's own order: big, little or native."""
GRAY_WITH_ALPHA = "LA;16B"
READABLE = ("RGB", "RGBA")
BITS_PER_SAMPLE, PLANAR = 258, 284
"""TIFF tags; planar 2: the channels are stored one after the other."""


def has_deep_color(image: Image.Image) -> bool:
    """Return whether an opened image, not yet decoded, has several channels of 16 bits."""
    return len(image.getbands()) > 1 and _bits(image) > 8


def is_deep_gray(image: Image.Image) -> bool:
    """Return whether an opened image is grayscale with alpha, of 16 bits per channel."""
    return image.format == "PNG" and _raw_mode(image) == GRAY_WITH_ALPHA


def read_samples(content: bytes, image: Image.Image) -> np.ndarray:
    """Return the samples uint16 [H, W, C] of an image for which `has_deep_color` is true: gray, RGB, either with alpha.

    Raises:
        ValueError: it is stored in a way that cannot be read with 16 bits.
    """
    if image.format == "PPM":
        return _read_ppm(content, image)
    raw_mode = _raw_mode(image)
    if raw_mode == GRAY_WITH_ALPHA:
        return _decoded(content, raw_mode, "RGBA").view(">u2").astype(np.uint16)
    channels, _, order = raw_mode.partition(";16")
    planar = image.format == "TIFF" and _tags(image).get(PLANAR) == 2
    if channels not in READABLE or order not in OTHER_BYTE or planar:
        raise ValueError(f"it has 16 bits per channel in the form {raw_mode}; convert it to RGB, or to 8 bits")
    high = _decoded(content, raw_mode, raw_mode).astype(np.uint16)
    samples = high << 8 | _decoded(content, raw_mode, f"{channels};16{OTHER_BYTE[order]}")
    transparent = image.info.get("transparency")
    if image.format == "PNG" and isinstance(transparent, tuple):
        alpha = np.where((samples == transparent).all(axis=-1, keepdims=True), 0, np.iinfo(np.uint16).max)
        samples = np.concatenate([samples, alpha.astype(np.uint16)], axis=-1)
    return samples


def _read_ppm(content: bytes, image: Image.Image) -> np.ndarray:
    """Return the samples of a binary PPM file; its header states the value that is white, which becomes 65,535."""
    tile = _tiles(image)[0]
    if tile.codec_name == "ppm_plain":
        raise ValueError("it has 16 bits per channel as text; convert it to PNG")
    shape = (image.height, image.width, 3)
    stored = np.frombuffer(content, ">u2", math.prod(shape), tile.offset).reshape(shape)
    return np.minimum(np.round(stored * (65535 / tile.args[-1])), 65535).astype(np.uint16)


def _decoded(content: bytes, raw_mode: str, wanted: str) -> np.ndarray:
    """Return the pixels uint8 [H, W, C] of an image in the raw mode ``wanted`` instead of its own."""
    with Image.open(io.BytesIO(content)) as image:
        tiles: Any = image
        tiles.tile = [tile._replace(args=_replaced(tile.args, raw_mode, wanted)) for tile in _tiles(image)]
        return np.array(image)


def _replaced(arguments: Any, raw_mode: str, wanted: str) -> Any:
    if isinstance(arguments, str):
        return wanted if arguments == raw_mode else arguments
    return tuple(wanted if argument == raw_mode else argument for argument in arguments)


def _bits(image: Image.Image) -> int:
    if image.format == "TIFF":
        return max(_tags(image).get(BITS_PER_SAMPLE, (1,)))
    if image.format == "PPM":
        arguments = _tiles(image)[0].args
        return 16 if isinstance(arguments, tuple) and arguments[-1] > 255 else 8
    return 16 if ";16" in _raw_mode(image) else 8


def _raw_mode(image: Image.Image) -> str:
    tiles = _tiles(image)
    arguments = tiles[0].args if tiles else ""
    return str(arguments if isinstance(arguments, str) else next(iter(arguments or ()), ""))


def _tiles(image: Any) -> list[Any]:
    return list(getattr(image, "tile", ()))


def _tags(image: Any) -> Any:
    return image.tag_v2
