"""Published weights to `Variables` and back: torchvision, timm, Keras, and the CIFAR networks of their paper.

A converter is a `rules.Table`; one file per family holds its tables, and `_FAMILIES` names the files.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from cnnjax.convert import alexnet, googlenet, regnet, resnet, vgg, xception
from cnnjax.convert.rules import from_variables, to_variables
from cnnjax.convert.safetensors_file import write_safetensors
from cnnjax.convert.sources import Normalization, Source
from cnnjax.convert.weight_files import open_tensors
from cnnjax.errors import UserError, choose
from cnnjax.functional import Variables, abstract_variables, check_variables
from cnnjax.models.layers import Arch

__all__ = ["Normalization", "Source", "load_weights", "save_weights", "source_of"]

_FAMILIES: dict[str, Callable[[Any], dict[str, Source]]] = {
    "alexnet": alexnet.sources, "vgg": vgg.sources, "googlenet": googlenet.sources, "resnet": resnet.sources,
    "regnet": regnet.sources, "xception": xception.sources,
}  # fmt: skip


def source_of(arch: Arch, name: str) -> Source:
    """Return what is known of a publisher of weights for this form of network, such as ``"torchvision"``."""
    if arch.family not in _FAMILIES:
        raise UserError(f"no published weights of the family {arch.family!r} can be converted")
    sources = _FAMILIES[arch.family](arch)
    if not sources:
        raise UserError(f"no published weights of this form of {arch.family!r} can be converted")
    return sources[choose("source", name, sources)]


def load_weights(arch: Arch, source: str, path: Path) -> Variables:
    """Return the variables in a file of published weights; strict both ways, and the same for every kind of file.

    Args:
        arch: the network as it was published; its activation, epsilon and other numbers are not in such files.
        source: whose names the file uses: ``"torchvision"``, ``"timm"``, ``"keras"``, ``"cifar"``.
        path: torch's .pth, safetensors, or Keras's .h5, .weights.h5 or .keras.

    Raises:
        UserError: the file cannot be read, or it does not hold just this network.
    """
    table = source_of(arch, source).table
    size = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_variables(arch)))
    with open_tensors(path, largest=4 * size + 2**26) as tensors:  # an optimizer's state may lie beside the weights
        return to_variables(table, arch, tensors)


def save_weights(arch: Arch, variables: Variables, source: str, path: Path) -> None:
    """Write a state dict as safetensors under the names of ``source``; `load_weights` reads the same bits again."""
    target = source_of(arch, source)
    if not target.writes:
        raise UserError(f"weights cannot be written for {source}; they can for torchvision, timm and cifar")
    if path.suffix != ".safetensors" or path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path} cannot be written; give a name that ends in .safetensors, in a folder that is there")
    if arch.dtype == "float64":
        raise UserError(f"{path} cannot be written: model.dtype is 'float64', and weight files hold float32 here")
    check_variables(arch, variables)
    write_safetensors(path, from_variables(target.table, variables))
