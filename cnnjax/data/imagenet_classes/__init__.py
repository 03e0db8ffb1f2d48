"""The 1,000 classes of ImageNet (ILSVRC 2012), in the order of their labels.

classes.tsv holds WordNet ids and lemmas (WordNet 3.0, Princeton University), taken from the files
imagenet_synsets.txt and imagenet_synset_to_lemma.txt of timm 1.0.31 (Apache-2.0; LICENSE in this folder) by
scripts/imagenet_classes.py.
"""

import functools
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
TABLE = "classes.tsv"


class ImageNetClass(NamedTuple):
    """A class: its WordNet id, such as n01704323, and its name, such as triceratops. Two names occur twice.

    Example:
        >>> imagenet_classes()[51]
        ImageNetClass(wnid='n01704323', name='triceratops')
    """

    wnid: str
    name: str


@functools.cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """Return the 1,000 classes in the order of their labels, which is that of the ids.

    Example:
        >>> len(imagenet_classes()), imagenet_classes()[0].name
        (1000, 'tench')
    """
    lines = (FOLDER / TABLE).read_text(encoding="utf-8").splitlines()
    return tuple(ImageNetClass(*line.split("\t")) for line in lines)


@functools.cache
def wordnet_ids() -> tuple[str, ...]:
    """Return the 1,000 WordNet ids: the class names of networks trained on ImageNet.

    Example:
        >>> wordnet_ids()[51]
        'n01704323'
    """
    return tuple(wnid for wnid, _ in imagenet_classes())
