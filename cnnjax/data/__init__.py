"""Data sets: load a `config.Data` as training, validation and test splits, in memory or streamed from disk."""

from collections.abc import Mapping

from cnnjax.config import Data
from cnnjax.data import selection
from cnnjax.data.adapted import Adapted
from cnnjax.data.augmentation import augment, mix, mixes, require_fit
from cnnjax.data.crops import resize_boxes
from cnnjax.data.dataset import (
    Dataset,
    Loaded,
    Source,
    Split,
    balanced_order,
    class_weights,
    content_hash,
    epoch_order,
    indices_hash,
)
from cnnjax.data.division import PARTS, Names, divide_as_recorded, divide_by_seed
from cnnjax.data.loader import Crops, DeviceSplit, Loader, make_loader
from cnnjax.data.preprocessing import Embedded, Preprocessing, normalize, prepare_photo, read_image
from cnnjax.data.sources import SOURCES, SourceEntry, find_source
from cnnjax.errors import UserError, counted

__all__ = [
    "SOURCES", "Crops", "Dataset", "DeviceSplit", "Embedded", "Loaded", "Loader", "Preprocessing", "Source",
    "SourceEntry", "Split", "augment", "balanced_order", "class_weights", "epoch_order", "load", "make_loader", "mix",
    "mixes", "normalize", "prepare_photo", "read_image", "require_fit", "resize_boxes",
]  # fmt: skip


def load(
    config: Data, sources: Mapping[str, SourceEntry] = SOURCES, *, divide: bool = True,
    like: Preprocessing | None = None, recorded: Names | None = None,
) -> Dataset:  # fmt: skip
    """Load a data set from the table ``sources``; hold out the splits that it does not have, stratified by class.

    Args:
        config: which data set, and how it is split.
        sources: the table.
        divide: False holds out no validation images; use it to evaluate on the test images.
        like: preprocessing of a trained network; the images are resized, cropped and converted to fit it.
        recorded: paths of a run's images by split. They replace the seeded split; see `divide_as_recorded`.

    Raises:
        UserError: there is no such source, its files are missing or damaged, or a split would be empty.
    """
    name = config.source
    loaded = find_source(name, sources).load_from(config, like)
    for part, source in loaded.parts.items():
        if (highest := source.labels.max()) >= len(loaded.classes):
            raise UserError(
                f"{name}: the {part} labels go up to {highest}, but there are {counted(len(loaded.classes), 'class')}"
            )
    digest = loaded.fingerprint or content_hash(*(loaded.parts[part] for part in PARTS if part in loaded.parts))
    notices = [*loaded.notices, *_check_fingerprint(name, digest, sources)]
    loaded = selection.selected(config, loaded, recorded)
    division = divide_as_recorded(loaded, recorded) if recorded else None
    division = division or divide_by_seed(config, loaded, divide)
    parts = {"train": division.train.source, "validation": division.validation.source, "test": division.test.source}
    if len({source.image_shape for source in parts.values()}) > 1:
        raise UserError(
            f"{name}: training images are {parts['train'].image_shape} and test images {parts['test'].image_shape}; "
            "all must have the same size"
        )
    shape = parts["train"].image_shape
    if like is not None and shape != (like.height, like.width, like.channels):
        notices.append(f"the images of {name}, {_size(shape)}, are converted to fit the network: {like.describe()}")
        parts = {part: Adapted(source, like) for part, source in parts.items()}
    for label in loaded.classes:
        if not label.isascii() and label.encode(errors="replace").decode() != label:
            raise UserError(f"{name}: the class name {label!a} is not valid UTF-8; rename its folder")
    return Dataset(
        name=name,
        **parts,
        classes=loaded.classes,
        preprocessing=like or _preprocessing(config, loaded, shape),
        split_hash=indices_hash(division.validation_indices),
        content_hash=selection.digest(config, digest),
        notices=(*notices, *division.notices),
        names=division.names(),
        left_out=loaded.left_out,
        part_hashes=division.hashes(digest),
        drawn=division.drawn,
        incomplete=division.incomplete,
    )


def _preprocessing(config: Data, loaded: Loaded, shape: tuple[int, int, int]) -> Preprocessing:
    return Preprocessing(
        height=shape[0],
        width=shape[1],
        mean=loaded.mean,
        std=loaded.std,
        resize="exact" if config.size is None else "short",
        resize_size=config.size,
        max_value=config.max_value,
    )


def _check_fingerprint(name: str, digest: str, sources: Mapping[str, SourceEntry]) -> list[str]:
    """Raise UserError if the files are those of another data set; return a notice if they are not as published."""
    for other, known in sources.items():
        if known.content_hash == digest and name in sources and other != name:
            raise UserError(
                f"the files given for {name} are those of {other}; use --data.source {other}, or give other files"
            )
    expected = sources[name].content_hash if name in sources else None
    if expected is None or digest == expected:
        return []
    return [f"the files of {name} are not the published ones (sha256 {digest[:12]}, published {expected[:12]})"]


def _size(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))
