"""The classes of a published network by number, id and name, and the folders or labels that stand for them."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from cnnjax.data.imagenet_classes import imagenet_classes, wordnet_ids
from cnnjax.errors import UserError, near_matches, printable
from cnnjax.runs.predictor import Predictor


def is_imagenet(network: Predictor) -> bool:
    """Return whether the network's classes are ImageNet's, named by their WordNet ids."""
    return network.classes == wordnet_ids()


def labels(network: Predictor) -> list[tuple[str, str]]:
    """Return the id and the name of each class: ImageNet's WordNet ids and names, or the number and the stored name."""
    if is_imagenet(network):
        return list(imagenet_classes())
    return [(str(number), name) for number, name in enumerate(network.classes)]


def match_classes(given: Sequence[str], network: Predictor, place: str) -> np.ndarray:
    """Return the position int32 [N] in the network's outputs of each class of a data set.

    All classes must be given in the same way: by name, by id, or by number, counted from 0.

    Raises:
        UserError: a class is unknown, or two are the same.
    """
    fitting = max(_namings(network), key=lambda naming: sum(name in naming for name in given))
    if unknown := [name for name in given if name not in fitting]:
        if [name for _, name in labels(network)].count(unknown[0]) > 1:
            raise UserError(
                f"{place}: {printable(unknown[0])!r} is the name of two classes; name all classes by id or by number"
            )
        others = f" (and {len(unknown) - 1:,} others)" if len(unknown) > 1 else ""
        raise UserError(
            f"{place}: the class {printable(unknown[0])!r}{others} is not among the network's "
            f"{len(network.classes):,}; {near_matches(unknown[0], fitting)}"
        )
    positions = np.array([fitting[name] for name in given], np.int32)
    if len(np.unique(positions)) < len(positions):
        raise UserError(f"{place}: two classes stand for the same output of the network; give each class once")
    return positions


def _namings(network: Predictor) -> list[Mapping[str, int]]:
    """Return each way to name all classes, as positions by name; names that stand for two classes are left out."""
    ids, names = zip(*labels(network), strict=True)
    numbers = tuple(map(str, range(len(ids))))
    return [_unique(naming) for naming in (network.classes, ids, names, numbers)]


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Return the position of each name that occurs once."""
    counts = Counter(names)
    return {name: index for index, name in enumerate(names) if counts[name] == 1}
