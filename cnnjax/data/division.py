"""Splitting a data set's images into training, validation and test images."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cnnjax.config import Data
from cnnjax.data.dataset import Loaded, Source, Split, content_hash, stratified_split
from cnnjax.data.photos import Photos, fingerprint
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
    drawn: frozenset[str] = frozenset()
    """Parts that were drawn from the training images by the seed."""
    incomplete: frozenset[str] = frozenset()
    """Parts that lack some of the recorded images."""

    @property
    def parts(self) -> dict[str, Part]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def names(self) -> dict[str, list[str]]:
        """Return the paths of each part's images, if they are files."""
        return {name: list(part.names) for name, part in self.parts.items() if part.names is not None}

    def hashes(self, digest: str) -> dict[str, str]:
        """Return `part_hash` of each part of a data set with the fingerprint ``digest``."""
        return {name: part_hash(part, digest) for name, part in self.parts.items()}


def part_hash(part: Part, digest: str) -> str:
    """Return a sha256 that identifies the images and labels of a part.

    Of photos on disk it covers names, sizes in bytes, labels and a sample of the contents, as `photos.fingerprint`. Of
    any other source it covers the labels and ``digest``, the fingerprint of the data set.
    """
    source = part.source
    if isinstance(source, Split):
        return content_hash(source)
    if isinstance(source, Photos):
        sizes = np.array([source.files.stamp(name)[0] for name in source.names], np.int64)
        return fingerprint({"": source}, {"": part.names or source.names}, sizes)
    return hashlib.sha256(digest.encode() + source.labels.astype("<i4").tobytes()).hexdigest()


def divide_by_seed(config: Data, loaded: Loaded, with_validation: bool) -> Division:
    """Hold out test and validation images if the data set has none, stratified by class; see `stratified_split`."""
    full, parts = _parts(loaded)
    notices = []
    drawn = {"validation", "test"} - parts.keys()
    if "test" in drawn:
        kept, held_out = stratified_split(full.source.labels, config.test, config.split_seed, "test")
        full, parts["test"] = full.take(kept), full.take(held_out)
        notices.append(
            f"{config.source} has no test images; {len(held_out):,} of {len(held_out) + len(kept):,} training images "
            "were set aside as test images (data.test, data.split_seed)"
        )
    train, validation = np.arange(len(full.source.labels)), np.arange(0)
    if with_validation and "validation" in drawn:
        train, validation = stratified_split(full.source.labels, config.validation, config.split_seed)
    return Division(
        full.take(train), parts.get("validation") or full.take(validation), parts["test"], validation, notices,
        drawn=frozenset(drawn),
    )  # fmt: skip


def divide_as_recorded(loaded: Loaded, recorded: Names) -> Division | None:
    """Divide by the paths that a run has recorded, so that no image moves to another part when files are added or
    removed.

    Returns:
        The splits, or None if the data set does not consist of files or if all recorded files are missing.
    """
    full, parts = _parts(loaded)
    present = {name for names in loaded.names.values() for name in names}
    known = {name for names in recorded.values() for name in names}
    if any(part.names is None for part in parts.values()) or not known & present:
        return None
    origins, chosen = {}, {}
    for part in PARTS:
        origins[part], chosen[part] = _find(parts, part, recorded[part])
    kept = np.arange(len(full.source.labels))
    if origins["test"] == "train":
        kept = np.setdiff1d(kept, chosen["test"])
    notices = []
    missing = {part: [name for name in recorded[part] if name not in present] for part in PARTS}
    if lost := [name for names in missing.values() for name in names]:
        notices.append(f"{counted(len(lost), 'image')} of the run missing: {listed(lost)}")
    if new := [name for names in loaded.names.values() for name in names if name not in known]:
        notices.append(f"{counted(len(new), 'image')} added since the run, not used: {listed(new)}")
    train, validation, test = (parts[origins[part]].take(chosen[part]) for part in PARTS)
    in_training = origins["validation"] == "train"
    return Division(
        train,
        validation,
        test,
        validation_indices=np.searchsorted(kept, chosen["validation"]) if in_training else np.arange(0),
        notices=notices,
        incomplete=frozenset(part for part in PARTS if missing[part]),
    )


def _find(parts: Mapping[str, Part], part: str, names: Sequence[str]) -> tuple[str, np.ndarray]:
    """Return which part of a data set now holds the images of a run's ``part``, and their sorted positions in it."""
    for origin in (part, "train"):
        held = parts[origin].names if origin in parts else None
        positions = {name: index for index, name in enumerate(held or ())}
        if found := sorted(positions[name] for name in names if name in positions):
            return origin, np.array(found, np.int64)
    return "train", np.arange(0)


def require_images(part: str, source: Source, place: str) -> None:
    """Raise UserError if a part has no images."""
    if not len(source.labels):
        raise UserError(f"{place} has none of the run's {part} images; give the data of the run with --data.dir")


def _parts(loaded: Loaded) -> tuple[Part, dict[str, Part]]:
    parts = {part: Part(source, loaded.names.get(part)) for part, source in loaded.parts.items()}
    return parts["train"], parts
