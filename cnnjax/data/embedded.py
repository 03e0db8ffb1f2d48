"""Makes the embedded subset of Fashion-MNIST from the full set (`scripts/data.py embed`)."""

from pathlib import Path

import numpy as np

from cnnjax.data.dataset import Split
from cnnjax.data.idx import write_idx
from cnnjax.data.sources import IDX_FILES

IMAGES_A_CLASS = {"train": 1000, "test": 200}


def first_of_each_class(split: Split, count: int) -> Split:
    """Return the first ``count`` images of each class, in the order of the file."""
    chosen = [np.flatnonzero(split.labels == label)[:count] for label in np.unique(split.labels)]
    return split.take(np.sort(np.concatenate(chosen)))


def write_subset(parts: dict[str, Split], folder: Path) -> int:
    """Write the balanced subset as gzipped IDX files; return their size in bytes. The same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    for part, (image_stem, label_stem) in IDX_FILES.items():
        subset = first_of_each_class(parts[part], IMAGES_A_CLASS[part])
        for stem, array in ((image_stem, subset.images[..., 0]), (label_stem, subset.labels)):
            path = folder / f"{stem}.gz"
            write_idx(path, array)
            size += path.stat().st_size
    return size
