"""Images in folders, in a directory or a zip: ``train/CLASS/FILE`` and ``test/CLASS/FILE``, at most one folder deeper.

The classes are the folders of ``train``. Images are in the order of their paths, so that a directory and a zip of it
give the same arrays. Nothing of a zip is written to the disk: the names of its members are only names.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cnnjax.data.dataset import Loaded, Split
from cnnjax.data.image_files import MOST_FILE_BYTES, check_file_size, decode_picture, read_picture_file
from cnnjax.errors import UserError
from cnnjax.system import signals
from cnnjax.system.archives import open_zip

PARTS = ("train", "test")
LAYOUT = "train/CLASS/FILE and test/CLASS/FILE"
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MOST_PIXEL_BYTES = 16 * 2**30
CHUNK_BYTES = 2**24


class Files(NamedTuple):
    """The files of a directory or a zip by their paths, with ``/`` between names and at the end of a folder's."""

    names: list[str]
    size: Callable[[str], int]
    read: Callable[[str], bytes]


def load_image_folder(place: Path) -> Loaded:
    """Load a directory or a zip; mean and standard deviation are those of all its training images.

    Raises:
        UserError: it is missing or laid out otherwise, or an image is damaged or of another size than the first.
    """
    with open_files(place) as files:
        arranged = arrange(place, files.names)
        names = [name for part in PARTS for images in arranged[part].values() for name in images]
        pixels = decode(place, files, names)
    classes = tuple(arranged["train"])
    labels = {
        part: np.repeat(np.arange(len(classes), dtype=np.int32), [len(arranged[part][name]) for name in classes])
        for part in PARTS
    }
    count = len(labels["train"])
    parts = {"train": Split(pixels[:count], labels["train"]), "test": Split(pixels[count:], labels["test"])}
    return Loaded(parts, classes, *training_statistics(place, pixels[:count]))


@contextlib.contextmanager
def open_files(place: Path) -> Iterator[Files]:
    """Open a directory or a zip; a zip that reaches out of itself is refused."""
    if place.is_dir():
        base = find_base(place)
        names = [] if base is None else [f"{path.relative_to(place).as_posix()}{suffix}" for path, suffix in walk(base)]
        yield Files(names, lambda name: (place / name).stat().st_size, lambda name: read_picture_file(place / name))
        return
    if not place.is_file():
        raise UserError(f"there is no directory or zip {place}; give one laid out {LAYOUT} with --data.dir")
    with open_zip(place) as held:
        members = held.members
        yield Files(list(members), lambda name: members[name].file_size, lambda name: held.read(name, MOST_FILE_BYTES))


def find_base(folder: Path) -> Path | None:
    """Return the folder that holds ``train``: this one, or the only one in it."""
    if (folder / "train").is_dir():
        return folder
    inner = [path for path in folder.iterdir() if is_visible([path.name]) and path.is_dir()]
    return inner[0] if len(inner) == 1 and (inner[0] / "train").is_dir() else None


def walk(base: Path) -> Iterator[tuple[Path, str]]:
    """Yield what lies in the parts and their classes, each with ``/`` if it is a folder; it goes no deeper."""
    for part in PARTS:
        for path in (base / part).iterdir() if (base / part).is_dir() else ():
            is_class = path.is_dir()
            yield path, "/" if is_class else ""
            for inner in path.iterdir() if is_class and is_visible([path.name]) else ():
                # Asking each of many thousand images whether it is a folder would take longer than listing them.
                yield inner, "/" if not is_image(inner.name) and inner.is_dir() else ""


