"""From stored images to what a network sees. It runs on the device, inside the jitted step."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnnjax.data.image_files import decode_picture, read_picture_file
from cnnjax.errors import UserError, require
from cnnjax.fields import Fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing(Fields):
    """The size and the normalisation a network was trained with; stored with every checkpoint."""

    height: int
    width: int
    mean: tuple[float, ...]
    """By channel in the order in which the network takes them, of values scaled to [0, 1]."""
    std: tuple[float, ...]
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """bgr: the network takes blue first, as those of Caffe's line do; images are stored red first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.mean) in (1, 3), "preprocessing.mean", self.mean, "1 number (grey) or 3 (RGB)")
        require(len(self.std) == len(self.mean), "preprocessing.std", self.std, f"{len(self.mean)} numbers")
        require(all(map(math.isfinite, self.mean)), "preprocessing.mean", self.mean, "finite numbers")
        require(all(0 < s < math.inf for s in self.std), "preprocessing.std", self.std, "finite and greater than 0")

    @property
    def channels(self) -> int:
        return len(self.mean)


def normalize(preprocessing: Preprocessing, images: jax.Array | np.ndarray) -> jax.Array:
    """Map uint8 [N, H, W, C], red first, to float32 in the network's order: ``(images / 255 - mean) / std``."""
    if preprocessing.channel_order == "bgr":
        images = images[..., ::-1]
    mean = jnp.asarray(preprocessing.mean, jnp.float32).reshape(1, 1, 1, -1)
    std = jnp.asarray(preprocessing.std, jnp.float32).reshape(1, 1, 1, -1)
    return (jnp.asarray(images).astype(jnp.float32) / jnp.float32(255) - mean) / std


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
