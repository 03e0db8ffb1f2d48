"""From stored images to what a network sees. It runs on the device, inside the jitted step."""

from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from pydantic import Field, ValidationInfo, field_validator

from cnnjax.data.image_files import decode_picture, read_picture_file
from cnnjax.errors import UserError
from cnnjax.ops.dispatch import parameter_dtype
from cnnjax.schema import Number, Schema


class Preprocessing(Schema, at="preprocessing."):
    """The size and the normalisation a network was trained with; stored with every checkpoint."""

    height: int
    width: int
    mean: tuple[Number, ...]
    """By channel in the order in which the network takes them, of values scaled to [0, 1]."""
    std: tuple[Annotated[Number, Field(gt=0)], ...]
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """bgr: the network takes blue first, as those of Caffe's line do; images are stored red first."""

    @field_validator("mean")
    @classmethod
    def _is_of_one_or_three_channels(cls, mean: tuple[float, ...]) -> tuple[float, ...]:
        if len(mean) not in (1, 3):
            raise ValueError("1 number (grey) or 3 (RGB)")
        return mean

    @field_validator("std")
    @classmethod
    def _is_as_long_as_the_mean(cls, std: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        channels = len(info.data.get("mean", std))
        if len(std) != channels:
            raise ValueError(f"{channels} numbers")
        return std

    @property
    def channels(self) -> int:
        return len(self.mean)


def normalize(preprocessing: Preprocessing, images: jax.Array | np.ndarray, dtype: str = "float32") -> jax.Array:
    """Map uint8 [N, H, W, C], red first, to floats in the network's order: ``(images / 255 - mean) / std``.

    ``dtype`` is the network's: pixels are float64 for a float64 network and float32 for every other.
    """
    if preprocessing.channel_order == "bgr":
        images = images[..., ::-1]
    pixel = parameter_dtype(dtype)
    mean = jnp.asarray(preprocessing.mean, pixel).reshape(1, 1, 1, -1)
    std = jnp.asarray(preprocessing.std, pixel).reshape(1, 1, 1, -1)
    return (jnp.asarray(images).astype(pixel) / pixel(255) - mean) / std


def read_image(path: str, preprocessing: Preprocessing) -> np.ndarray:
    """Return the image in a file as uint8 [H, W, C], resized (bilinear) and turned grey or RGB as the network needs.

    Raises:
        UserError: there is no such file, or it is no image.
    """
    mode = "L" if preprocessing.channels == 1 else "RGB"
    try:
        picture, _ = decode_picture(read_picture_file(Path(path)))
        resized = picture.convert(mode).resize((preprocessing.width, preprocessing.height), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
    except FileNotFoundError:
        raise UserError(f"there is no image file {path}; check the path") from None
    except (OSError, ValueError, MemoryError) as error:
        raise UserError(
            f"{path} cannot be read as an image ({error}); give a PNG, JPEG or another common format"
        ) from error
    return pixels.reshape(preprocessing.height, preprocessing.width, preprocessing.channels)
