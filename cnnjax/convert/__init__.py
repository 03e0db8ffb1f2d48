"""Conversion between published weights and `Variables`: torchvision, timm, Keras, and CIFAR ResNets.

A converter is a `rules.Table`. The tables of each family are in one file, and `_FAMILIES` lists the files.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cnnjax.convert import alexnet, googlenet, inception_v3, keras_model, regnet, resnet, vgg, xception
from cnnjax.convert.rules import from_variables, to_variables
from cnnjax.convert.safetensors_file import write_safetensors
from cnnjax.convert.sources import Normalization, Source
from cnnjax.convert.tensors import USUAL, Choice, naming
from cnnjax.convert.weight_files import open_tensors
from cnnjax.errors import UserError, choose, listed
from cnnjax.functional import Variables, abstract_variables, check_variables
from cnnjax.models.heads import HEAD_FIELDS
from cnnjax.models.layers import Arch

__all__ = [
    "USUAL", "Choice", "Converted", "Normalization", "Source", "convert_weights", "largest_file", "load_weights",
    "save_weights", "source_of",
]  # fmt: skip

_FAMILIES: dict[str, Callable[[Any], dict[str, Source]]] = {
    "alexnet": alexnet.sources, "vgg": vgg.sources, "googlenet": googlenet.sources, "resnet": resnet.sources,
    "regnet": regnet.sources, "inception_v3": inception_v3.sources, "xception": xception.sources,
}  # fmt: skip


PUBLISHERS = ("torchvision", "timm", "keras", "cifar")


def source_of(arch: Arch, name: str) -> Source:
    """Return a publisher of weights for this form of the network, such as ``"torchvision"``."""
    sources = sources_of(arch)
    return sources[choose("source", name, sources)]


def sources_of(arch: Arch) -> dict[str, Source]:
    """Return the publishers of weights for this form of the network; raise UserError if there are none."""
    if arch.family not in _FAMILIES:
        raise UserError(
            f"published weights of the family {arch.family!r} cannot be converted; choose from: {listed(_FAMILIES)}"
        )
    sources = _FAMILIES[arch.family](arch)
    if not sources:
        raise UserError(f"there are no published weights for this form of {arch.family!r}; change the model's options")
    return sources


def load_weights(arch: Arch, source: str, path: Path) -> Variables:
    """Return the variables from a file of published weights, whose tensors must match the network exactly.

    Args:
        arch: the network as published; weight files do not contain its activation, epsilon and other settings.
        source: publisher whose names the file uses: ``"torchvision"``, ``"timm"``, ``"keras"``, ``"cifar"``.
        path: torch .pth, safetensors, or Keras .h5, .weights.h5 or .keras.

    Raises:
        UserError: the file cannot be read, or a tensor is missing, unexpected or of the wrong shape.
    """
    converted = convert_weights(arch, source, path)
    if converted.arch.replace(input_size=arch.input_size) != arch:
        fields = {name: getattr(converted.arch, name) for name in HEAD_FIELDS if hasattr(converted.arch, name)}
        options = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        raise UserError(f"{path} holds a model with another head; it needs {options}")
    return converted.variables


class Converted(NamedTuple):
    """A network as it is in a weight file."""

    arch: Arch
    """The network; a file of a whole model sets its number of classes and the hidden layers of its head."""
    variables: Variables
    normalization: Normalization | None
    """How the layers of a whole model scale the images; None if they do not, and the publisher's applies."""
    notices: tuple[str, ...] = ()
    """What was chosen or left out, for the user."""


def convert_weights(arch: Arch, source: str, path: Path, choice: Choice = USUAL) -> Converted:
    """Return the network in a file of published weights; a whole model in a Keras file brings its own head.

    Args:
        arch: the network as published; with 0 classes, the head in the file is ignored.
        source: publisher whose names the file uses, as for `load_weights`.
        path: the file, as for `load_weights`.
        choice: which of the file's tensors to read.

    Raises:
        UserError: the file cannot be read; a tensor is missing, unexpected or of the wrong shape; or the layers of a
            whole model are not known, or compute something other than the network.
    """
    table = source_of(arch, source).table
    with open_tensors(path, largest_file(arch), choice) as tensors:
        if tensors.definition is None:
            return Converted(arch, to_variables(table, arch, tensors), None, tensors.notices)
        with naming(path):
            model = keras_model.adapt(arch, table, tensors.definition, tensors)
        if model.arch.head_hidden or model.arch.head_sigmoid:
            table = table._replace(rules=(*keras_model.head_rules(), *table.rules))
        table = table._replace(head=(*table.head, "hidden_*"))
        variables = to_variables(table, model.arch, model.tensors)
        with naming(path):
            model.check(variables)
        return Converted(model.arch, variables, model.normalization, tensors.notices)


def largest_file(arch: Arch) -> int:
    """Return the maximum bytes of a file of the network's weights, which may include an optimizer's state."""
    size = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_variables(arch)))
    return 4 * size + 2**26


def save_weights(arch: Arch, variables: Variables, source: str, path: Path) -> None:
    """Write a state dict as safetensors with the names of ``source``; `load_weights` restores the same bits."""
    target = source_of(arch, source)
    if not target.writes:
        raise UserError(f"weights cannot be written for {source}; choose torchvision, timm or cifar")
    if path.suffix != ".safetensors" or path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path} cannot be written; give a name that ends in .safetensors, in an existing folder")
    if arch.dtype == "float64":
        raise UserError(f"{path} cannot be written: model.dtype is 'float64'; it must be 'float32' or 'bfloat16'")
    check_variables(arch, variables)
    write_safetensors(path, from_variables(target.table, variables))
