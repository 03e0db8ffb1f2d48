"""Where data sets come from: one function and one line in `SOURCES` each."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cnnjax.data.dataset import Split
from cnnjax.data.idx import read_idx
from cnnjax.errors import UserError

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
DIGITS = tuple("0123456789")
EMBEDDED = Path(__file__).parent / "fashion_mnist_mini"
IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that can be asked for by name. Mean and standard deviation are of the full set's pixels / 255."""

    load: Callable[[str | None], dict[str, Split]]
    """From the user's folder, or None, to the parts ``train`` and ``test``."""
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    content_hash: str | None = None
    """What `dataset.content_hash` says of its published files, where that is known."""


def load_embedded(folder: str | None) -> dict[str, Split]:
    """Load the subset of Fashion-MNIST that lies in the package."""
    if folder is not None:
        raise UserError(
            f"--data.dir is {folder!r} and fashion_mnist_mini is a part of the package; leave out --data.dir, "
            "or choose --data.source fashion_mnist"
        )
    return {part: read_split(EMBEDDED, part) for part in IDX_FILES}


def idx_loader(name: str, *usual_places: str) -> Callable[[str | None], dict[str, Split]]:
    """Return a loader of the four IDX files of MNIST and its kin, plain or gzipped."""

    def load(folder: str | None) -> dict[str, Split]:
        places = search_places(name, folder, *usual_places)
        for place in places:
            if all(_find(place, stem) for stems in IDX_FILES.values() for stem in stems):
                return {part: read_split(place, part) for part in IDX_FILES}
        missing = ", ".join(f"{stem}[.gz]" for stems in IDX_FILES.values() for stem in stems)
        raise UserError(
            f"{name} was not found: none of {', '.join(map(str, places))} holds all of {missing}; put the four files "
            f"in a folder and give it with --data.dir DIR or CNNJAX_DATA=DIR ({_ways_to_get(name)})"
        )

    return load


def search_places(name: str, folder: str | None, *usual_places: str) -> list[Path]:
    """Return the folders to look in: the user's alone where one is given, else $CNNJAX_DATA and the usual places."""
    if folder is not None:
        roots = [Path(folder)]
    else:
        roots = [Path(root) for root in (os.environ.get("CNNJAX_DATA"), *usual_places) if root]
    return [place for root in roots for place in (root / name, root / name.replace("_", "-"), root)]


def read_split(folder: Path, part: str) -> Split:
    """Read one part, ``train`` or ``test``, of a folder of IDX files, with a last axis of one grey channel."""
    image_file, label_file = (_find(folder, stem) for stem in IDX_FILES[part])
    assert image_file and label_file
    images, labels = read_idx(image_file, axes=3), read_idx(label_file, axes=1)
    if len(images) != len(labels):
        raise UserError(
            f"{image_file} holds {len(images):,} images and {label_file} {len(labels):,} labels; get both again"
        )
    if not images.size:
        raise UserError(f"{image_file} holds no pixels {list(images.shape)}; get the file again")
    return Split(images[..., None], labels.astype(np.int32))


def _find(folder: Path, stem: str) -> Path | None:
    candidates = (folder / stem, folder / f"{stem}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _ways_to_get(name: str) -> str:
    if name == "fashion_mnist":
        return (
            "get them with Debian's package dataset-fashion-mnist or from github.com/zalandoresearch/fashion-mnist, "
            "or use --data.source fashion_mnist_mini, which needs no files"
        )
    return "get them from yann.lecun.com/exdb/mnist or a mirror of it"


SOURCES = {
    "fashion_mnist_mini": Source(load_embedded, FASHION_CLASSES, (0.2860,), (0.3530,)),
    "fashion_mnist": Source(
        idx_loader("fashion_mnist", "/usr/share/datasets/fashion-mnist"),
        FASHION_CLASSES,
        (0.2860,),
        (0.3530,),
        content_hash="aff50281d5acc921807bfc876514979e391816c85d90f1d97fd4d1bf0a5ebece",
    ),
    "mnist": Source(idx_loader("mnist", "/usr/share/datasets/mnist"), DIGITS, (0.1307,), (0.3081,)),
}
