"""Definition, class names and preprocessing of a published network, from its row in the registry."""

from cnnjax.convert.sources import NORMALIZATIONS
from cnnjax.data import Preprocessing
from cnnjax.data.class_names import CIFAR10_CLASSES
from cnnjax.data.imagenet_classes import wordnet_ids
from cnnjax.models import create
from cnnjax.models.layers import Arch
from cnnjax.pretrained import Published

CLASSES = {"cifar10": CIFAR10_CLASSES, "imagenet": wordnet_ids()}
"""Class names by data set; the classes of any other are numbered."""


def arch_of(entry: Published) -> Arch:
    """Return the network as published."""
    return create(entry.variant, input_size=entry.input_size)


def classes_of(entry: Published) -> tuple[str, ...]:
    """Return the class names in the order of the outputs."""
    return CLASSES.get(entry.data) or tuple(map(str, range(arch_of(entry).num_classes)))


def preprocessing_of(entry: Published) -> Preprocessing:
    """Return the preprocessing of images for which the accuracy is published."""
    normalization = NORMALIZATIONS[entry.normalization]
    return Preprocessing.from_dict({
        "height": entry.input_size, "width": entry.input_size, "resize": "exact" if entry.resize is None else "short",
        "resize_size": entry.resize, "interpolation": entry.interpolation, **normalization._asdict(),
    }, "preprocessing")  # fmt: skip
