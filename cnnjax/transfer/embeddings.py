"""Embeddings of a frozen backbone, computed once and cached on disk.

The images are embedded in chunks of `CHUNK`. The file of a chunk is named by the sha256 of all that determines its
values: the pixels, the backbone and its parameters, the normalization, the code that computes it, and the machine's
choice of algorithms. A change to any of them is therefore a cache miss, and splits or runs with the same images in the
same order share it. Each file is written atomically and holds its own sha256; a process that is killed loses at most
one chunk.
"""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import cnnjax
from cnnjax.data import Dataset, Embedded, Preprocessing, Source, Split
from cnnjax.data.division import PARTS
from cnnjax.errors import UserError
from cnnjax.functional import Variables
from cnnjax.models.layers import Arch
from cnnjax.ops import dispatch
from cnnjax.parallel import current_placement
from cnnjax.system import signals
from cnnjax.system.compilation import make_private, prune, user_cache
from cnnjax.system.files import read_bytes, write_bytes
from cnnjax.system.versions import version
from cnnjax.training.evaluation import logits_step
from cnnjax.transfer.frozen import digest

CHUNK = 64
"""Images per device call and per file. The last chunk is padded, so that all run the same program."""
SUFFIX, SHA256_BYTES = ".embeddings", 32
BOUND = 4 * 2**30
"""Maximum bytes of the cache; the least recently used chunks are deleted."""
MOST_BYTES = 2 * 2**30
"""Maximum bytes of the embeddings of a data set; larger ones are not kept in memory."""
CODE = ("functional.py", "models", "ops", "data/preprocessing.py")
"""Parts of the package that determine the values of an embedding."""


def embed(
    dataset: Dataset, backbone: Arch, variables: Variables, notice: Callable[[str], None] = lambda text: None
) -> Dataset:
    """Return the data set with the embeddings float32 [N, 1, 1, D] of its images as images."""
    embedder = Embedder(backbone, variables, dataset.preprocessing, notice)
    train, validation, test = (embedder.embedded(dataset.part(part)) for part in PARTS)
    notice(embedder.summary())
    return dataclasses.replace(dataset, train=train, validation=validation, test=test, preprocessing=Embedded())


class Embedder:
    """Embeds images with one backbone, and caches the results."""

    def __init__(
        self, backbone: Arch, variables: Variables, preprocessing: Preprocessing,
        notice: Callable[[str], None] = lambda text: None,
    ):  # fmt: skip
        self.backbone, self.variables, self.preprocessing, self.notice = backbone, variables, preprocessing, notice
        self.computed = self.read = 0
        self.placement = current_placement()
        self.spread = self.placement.spread(variables)
        self.key = hashlib.sha256(repr(self._determinants()).encode())
        self.folder = self._open_cache()

    def embedded(self, source: Source) -> Split:
        """Return a source whose images are the embeddings float32 [N, 1, 1, D]."""
        embeddings = self(source)
        return Split(embeddings[:, None, None, :], source.labels)

    def __call__(self, source: Source) -> np.ndarray:
        """Return the embeddings float32 [N, D] of all images of a source."""
        if not len(source.labels):
            raise UserError("the data set has a part without images; give data with images in every part")
        parts = []
        for start in range(0, len(source.labels), CHUNK):
            indices = np.arange(start, min(start + CHUNK, len(source.labels)))
            parts.append(self._chunk(source.read(indices)))
            signals.poll()
        return np.concatenate(parts)

    def summary(self) -> str:
        """Return how many embeddings were computed and read."""
        place = "" if self.folder is None else f" in {self.folder}"
        return f"embeddings: {self.computed:,} computed, {self.read:,} read from the cache{place}"

    def _chunk(self, images: np.ndarray) -> np.ndarray:
        """Return the embeddings of at most `CHUNK` images, from the cache if they are there."""
        key = self.key.copy()
        key.update(f"{images.dtype}{images.shape}".encode())
        key.update(np.ascontiguousarray(images).data)
        path = None if self.folder is None else self.folder / f"{key.hexdigest()}{SUFFIX}"
        if path is not None and (stored := _stored(path, len(images))) is not None:
            self.read += len(images)
            return stored
        padding = self.placement.multiple(CHUNK) - len(images)
        padded = np.concatenate([images, np.zeros((padding, *images.shape[1:]), images.dtype)])
        with self.placement.active():
            logits = logits_step(self.backbone, self.preprocessing, self.spread, padded)
        embeddings = np.asarray(logits)[: len(images)]
        self.computed += len(images)
        if path is not None:
            self._store(path, embeddings)
        return embeddings

    def _store(self, path: Path, embeddings: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, embeddings, allow_pickle=False)
        content = buffer.getvalue()
        try:
            write_bytes(path, hashlib.sha256(content).digest() + content)
        except OSError as error:
            self._give_up(error)

    def _open_cache(self) -> Path | None:
        folder = user_cache("embeddings")
        if folder is None:
            return None
        try:
            make_private(folder)
            prune(folder, BOUND, SUFFIX)
        except OSError as error:
            self._give_up(error)
            return None
        return folder

    def _give_up(self, error: OSError) -> None:
        self.folder = None
        self.notice(f"notice: embeddings are not cached ({error.strerror or error}); CNNJAX_CACHE=DIR chooses a folder")

    def _determinants(self) -> tuple[Any, ...]:
        device = jax.devices()[0]
        with self.placement.active():
            algorithms = sorted(dispatch.record(self.backbone.dtype, accumulates=False).items())
        return (
            self.backbone, digest(self.variables._asdict()), self.preprocessing, CHUNK, code_version(),
            version("jax"), version("jaxlib"), device.platform, device.device_kind, algorithms,
            *([] if self.placement.count == 1 else [self.placement.count]),  # each computes a share of a chunk
        )  # fmt: skip


@functools.cache
def code_version() -> str:
    """Return the sha256 of the code that determines the values of an embedding."""
    package = Path(cnnjax.__file__).parent
    sha256 = hashlib.sha256()
    for name in CODE:
        place = package / name
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            sha256.update(f"{path.relative_to(package)}".encode() + path.read_bytes())
    return sha256.hexdigest()


def _stored(path: Path, count: int) -> np.ndarray | None:
    """Return the embeddings float [count, D] in a file, or None if it is missing or damaged."""
    try:
        content = read_bytes(path, most_mib=64)
        if hashlib.sha256(content[SHA256_BYTES:]).digest() != content[:SHA256_BYTES]:
            return None
        embeddings = np.load(io.BytesIO(content[SHA256_BYTES:]), allow_pickle=False)
        path.touch()  # `prune` deletes by time of last use
    except (OSError, ValueError, UserError):
        return None
    return embeddings if embeddings.ndim == 2 and len(embeddings) == count else None


def fit_in_memory(dataset: Dataset, size: int) -> bool:
    """Return whether the embeddings of ``size`` numbers fit into `MOST_BYTES`."""
    count = sum(len(dataset.part(part).labels) for part in PARTS)
    return 4 * size * count <= MOST_BYTES
