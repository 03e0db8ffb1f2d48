"""Where data sets come from: one function and one line in `SOURCES` each; `find_source` also knows ``tfds:NAME``."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from cnnjax.config import Data
from cnnjax.data.cifar_files import CIFAR10, CIFAR100, Form, Published, load_published
from cnnjax.data.class_names import CIFAR10_CLASSES, CIFAR100_CLASSES, DIGITS, FASHION_CLASSES, KMNIST_CLASSES
from cnnjax.data.dataset import Loaded, Split
from cnnjax.data.folder_layout import LAYOUT, find_base
from cnnjax.data.idx import read_idx
from cnnjax.data.image_folder import Options, load_image_folder, square
from cnnjax.data.preprocessing import Preprocessing
from cnnjax.data.published import check_published
from cnnjax.errors import UserError, choose, listed
from cnnjax.system import signals

FASHION_MEAN, FASHION_STD = (0.2860,), (0.3530,)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
FOLDER_OPTIONS = ("size", "skip_damaged", "max_value", "stream")
"""Options of `config.Data` that only some data sets have."""
TFDS = "tfds:"
"""Prefix of the data sets of tensorflow-datasets."""
EMBEDDED = Path(__file__).parent / "fashion_mnist_mini"
IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclasses.dataclass(frozen=True)
class SourceEntry:
    """A data set that is selected by name."""

    load: Callable[[str | None], Loaded]
    """Load the data set from the user's folder or, if it is None, from the usual locations."""
    classes: tuple[str, ...] = ()
    """Its classes; empty if they are known only from its files."""
    content_hash: str | None = None
    """`dataset.content_hash` of its published files, if known."""
    options: tuple[str, ...] = ()
    """Options of `FOLDER_OPTIONS` that it has."""
    configured: Callable[[Data, Preprocessing | None], Loaded] | None = None
    """Loader for a source with options of its own, in place of ``load``; takes the config and the preprocessing of a
    network that the images have to fit."""

    def load_from(self, config: Data, like: Preprocessing | None = None) -> Loaded:
        """Load the source as a config asks for it; options that the source does not have are refused."""
        unknown = [name for name in FOLDER_OPTIONS if name not in self.options]
        if given := [name for name in unknown if getattr(config, name) != getattr(Data(), name)]:
            option = f"data.{given[0]} {getattr(config, given[0])}"
            raise UserError(f"{option} is given for {config.source}; it does not have that option, so leave it out")
        return self.configured(config, like) if self.configured is not None else self.load(config.dir)


def load_embedded(folder: str | None) -> Loaded:
    """Load the subset of Fashion-MNIST embedded in the package."""
    if folder is not None:
        raise UserError(
            f"--data.dir is {folder!r} and fashion_mnist_mini is part of the package; leave out --data.dir, "
            "or choose --data.source fashion_mnist"
        )
    return Loaded(read_parts(EMBEDDED), FASHION_CLASSES, FASHION_MEAN, FASHION_STD)


def idx_loader(
    name: str,
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *usual_places: str,
) -> Callable[[str | None], Loaded]:
    """Return a loader of the four IDX files of MNIST or a similar data set, plain or gzipped.

    Mean and standard deviation are of the full set's pixels / 255.
    """

    def load(folder: str | None) -> Loaded:
        places = search_places(name, folder, *usual_places)
        for place in places:
            if all(_find(place, stem) for stems in IDX_FILES.values() for stem in stems):
                parts = read_parts(place)
                return Loaded(parts, classes, mean, std, notices=_check(name, place, parts))
        first = IDX_FILES["train"][0]
        raise UserError(
            f"{name} was not found: none of {', '.join(map(str, places))} holds its four IDX files, {first}[.gz] and "
            f"so on; give their folder with --data.dir DIR or CNNJAX_DATA=DIR ({_ways_to_get(name)})"
        )

    return load


def _check(name: str, place: Path, parts: Mapping[str, Split]) -> tuple[str, ...]:
    """Return the notices of `check_published` for the IDX files in a folder."""
    paths = {stem: path for stems in IDX_FILES.values() for stem in stems if (path := _find(place, stem))}
    arrays: dict[str, np.ndarray] = {}
    for part, (images, labels) in IDX_FILES.items():
        arrays |= {images: parts[part].images[..., 0], labels: parts[part].labels.astype(np.uint8)}
    return check_published(name, paths, arrays)