def is_visible(path: list[str]) -> bool:
    return not any(name.startswith(".") or name == "__MACOSX" for name in path)


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def arrange(place: Path, names: list[str]) -> dict[str, dict[str, list[str]]]:
    """Return the paths of each part's images by class, all sorted; other files are left out."""
    paths = sorted(path for name in names if is_visible(path := name.split("/")))
    tops = {path[0] for path in paths if len(path) > 1}
    depth = 1 if len(tops) == 1 and "train" not in tops else 0
    found: dict[str, dict[str, list[str]]] = {part: {} for part in PARTS}
    for path in paths:
        part, *inner = path[depth:] or [""]
        if part not in PARTS:
            continue
        if len(inner) > 2 or (len(inner) == 1 and is_image(inner[0])):
            raise UserError(f"{place}/{'/'.join(path)} lies elsewhere than {LAYOUT}; move it into a class's folder")
        if len(inner) == 2:
            images = found[part].setdefault(inner[0], [])
            if is_image(inner[1]):
                images.append("/".join(path))
    for part in PARTS:
        if not found[part]:
            raise UserError(f"{place} has no folder {part} with a folder for each class; lay it out {LAYOUT}")
        for name, images in found[part].items():
            if name not in found["train"]:
                raise UserError(
                    f"{place}: the test images have a class {name!r} and the training images have none of that name; "
                    "both must have the same classes"
                )
            if not images:
                raise UserError(
                    f"{place}: the class {name!r} has no images in {part}; put some there ({' '.join(SUFFIXES)}), or "
                    "remove the class from both parts"
                )
    if missing := [name for name in found["train"] if name not in found["test"]]:
        raise UserError(
            f"{place}: the test images have no class {missing[0]!r} and the training images have one; "
            "both must have the same classes"
        )
    return found


def decode(place: Path, files: Files, names: list[str]) -> np.ndarray:
    """Return the images uint8 [N, H, W, C]: grey (C = 1) if all of them are, else RGB."""
    pixels = np.empty((0, 0, 0, 0), np.uint8)
    width, height = 0, 0
    for index, name in enumerate(names):
        signals.poll()
        image, grey = open_image(f"{place}/{name}", name, files, (width, height) if index else None)
        if not index:
            width, height = image.size
            pixels = allocate_pixels(place, (len(names), height, width, 1 if grey else 3))
        if image.size != (width, height):
            raise UserError(
                f"{place}/{names[0]} is {width}x{height} pixels and {name} {image.width}x{image.height}; "
                "all must be of one size"
            )
        if not grey and pixels.shape[-1] == 1:
            before = pixels[:index]
            pixels = allocate_pixels(place, (len(names), height, width, 3))
            pixels[:index] = before
        mode = "L" if pixels.shape[-1] == 1 else "RGB"
        pixels[index] = np.asarray(image.convert(mode)).reshape(pixels.shape[1:])
    return pixels


def open_image(path: str, name: str, files: Files, size: tuple[int, int] | None) -> tuple[Image.Image, bool]:
    """Return an image and whether it is a grey one; decoded only if it is of ``size``, upright or turned."""
    try:
        check_file_size(files.size(name))
        return decode_picture(files.read(name), size)
    except Exception as error:  # of a damaged file zipfile and zlib complain in every way there is
        raise UserError(f"{path} cannot be read as an image ({error}); mend it, or take it out") from error


def training_statistics(place: Path, images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return `mean_and_std` of training images; where nothing varies, a network cannot be trained: a UserError."""
    mean, std = mean_and_std(images)
    if not min(std):
        raise UserError(f"{place}: the training images are all of one even colour; give images that differ")
    return mean, std


def mean_and_std(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation by channel of uint8 [N, H, W, C] / 255, rounded to four digits.

    They are counted from how often each value occurs, so that no copy of the images is made.
    """
    values = np.arange(256) / 255
    step = max(1, CHUNK_BYTES // images[0].size)
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), step):
            counts += np.bincount(images[start : start + step, ..., channel].ravel(), minlength=256)
        shares = counts / counts.sum()
        mean = shares @ values
        means.append(round(float(mean), 4))
        stds.append(round(float(np.sqrt(shares @ (values - mean) ** 2)), 4))
    return tuple(means), tuple(stds)


def allocate_pixels(place: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array uint8 [N, H, W, C] for the images of a place, not filled; more than 16 GiB is a UserError."""
    size = int(np.prod(shape, dtype=object))
    if size > MOST_PIXEL_BYTES:
        raise UserError(
            f"{place} holds {shape[0]:,} images of {shape[2]}x{shape[1]} pixels, {size / 2**30:.1f} GiB decoded; "
            f"at most {MOST_PIXEL_BYTES // 2**30} GiB are taken, so give fewer or smaller images"
        )
    return np.empty(shape, np.uint8)
