"""A source of photos of any size on disk, which are decoded when they are read."""

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cnnjax.data.decoding import decode_all
from cnnjax.data.folder_layout import Files
from cnnjax.data.image_files import Picture, as_mode, decode_picture
from cnnjax.data.preprocessing import FILTERS, Preprocessing, fit
from cnnjax.errors import UserError

SAMPLED_CONTENTS = 256
"""Number of files whose content is part of the fingerprint."""
SAMPLED_PIXELS = 1024
"""Number of training photos from which mean and standard deviation are computed."""


class Photos:
    """Labeled photos in a directory or a zip. `read` resizes and crops them by their geometry."""

    def __init__(
        self, place: Path, files: Files, names: Sequence[str], labels: np.ndarray, sizes: np.ndarray,
        geometry: Preprocessing, channels: int, opened: contextlib.ExitStack,
    ):  # fmt: skip
        self.place, self.files, self.names, self.labels = place, files, names, labels
        self.sizes = sizes
        """Height and width of each photo in pixels, int32 [N, 2]."""
        self.geometry, self.channels = geometry, channels
        self.opened = opened
        """Keeps a zip open."""
        self.largest_values: deque[int] = deque(maxlen=SAMPLED_PIXELS)
        """Largest values of the last images with more than 8 bits per channel."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.geometry.height, self.geometry.width, self.channels

    def __repr__(self) -> str:
        return f"Photos({len(self.labels)} in {self.place})"

    def take(self, indices: np.ndarray) -> "Photos":
        names = [self.names[index] for index in indices]
        return Photos(
            self.place, self.files, names, self.labels[indices], self.sizes[indices], self.geometry, self.channels,
            self.opened,
        )  # fmt: skip

    def read(self, indices: np.ndarray) -> np.ndarray:
        def whole(row: int, content: bytes) -> Image.Image:
            return fit(self._converted(decode_picture(content, max_value=self.geometry.max_value)), self.geometry)

        return self._decode(indices, whole)

    def read_crops(self, indices: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return the photos at ``indices`` int [K], cut to ``boxes`` int32 [K, 4] of `crops.draw_boxes` and resized.

        A box much larger than the result is decoded at a half, a quarter or an eighth of its size where JPEG allows it.
        """
        height, width, _ = self.image_shape

        def crop(row: int, content: bytes) -> Image.Image:
            top, left, box_height, box_width = boxes[row].tolist()
            shrink = min(box_height / height, box_width / width)
            picture = decode_picture(content, shrink=shrink, max_value=self.geometry.max_value)
            down, across = (np.array(picture.image.size[::-1]) / self.sizes[indices[row]]).tolist()
            box = (left * across, top * down, (left + box_width) * across, (top + box_height) * down)
            resample = FILTERS[self.geometry.interpolation]
            return self._converted(picture).resize((width, height), resample, box=box)

        return self._decode(indices, crop)

    def _converted(self, picture: Picture) -> Image.Image:
        if picture.largest is not None:
            self.largest_values.append(picture.largest)
        return as_mode(picture.image, self.channels)

    def _decode(self, indices: np.ndarray, decode: Callable[[int, bytes], Image.Image]) -> np.ndarray:
        pixels = np.empty((len(indices), *self.image_shape), np.uint8)

        def path(row: int) -> str:
            return f"{self.place}/{self.names[indices[row]]}"

        def decode_row(row: int) -> None:
            try:
                content = self.files.read(self.names[indices[row]])
                pixels[row] = np.asarray(decode(row, content)).reshape(self.image_shape)
            except Exception as error:  # Pillow, zipfile and zlib raise many kinds of errors for a damaged file
                raise UserError(
                    f"{path(row)} cannot be read as an image ({error}); replace or remove it, or leave damaged files "
                    "out with --data.skip-damaged; scripts/data.py check lists all of them"
                ) from error

        decode_all(decode_row, range(len(indices)), path)
        return pixels

    def sample(self, count: int) -> np.ndarray:
        """Return up to ``count`` indices, evenly spaced."""
        total = len(self.labels)
        return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def fingerprint(parts: Mapping[str, Photos], names: Mapping[str, Sequence[str]], sizes: np.ndarray) -> str:
    """Return the sha256 of all paths, sizes in bytes and labels, and of the contents of evenly spaced files.

    Args:
        parts: the splits.
        names: path of each photo by split, without folders around the splits.
        sizes: size in bytes of each photo, int64 [N], one split after the other.
    """
    digest = hashlib.sha256()
    for part, photos in parts.items():
        digest.update(repr((len(photos.labels), photos.image_shape, SAMPLED_CONTENTS)).encode())
        digest.update("\n".join(names[part]).encode(errors="surrogateescape"))
        own, sizes = np.split(sizes, [len(photos.names)])
        digest.update(own.astype("<i8").tobytes())
        digest.update(photos.labels.astype("<i4").tobytes())
        for index in photos.sample(SAMPLED_CONTENTS):
            digest.update(hashlib.sha256(photos.files.read(photos.names[index])).digest())
    return digest.hexdigest()