def load_images(folder: str | None) -> Loaded:
    """Load the user's own images, a directory or a zip."""
    if folder is None:
        raise UserError(f"image_folder needs --data.dir, a directory or a zip laid out as {LAYOUT}")
    return load_image_folder(Path(folder))


def load_configured_images(config: Data, like: Preprocessing | None) -> Loaded:
    """Load the user's own images as the config asks for them, or as the network with preprocessing ``like`` needs."""
    if config.dir is None:
        return load_images(None)
    options = Options(
        geometry=like or _geometry(config),
        channels=like.channels if like else None,
        skip_damaged=config.skip_damaged,
        max_value=like.max_value if like else config.max_value,
        stream=config.stream,
    )
    return load_image_folder(Path(config.dir), options)


def _geometry(config: Data) -> Preprocessing | None:
    return square(config.size) if config.size else None


def load_prepared(name: str, folder: str | None, geometry: Preprocessing | None = None) -> Loaded:
    """Load a data set that tensorflow-datasets has prepared."""
    from cnnjax.data.tfds_source import load_tfds  # the import takes half a second

    return load_tfds(name, search_roots(folder, tfds_folder()), geometry)


def tfds_folder() -> str:
    """Return the folder in which tensorflow-datasets keeps prepared data sets."""
    return os.environ.get("TFDS_DATA_DIR") or str(Path.home() / "tensorflow_datasets")


def load_cifar10(folder: str | None) -> Loaded:
    """Load CIFAR-10 from the published files or an image folder; mean and std are those of the full set."""
    if published := find_cifar(CIFAR10, "cifar10", folder):
        return Loaded(published.parts, CIFAR10_CLASSES, CIFAR10_MEAN, CIFAR10_STD, notices=published.notices)
    places = [place for root in search_roots(folder) for place in (root / "cifar10", root / "cifar10.zip", root)]
    for place in places:
        if place.is_file() or (place.is_dir() and find_base(place)):
            break
    else:
        raise cifar_missing("cifar10", CIFAR10, places, f", or a directory or a zip laid out as {LAYOUT}")
    loaded = load_image_folder(place)
    shape = loaded.parts["train"].image_shape
    if loaded.classes != CIFAR10_CLASSES or shape != (32, 32, 3):
        raise UserError(
            f"{place} holds images of {'x'.join(map(str, shape))} in the classes {listed(loaded.classes)}, and "
            f"CIFAR-10 has 32x32x3 images in the classes {listed(CIFAR10_CLASSES)}; for other images use "
            "--data.source image_folder"
        )
    return loaded._replace(mean=CIFAR10_MEAN, std=CIFAR10_STD)


def load_cifar100(folder: str | None) -> Loaded:
    """Load CIFAR-100 with its 100 fine classes from the published files."""
    if published := find_cifar(CIFAR100, "cifar100", folder):
        return Loaded(published.parts, CIFAR100_CLASSES, CIFAR100_MEAN, CIFAR100_STD, notices=published.notices)
    raise cifar_missing(
        "cifar100", CIFAR100, [place for root in search_roots(folder) for place in (root / "cifar100", root)]
    )


def find_cifar(forms: tuple[Form, ...], name: str, folder: str | None) -> Published | None:
    """Return the published files in the first of the usual places that has them."""
    places = [place for root in search_roots(folder) for place in (root / name, root)]
    return next((found for place in places if (found := load_published(forms, place))), None)


def cifar_missing(name: str, forms: tuple[Form, ...], places: list[Path], more: str = "") -> UserError:
    """Return the error that says where CIFAR was looked for."""
    where = f"none of {', '.join(map(str, places))} has" if places else "no folder is given that holds"
    archives = " or ".join(form.archive for form in forms)
    return UserError(
        f"{name} was not found: {where} {archives}, packed or unpacked{more}; give the folder with --data.dir DIR or "
        "CNNJAX_DATA=DIR"
    )


