"""Data sets: from a `config.Data` to three parts in memory."""

from collections.abc import Mapping

from cnnjax.config import Data
from cnnjax.data.augmentation import augment
from cnnjax.data.dataset import (
    Dataset,
    Loaded,
    Source,
    Split,
    content_hash,
    epoch_order,
    indices_hash,
    stratified_split,
)
from cnnjax.data.loader import DeviceSplit, Loader, make_loader
from cnnjax.data.preprocessing import Preprocessing, normalize, read_image
from cnnjax.data.sources import SOURCES, SourceEntry, find_source
from cnnjax.errors import UserError

__all__ = [
    "SOURCES", "Dataset", "DeviceSplit", "Loaded", "Loader", "Preprocessing", "Source", "SourceEntry", "Split",
    "augment", "epoch_order", "load", "make_loader", "normalize", "read_image",
]  # fmt: skip


def load(config: Data, sources: Mapping[str, SourceEntry] = SOURCES) -> Dataset:
    """Load a data set of the table ``sources``; divide its training images, each class alike, into two parts.

    Raises:
        UserError: no such source, its files are missing or damaged, or the division leaves a part empty.
    """
    name = config.source
    parts, classes, mean, std, fingerprint = find_source(name, sources).load(config.dir)
    for part, split in parts.items():
        if (highest := split.labels.max()) >= len(classes):
            raise UserError(f"{name}: the {part} labels go up to {highest}, and there are {len(classes)} classes")
    full, test = parts["train"], parts["test"]
    if full.image_shape != test.image_shape:
        raise UserError(
            f"{name}: training images are {full.image_shape} and test images {test.image_shape}; "
            "all must be of one size"
        )
    digest = fingerprint or content_hash(full, test)
    for other, known in sources.items():
        if known.content_hash == digest and name in sources and other != name:
            raise UserError(
                f"the files given for {name} are those of {other}; use --data.source {other}, or other files"
            )
    train_indices, validation_indices = stratified_split(full.labels, config.validation, config.split_seed)
    height, width, _ = full.image_shape
    return Dataset(
        name=name,
        train=full.take(train_indices),
        validation=full.take(validation_indices),
        test=test,
        classes=classes,
        preprocessing=Preprocessing(height=height, width=width, mean=mean, std=std),
        split_hash=indices_hash(validation_indices),
        content_hash=digest,
    )
