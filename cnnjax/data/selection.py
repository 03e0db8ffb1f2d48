"""Selection of some classes of a data set, and of some images of each class."""

import hashlib

import numpy as np

from cnnjax.config import Data
from cnnjax.data.dataset import Loaded, Source, Split
from cnnjax.data.division import Names
from cnnjax.data.photos import Photos
from cnnjax.errors import UserError, choose

STREAM = 0xC1A5
"""Second number of the seed, so that the draw is independent of the split into training and validation images."""


def selected(config: Data, loaded: Loaded, recorded: Names | None = None) -> Loaded:
    """Return the classes ``config.classes``, and ``config.per_class`` of the training images of each class.

    The images of a smaller selection are part of every larger one with the same seed. If a run has ``recorded`` the
    paths of its images, these are taken instead of a draw.

    Raises:
        UserError: a class does not exist or is named twice, or has too few images.
    """
    if config.classes:
        loaded = _of_classes(loaded, config.classes)
    if config.per_class is None:
        return loaded
    if recorded is not None and "train" in loaded.names:
        known = {name for names in recorded.values() for name in names}
        return _take(loaded, "train", np.flatnonzero([name in known for name in loaded.names["train"]]))
    return _take(loaded, "train", _drawn(config, config.per_class, loaded))


def digest(config: Data, content: str) -> str:
    """Return the fingerprint of the selection from a data set with the fingerprint ``content``."""
    if not config.classes and config.per_class is None:
        return content
    chosen = (content, config.classes, config.per_class, None if config.per_class is None else config.split_seed)
    return hashlib.sha256(repr(chosen).encode()).hexdigest()


def _of_classes(loaded: Loaded, classes: tuple[str, ...]) -> Loaded:
    for name in classes:
        choose("class in data.classes", name, loaded.classes)
        if classes.count(name) > 1:
            raise UserError(f"data.classes names {name!r} twice; name each class once")
    number = np.full(len(loaded.classes), -1, np.int32)
    number[[loaded.classes.index(name) for name in classes]] = np.arange(len(classes))
    for part in loaded.parts:
        loaded = _take(loaded, part, np.flatnonzero(number[loaded.parts[part].labels] >= 0))
    parts = {part: _relabelled(source, number[source.labels]) for part, source in loaded.parts.items()}
    return loaded._replace(parts=parts, classes=classes)


def _relabelled(source: Source, labels: np.ndarray) -> Source:
    if isinstance(source, Split):
        return source._replace(labels=labels)
    if isinstance(source, Photos):
        source = source.take(np.arange(len(labels)))
        source.labels = labels
        return source
    raise UserError(f"data.classes is given, but a {type(source).__name__} cannot select classes; remove data.classes")


def _drawn(config: Data, count: int, loaded: Loaded) -> np.ndarray:
    """Return the sorted indices of ``count`` training images of each class."""
    labels = loaded.parts["train"].labels
    rng = np.random.default_rng([config.split_seed, STREAM])
    chosen = []
    for label, name in enumerate(loaded.classes):
        members = np.flatnonzero(labels == label)
        if len(members) < count:
            raise UserError(
                f"data.per_class is {count} and {config.source} has {len(members)} training images of {name!r}; "
                f"it must be {len(members)} or less"
            )
        chosen.append(rng.permutation(members)[:count])
    return np.sort(np.concatenate(chosen))


def _take(loaded: Loaded, part: str, indices: np.ndarray) -> Loaded:
    names = dict(loaded.names)
    if part in names:
        names[part] = [names[part][index] for index in indices]
    return loaded._replace(parts={**loaded.parts, part: loaded.parts[part].take(indices)}, names=names)