def search_roots(folder: str | None, *usual_places: str) -> list[Path]:
    """Return where to look: only the user's folder if one is given, otherwise $CNNJAX_DATA and the usual places."""
    if folder is not None:
        return [Path(folder)]
    return [Path(root) for root in (os.environ.get("CNNJAX_DATA"), *usual_places) if root]


def search_places(name: str, folder: str | None, *usual_places: str) -> list[Path]:
    """Return the folders to look in: for each root, its subfolder of that name, then the root itself."""
    roots = search_roots(folder, *usual_places)
    return [place for root in roots for place in (root / name, root / name.replace("_", "-"), root)]


def read_parts(folder: Path) -> dict[str, Split]:
    return {part: read_split(folder, part) for part in IDX_FILES}


def read_split(folder: Path, part: str) -> Split:
    """Read one part, ``train`` or ``test``, of a folder of IDX files, with a last axis of one grayscale channel."""
    image_file, label_file = (_find(folder, stem) for stem in IDX_FILES[part])
    assert image_file and label_file
    signals.poll()
    images, labels = read_idx(image_file, axes=3), read_idx(label_file, axes=1)
    if len(images) != len(labels):
        raise UserError(
            f"{image_file} holds {len(images):,} images and {label_file} {len(labels):,} labels; download both again"
        )
    if not images.size:
        raise UserError(f"{image_file} holds no pixels {list(images.shape)}; download the file again")
    return Split(images[..., None], labels.astype(np.int32))


def _find(folder: Path, stem: str) -> Path | None:
    """Return the file under any name that mirrors use: with a dot, in a folder of the same name, or in ``raw``."""
    names = [f"{name}{suffix}" for name in (stem, stem.replace("-idx", ".idx")) for suffix in ("", ".gz")]
    places = [folder / raw for raw in ("", "raw", "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw")]
    candidates = [path for place in places for name in names for path in (place / name, place / name / name)]
    return next((path for path in candidates if path.is_file()), None)


def _ways_to_get(name: str) -> str:
    if name == "fashion_mnist":
        return (
            "get them with Debian's package dataset-fashion-mnist or from github.com/zalandoresearch/fashion-mnist, or "
            "use --data.source fashion_mnist_mini"
        )
    if name == "kmnist":
        return "get them from codh.rois.ac.jp/kmnist"
    return "get them from yann.lecun.com/exdb/mnist or a mirror of it"


SOURCES = {
    "fashion_mnist_mini": SourceEntry(load_embedded, FASHION_CLASSES),
    "fashion_mnist": SourceEntry(
        idx_loader("fashion_mnist", FASHION_CLASSES, FASHION_MEAN, FASHION_STD, "/usr/share/datasets/fashion-mnist"),
        FASHION_CLASSES,
        content_hash="aff50281d5acc921807bfc876514979e391816c85d90f1d97fd4d1bf0a5ebece",
    ),
    "mnist": SourceEntry(idx_loader("mnist", DIGITS, (0.1307,), (0.3081,), "/usr/share/datasets/mnist"), DIGITS),
    "kmnist": SourceEntry(idx_loader("kmnist", KMNIST_CLASSES, (0.1918,), (0.3483,)), KMNIST_CLASSES),
    "cifar10": SourceEntry(load_cifar10, CIFAR10_CLASSES),
    "cifar100": SourceEntry(load_cifar100, CIFAR100_CLASSES),
    "image_folder": SourceEntry(load_images, options=FOLDER_OPTIONS, configured=load_configured_images),
}


def find_source(name: str, sources: Mapping[str, SourceEntry] = SOURCES) -> SourceEntry:
    """Return the entry of that name in ``sources``, or that of a data set of tensorflow-datasets, ``tfds:NAME``.

    Raises:
        UserError: the name is unknown, with near matches.
    """
    if name.startswith(TFDS):
        name = name.removeprefix(TFDS)
        return SourceEntry(
            functools.partial(load_prepared, name),
            options=("size",),
            configured=lambda config, like: load_prepared(name, config.dir, like or _geometry(config)),
        )
    return sources[choose("data source", name, [*sources, f"{TFDS}NAME"])]
