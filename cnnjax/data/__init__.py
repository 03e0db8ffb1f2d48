"""Data sets: from a `config.Data` to three parts in memory."""

from collections.abc import Mapping, Sequence

import numpy as np

from cnnjax.config import Data
from cnnjax.data.augmentation import augment
from cnnjax.data.crops import resize_boxes
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
from cnnjax.data.loader import Crops, DeviceSplit, Loader, make_loader
from cnnjax.data.preprocessing import Preprocessing, normalize, read_image
from cnnjax.data.sources import SOURCES, SourceEntry, find_source
from cnnjax.errors import UserError

__all__ = [
    "SOURCES", "Crops", "Dataset", "DeviceSplit", "Loaded", "Loader", "Preprocessing", "Source", "SourceEntry", "Split",
    "augment", "epoch_order", "load", "make_loader", "normalize", "read_image", "resize_boxes",
]  # fmt: skip


def load(config: Data, sources: Mapping[str, SourceEntry] = SOURCES, *, divide: bool = True) -> Dataset:
    """Load a data set of the table ``sources``; divide its training images, each class alike, into two parts.

    With ``divide=False``, for an evaluation on the test images, no image is held out for validation.

    Raises:
        UserError: no such source, its files are missing or damaged, or the division leaves a part empty.
    """
    name = config.source
    parts, classes, mean, std, fingerprint, notices, names = find_source(name, sources).load_from(config)
    for part, split in parts.items():
        if (highest := split.labels.max()) >= len(classes):
            raise UserError(f"{name}: the {part} labels go up to {highest}, and there are {len(classes)} classes")
    full = parts["train"]
    digest = fingerprint or content_hash(*(parts[part] for part in ("train", "validation", "test") if part in parts))
    if "test" not in parts:
        kept, held_out = stratified_split(full.labels, config.test, config.split_seed, "test")
        full, parts = full.take(kept), {**parts, "test": full.take(held_out)}
        if names:
            names = {**names, "train": _picked(names["train"], kept), "test": _picked(names["train"], held_out)}
        notices += (
            f"{name} has no test images; {len(held_out):,} of {len(held_out) + len(kept):,} training images were set "
            "aside as test images (data.test, data.split_seed)",
        )
    test = parts["test"]
    if full.image_shape != test.image_shape:
        raise UserError(
            f"{name}: training images are {full.image_shape} and test images {test.image_shape}; "
            "all must be of one size"
        )
    expected = sources[name].content_hash if name in sources else None
    if expected is not None and digest != expected:
        notices += (
            f"the files of {name} are not the published ones (sha256 {digest[:12]}, published {expected[:12]})",
        )
    for other, known in sources.items():
        if known.content_hash == digest and name in sources and other != name:
            raise UserError(
                f"the files given for {name} are those of {other}; use --data.source {other}, or give other files"
            )
    for label in classes:
        if not label.isascii() and label.encode(errors="replace").decode() != label:
            raise UserError(f"{name}: the class name {label!a} is not valid UTF-8; rename its folder")
    train_indices, validation_indices = np.arange(len(full.labels)), np.arange(0)
    if divide and "validation" not in parts:
        train_indices, validation_indices = stratified_split(full.labels, config.validation, config.split_seed)
        if names:
            train = names["train"]
            names = {**names, "train": _picked(train, train_indices), "validation": _picked(train, validation_indices)}
    height, width, _ = full.image_shape
    return Dataset(
        name=name,
        train=full.take(train_indices),
        validation=parts.get("validation") or full.take(validation_indices),
        test=test,
        classes=classes,
        preprocessing=Preprocessing(
            height=height,
            width=width,
            mean=mean,
            std=std,
            resize="exact" if config.size is None else "short",
            resize_size=config.size,
        ),
        split_hash=indices_hash(validation_indices),
        content_hash=digest,
        notices=notices,
        names=names,
    )


def _picked(names: Sequence[str], indices: np.ndarray) -> list[str]:
    return [names[index] for index in indices]
