"""Splitting a data set's images into training, validation and test images."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cnnjax.config import Data
from cnnjax.data.dataset import Loaded, Source, stratified_split
from cnnjax.errors import UserError, counted, listed

PARTS = ("train", "validation", "test")
Names = Mapping[str, Sequence[str]]
"""Paths of images by part."""


class Part(NamedTuple):
    """Images, and their paths if each is a file."""

    source: Source
    names: Sequence[str] | None = None

    def take(self, indices: np.ndarray) -> "Part":
        names = None if self.names is None else [self.names[index] for index in indices]
        return Part(self.source.take(indices), names)


class Division(NamedTuple):
    """The three parts of a data set."""

    train: Part
    validation: Part
    test: Part
    validation_indices: np.ndarray
    """Positions of the validation images among the training and validation images; empty if the source has its own
    split."""
    notices: list[str]

    def names(self) -> dict[str, list[str]]:
        """Return the paths of each part's images, if they are files."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: list(part.names) for name, part in parts.items() if part.names is not None}


def divide_by_seed(config: Data, loaded: Loaded, with_validation: bool) -> Division:
    """Hold out test and validation images if the data set has none, stratified by class; see `stratified_split`."""
    full, parts = _parts(loaded)
    notices = []
    if "test" not in parts:
        kept, held_out = stratified_split(full.source.labels, config.test, config.split_seed, "test")
        full, parts["test"] = full.take(kept), full.take(held_out)
        notices.append(
            f"{config.source} has no test images; {len(held_out):,} of {len(held_out) + len(kept):,} training images "
            "were set aside as test images (data.test, data.split_seed)"
        )
    train, validation = np.arange(len(full.source.labels)), np.arange(0)
    if with_validation and "validation" not in parts:
        train, validation = stratified_split(full.source.labels, config.validation, config.split_seed)
    return Division(
        full.take(train), parts.get("validation") or full.take(validation), parts["test"], validation, notices
    )


def divide_as_recorded(loaded: Loaded, recorded: Names) -> Division | None:
    """Divide by the paths that a run has recorded, so that no image moves to another part when files are added or
    removed.

    Returns:
        The splits, or None if the data set does not consist of files or if all recorded files are missing.
    """
    full, parts = _parts(loaded)
    present = {name for names in loaded.names.values() for name in names}
    known = {name for names in recorded.values() for name in names}
    if full.names is None or not known & present:
        return None
    positions = {name: index for index, name in enumerate(full.names)}
    chosen = {
        part: np.array(sorted(positions[n] for n in recorded[part] if n in positions), np.int64) for part in PARTS
    }
    kept = np.setdiff1d(np.arange(len(full.names)), chosen["test"])
    notices = []
    if missing := [name for part in PARTS for name in recorded[part] if name not in present]:
        notices.append(f"{counted(len(missing), 'image')} of the run missing: {listed(missing)}")
    if new := [name for name in full.names if name not in known]:
        notices.append(f"{counted(len(new), 'image')} added since the run, not used: {listed(new)}")
    return Division(
        full.take(chosen["train"]),
        parts.get("validation") or full.take(chosen["validation"]),
        parts.get("test") or full.take(chosen["test"]),
        np.searchsorted(kept, chosen["validation"]),
        notices,
    )


def require_images(part: str, source: Source, place: str) -> None:
    """Raise UserError if a part has no images."""
    if not len(source.labels):
        raise UserError(f"{place} has none of the run's {part} images; give the data of the run with --data.dir")


def _parts(loaded: Loaded) -> tuple[Part, dict[str, Part]]:
    parts = {part: Part(source, loaded.names.get(part)) for part, source in loaded.parts.items()}
    return parts["train"], parts
