"""Preprocessing of images: resize and crop on the host, normalize on the device inside the jitted step."""

from pathlib import Path
from typing import Annotated, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from pydantic import Field, ValidationInfo, field_validator, model_validator

from cnnjax.data.image_files import MOST_VALUE, as_mode, decode_picture, eight_bits, from_pixels, read_picture_file
from cnnjax.errors import UserError
from cnnjax.ops.dispatch import parameter_dtype
from cnnjax.schema import Number, Schema

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Pillow's resampling filters; all but the nearest are antialiased."""


class Preprocessing(Schema, at="preprocessing."):
    """How an image file becomes what a network sees: geometry and normalization; stored with every checkpoint."""

    height: Annotated[int, Field(ge=1)]
    """Height of the images in pixels."""
    width: Annotated[int, Field(ge=1)]
    """Width of the images in pixels."""
    resize: Literal["exact", "short"] = "exact"
    """exact: resize to height x width, whatever the aspect ratio; short: resize the short side to resize_size, keep the
    aspect ratio and crop the center."""
    resize_size: Annotated[int, Field(ge=1)] | None = None
    """Length of the short side in pixels before the crop; only with resize short."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """Resampling filter; all but nearest are antialiased."""
    max_value: Annotated[int, Field(ge=255, le=MOST_VALUE)] = MOST_VALUE
    """Value that becomes white in image files with more than 8 bits per channel, from 255 to 65535."""
    mean: tuple[Number, ...]
    """Mean of each channel, in the network's channel order, of values scaled to [0, 1]."""
    std: tuple[Annotated[Number, Field(gt=0)], ...]
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """bgr: the network takes BGR images, as networks trained in Caffe do; images are stored as RGB."""

    @field_validator("mean")
    @classmethod
    def _is_of_one_or_three_channels(cls, mean: tuple[float, ...]) -> tuple[float, ...]:
        if len(mean) not in (1, 3):
            raise ValueError("1 number (grayscale) or 3 (RGB)")
        return mean

    @field_validator("std")
    @classmethod
    def _is_as_long_as_the_mean(cls, std: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        channels = len(info.data.get("mean", std))
        if len(std) != channels:
            raise ValueError(f"{channels} numbers")
        return std

    @model_validator(mode="after")
    def _short_has_a_size(self) -> Self:
        if (self.resize == "short") != (self.resize_size is not None):
            given = f"preprocessing.resize is {self.resize!r} and resize_size is {self.resize_size}"
            raise ValueError(f"{given}; give a size with 'short', and none with 'exact'")
        return self

    @property
    def channels(self) -> int:
        return len(self.mean)

    def describe(self) -> str:
        """Return the steps in one line."""
        crop = f"{self.height}x{self.width}"
        size = f"resize to {crop}" if self.resize == "exact" else f"resize the short side to {self.resize_size}"
        cropped = "" if self.resize == "exact" else f", crop the center {crop}"
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        order = {1: "grayscale", 3: self.channel_order.upper()}[self.channels]
        return f"{size} ({self.interpolation}){cropped}, {order}, (pixels / 255 - [{mean}]) / [{std}]"


class Embedded(Preprocessing):
    """The preprocessing of embeddings, which a network takes as they are. Image files cannot become embeddings."""

    height: int = 1
    width: int = 1
    mean: tuple[Number, ...] = (0.0,)
    std: tuple[Number, ...] = (1.0,)


def normalize(preprocessing: Preprocessing, images: jax.Array | np.ndarray, dtype: str = "float32") -> jax.Array:
    """Map uint8 [N, H, W, C], as RGB, to floats in the network's channel order: ``(images / 255 - mean) / std``.

    ``dtype`` is the network's: pixels are float64 for a float64 network and float32 for every other. Embeddings stay as
    they are.
    """
    if isinstance(preprocessing, Embedded):
        return jnp.asarray(images).astype(parameter_dtype(dtype))
    if preprocessing.channel_order == "bgr":
        images = images[..., ::-1]
    pixel = parameter_dtype(dtype)
    mean = jnp.asarray(preprocessing.mean, pixel).reshape(1, 1, 1, -1)
    std = jnp.asarray(preprocessing.std, pixel).reshape(1, 1, 1, -1)
    return (jnp.asarray(images).astype(pixel) / pixel(255) - mean) / std


def fit(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize and crop a picture as torchvision's `Resize` and `CenterCrop` do with Pillow images.

    The long side is rounded down; a picture smaller than the crop is padded with zeros on all sides.
    """
    height, width = preprocessing.height, preprocessing.width
    resample = FILTERS[preprocessing.interpolation]
    if preprocessing.resize == "exact" or preprocessing.resize_size is None:
        return picture.resize((width, height), resample)
    size, (w, h) = preprocessing.resize_size, picture.size
    long = int(size * max(w, h) / min(w, h))
    picture = picture.resize((size, long) if w <= h else (long, size), resample)
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    if left < 0 or top < 0:  # torchvision pads, then crops
        across, down = max(width - picture.width, 0), max(height - picture.height, 0)
        padded = Image.new(picture.mode, (picture.width + across, picture.height + down))
        padded.paste(picture, (across // 2, down // 2))
        picture = padded
        left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def read_image(path: str, preprocessing: Preprocessing) -> np.ndarray:
    """Return the image in a file as uint8 [H, W, C], resized, cropped and converted to grayscale or RGB.

    Raises:
        UserError: the file does not exist or is not an image.
    """
    return read_image_and_range(path, preprocessing)[0]


def read_image_and_range(path: str, preprocessing: Preprocessing) -> tuple[np.ndarray, int | None]:
    """Return `read_image`, and the largest value in the file if it has more than 8 bits per channel.

    Raises:
        UserError: the file does not exist or is not an image.
    """
    try:
        picture = decode_picture(read_picture_file(Path(path)), max_value=preprocessing.max_value)
        pixels = np.asarray(fit(as_mode(picture.image, preprocessing.channels), preprocessing))
    except FileNotFoundError:
        raise UserError(f"there is no image file {path}; check the path") from None
    except (OSError, ValueError, MemoryError) as error:
        raise UserError(
            f"{path} cannot be read as an image ({error}); give a PNG, JPEG or another common format"
        ) from error
    return pixels.reshape(preprocessing.height, preprocessing.width, preprocessing.channels), picture.largest


def prepare_photo(photo: str | Path | Image.Image | np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Return an image file, a Pillow image or an array uint8 [H, W] or [H, W, C] as uint8 [H, W, C], resized, cropped
    and converted to grayscale or RGB.

    Raises:
        UserError: it cannot be read, or is not an image.
    """
    if isinstance(photo, str | Path):
        return read_image(str(photo), preprocessing)
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim not in (2, 3) or (photo.ndim == 3 and photo.shape[-1] not in (1, 3)):
            raise UserError(
                f"an image is an array {photo.dtype}{list(photo.shape)}; it must be uint8 [H, W], [H, W, 1] or "
                "[H, W, 3], with values from 0 to 255"
            )
        photo = from_pixels(photo if photo.ndim == 3 else photo[..., None])
    if not isinstance(photo, Image.Image):
        raise UserError(f"an image is a {type(photo).__name__}; give a file, a Pillow image or an array")
    upright, _ = eight_bits(photo, preprocessing.max_value)
    pixels = np.asarray(fit(as_mode(upright, preprocessing.channels), preprocessing))
    return pixels.reshape(preprocessing.height, preprocessing.width, preprocessing.channels)
