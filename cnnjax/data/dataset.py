"""What a data set is once it is loaded, and how it is divided and ordered."""

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from cnnjax.data.preprocessing import Preprocessing
from cnnjax.errors import UserError


class Split(NamedTuple):
    """Images uint8 [N, H, W, C] with their labels int32 [N]."""

    images: np.ndarray
    labels: np.ndarray

    def take(self, indices: np.ndarray) -> "Split":
        return Split(self.images[indices], self.labels[indices])

    def __repr__(self) -> str:
        return f"Split({len(self.labels)} images of {'x'.join(map(str, self.images.shape[1:]))})"


class Loaded(NamedTuple):
    """What a source gives: its parts ``train`` and ``test``, its classes, mean and deviation of its pixels / 255."""

    parts: dict[str, Split]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in three parts, with all that is needed to feed it to a network and to name its answers."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    split_hash: str
    """sha256 of the validation images' indices in the training files."""
    content_hash: str
    """sha256 of all images and labels."""

    def part(self, name: str) -> Split:
        """Return the part called train, validation or test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def record(self) -> dict[str, str]:
        """Return what tells this data set and its division from any other, for a run's files."""
        return {"name": self.name, "content_hash": self.content_hash, "split_hash": self.split_hash}


def content_hash(*splits: Split) -> str:
    """Return the sha256 of the splits' shapes, images and labels."""
    digest = hashlib.sha256()
    for split in splits:
        for array in split:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide indices so that each class gives the same fraction, rounded, to the second part.

    Args:
        labels: int [N].
        fraction: of each class for the second part, in (0, 1).
        seed: the same seed gives the same division.

    Returns:
        Two sorted index arrays int64, disjoint, together all of ``range(N)``.
    """
    rng = np.random.default_rng([seed, 0x5B11])  # a stream of its own, apart from that of `epoch_order`
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen.append(rng.permutation(members)[: round(fraction * len(members))])
    held_out = np.sort(np.concatenate(chosen))
    if not 0 < len(held_out) < len(labels):
        raise UserError(
            f"a validation share of {fraction} of {len(labels)} images leaves {len(labels) - len(held_out)} for "
            f"training and {len(held_out)} for validation; each must be 1 or more, so change data.validation"
        )
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def indices_hash(indices: np.ndarray) -> str:
    """Return the sha256 of indices as little-endian 64-bit numbers."""
    return hashlib.sha256(np.ascontiguousarray(indices, "<i8").tobytes()).hexdigest()


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order int32 [count] of the training images in an epoch: a function of these three alone."""
    return np.random.default_rng([seed, epoch]).permutation(count).astype(np.int32)
