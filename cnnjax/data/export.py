"""Export data sets: images as PNG files, and the subset of Fashion-MNIST embedded in the package."""

from pathlib import Path

import numpy as np

from cnnjax.data.dataset import Dataset, Source
from cnnjax.data.idx import write_idx
from cnnjax.data.image_files import from_pixels
from cnnjax.data.sources import IDX_FILES, SOURCES

IMAGES_A_CLASS = {"train": 1000, "test": 200}


def export_images(dataset: Dataset, folder: Path, count: int) -> list[Path]:
    """Write the first ``count`` test images as PNG files named by number and class; return their paths."""
    test = dataset.test
    images = test.read(np.arange(min(count, len(test.labels))))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (image, label) in enumerate(zip(images, test.labels, strict=False)):
        name = dataset.classes[label].replace("/", "_").replace(" ", "_")
        paths.append(folder / f"{index:05d}-{name}.png")
        from_pixels(image).save(paths[-1])
    return paths


def embed_subset(folder: Path, data_dir: str | None = None) -> int:
    """Write the embedded subset of Fashion-MNIST: the first images of each class. Return its size in bytes.

    The same full set gives the same bytes each time.
    """
    parts = SOURCES["fashion_mnist"].load(data_dir).parts
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    for part, (image_stem, label_stem) in IDX_FILES.items():
        subset = first_of_each_class(parts[part], IMAGES_A_CLASS[part])
        images = subset.read(np.arange(len(subset.labels)))
        for stem, array in ((image_stem, images[..., 0]), (label_stem, subset.labels)):
            path = folder / f"{stem}.gz"
            write_idx(path, array)
            size += path.stat().st_size
    return size


def first_of_each_class(split: Source, count: int) -> Source:
    """Return the first ``count`` images of each class, in the order of the file."""
    chosen = [np.flatnonzero(split.labels == label)[:count] for label in np.unique(split.labels)]
    return split.take(np.sort(np.concatenate(chosen)))
