"""Loaded data sets, their splits, and the order of the images in an epoch."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from cnnjax.data.preprocessing import Preprocessing
from cnnjax.errors import UserError, counted, listed


class Source(Protocol):
    """Random access to labeled images of the same size: one split of a data set.

    Only the images that `read` returns need to be in memory.
    """

    @property
    def labels(self) -> np.ndarray:
        """The labels int32 [N]."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return the images uint8 [K, H, W, C] at indices int [K], in that order."""

    def take(self, indices: np.ndarray) -> "Source":
        """Return the part at indices int [K] as a separate source."""


class Split(NamedTuple):
    """A source in memory: images uint8 [N, H, W, C] with their labels int32 [N]."""

    images: np.ndarray
    labels: np.ndarray

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.images[indices]

    def take(self, indices: np.ndarray) -> "Split":
        return Split(self.images[indices], self.labels[indices])

    def __repr__(self) -> str:
        return f"Split({len(self.labels)} images of {'x'.join(map(str, self.images.shape[1:]))})"


class Loaded(NamedTuple):
    """A loaded source: its parts, its classes, and the mean and standard deviation of its pixels / 255.

    The parts are ``train`` and, if the source has them, ``validation`` and ``test``.
    """

    parts: Mapping[str, Source]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str | None = None
    """sha256 that identifies the content; None computes it from all images and labels."""
    notices: tuple[str, ...] = ()
    """Notices for the user, one sentence each."""
    names: Mapping[str, Sequence[str]] = MappingProxyType({})
    """Path of each image by part, if each is a file."""
    left_out: Mapping[str, Sequence[str]] = MappingProxyType({})
    """Paths of ``damaged`` and ``unused`` files; unused ones are not images, or are outside the layout."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in three parts, with everything needed to feed a network and to name its predictions."""

    name: str
    train: Source
    validation: Source
    test: Source
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    split_hash: str
    """sha256 of the validation images' indices in the training files."""
    content_hash: str
    """sha256 of all images and labels, or the source's own fingerprint; see `Loaded`."""
    notices: tuple[str, ...] = ()
    """Notices for the user, one sentence each."""
    names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    """Path of each image of train, validation and test, if each is a file."""
    left_out: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    """Paths of ``damaged`` and ``unused`` files; see `Loaded`."""
    part_hashes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """sha256 of each part; see `division.part_hash`."""
    drawn: frozenset[str] = frozenset()
    """Parts that were drawn from the training images by the seed."""
    incomplete: frozenset[str] = frozenset()
    """Parts that lack some of the images that a run has recorded."""

    def part(self, name: str) -> Source:
        """Return the part called train, validation or test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def record(self) -> dict[str, str]:
        """Return the entries of a run's files that identify this data set, its split and its parts, and name the first
        files that were left out.
        """
        hashes = {f"{part}_hash": digest for part, digest in self.part_hashes.items()}
        left_out = {
            kind: f"{counted(len(names), 'file')}: {listed(names)}" for kind, names in self.left_out.items() if names
        }
        identity = {"name": self.name, "content_hash": self.content_hash, "split_hash": self.split_hash}
        return {**identity, **hashes, **left_out}


def content_hash(*sources: Source) -> str:
    """Return the sha256 of the sources' shapes, images and labels."""
    digest = hashlib.sha256()
    for source in sources:
        images = source.images if isinstance(source, Split) else source.read(np.arange(len(source.labels)))
        for array in (images, source.labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def stratified_split(
    labels: np.ndarray, fraction: float, seed: int, part: str = "validation"
) -> tuple[np.ndarray, np.ndarray]:
    """Divide indices so that each class contributes the same fraction, rounded, to the second part.

    Args:
        labels: int [N].
        fraction: share of each class in the second part, in (0, 1).
        seed: the same seed gives the same split.
        part: name of the held-out split, such as validation; used in error messages.

    Returns:
        Two sorted index arrays int64, disjoint, together all of ``range(N)``.
    """
    rng = np.random.default_rng([seed, 0x5B11])  # a random stream separate from that of `epoch_order`
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen.append(rng.permutation(members)[: round(fraction * len(members))])
    held_out = np.sort(np.concatenate(chosen))
    if not 0 < len(held_out) < len(labels):
        raise UserError(
            f"a {part} share of {fraction} of {len(labels)} images leaves {len(labels) - len(held_out)} for "
            f"training and {len(held_out)} for {part}; each must be 1 or more, so change data.{part}"
        )
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def indices_hash(indices: np.ndarray) -> str:
    """Return the sha256 of indices as little-endian 64-bit numbers."""
    return hashlib.sha256(np.ascontiguousarray(indices, "<i8").tobytes()).hexdigest()


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order int32 [count] of the training images in an epoch; it depends only on the arguments."""
    return np.random.default_rng([seed, epoch]).permutation(count).astype(np.int32)


def balanced_order(seed: int, epoch: int, labels: np.ndarray) -> np.ndarray:
    """Return an order int32 [N] of the training images in which the classes occur equally often, to within one image.

    Images of small classes are repeated; each epoch uses a random subset of those of large classes. It depends
    only on the arguments.
    """
    rng = np.random.default_rng([seed, epoch, 0xBA1A])
    classes, total = np.unique(labels), len(labels)
    chosen = []
    for number, label in enumerate(classes):
        members, count = np.flatnonzero(labels == label), total // len(classes) + (number < total % len(classes))
        rounds = [rng.permutation(members) for _ in range(-(-count // len(members)))]
        chosen.append(np.concatenate(rounds)[:count])
    return rng.permutation(np.concatenate(chosen)).astype(np.int32)


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return a weight float32 [classes] per class, inversely proportional to its size; the mean over images is 1."""
    counts = np.bincount(labels, minlength=classes)
    present = max(int((counts > 0).sum()), 1)
    return (len(labels) / (present * np.maximum(counts, 1))).astype(np.float32)
