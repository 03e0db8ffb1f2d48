"""Data sets: from a `config.Data` to three parts in memory."""

from cnnjax.config import Data
from cnnjax.data.augmentation import augment
from cnnjax.data.dataset import Dataset, Split, content_hash, epoch_order, indices_hash, stratified_split
from cnnjax.data.preprocessing import Preprocessing, normalize, read_image
from cnnjax.data.sources import SOURCES, find_source
from cnnjax.errors import UserError

__all__ = [
    "SOURCES", "Dataset", "Preprocessing", "Split", "augment", "epoch_order", "load", "normalize", "read_image",
]  # fmt: skip


def load(config: Data) -> Dataset:
    """Load a data set and divide its training images, each class alike, into training and validation.

    Raises:
        UserError: no such source, its files are missing or damaged, or the division leaves a part empty.
    """
    name = config.source
    parts, classes, mean, std = find_source(name).load(config.dir)
    for part, split in parts.items():
        if (highest := split.labels.max()) >= len(classes):
            raise UserError(f"{name}: the {part} labels go up to {highest}, and there are {len(classes)} classes")
    full, test = parts["train"], parts["test"]
    if full.images.shape[1:] != test.images.shape[1:]:
        raise UserError(
            f"{name}: training images are {full.images.shape[1:]} and test images {test.images.shape[1:]}; "
            "all must be of one size"
        )
    digest = content_hash(full, test)
    for other, known in SOURCES.items():
        if known.content_hash == digest and name in SOURCES and other != name:
            raise UserError(
                f"the files given for {name} are those of {other}; use --data.source {other}, or other files"
            )
    train_indices, validation_indices = stratified_split(full.labels, config.validation, config.split_seed)
    height, width, _ = full.images.shape[1:]
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
