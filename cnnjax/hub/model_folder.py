"""A network as a folder in the layout of the Hugging Face hub.

    model.safetensors    parameters and batch statistics by path: params/stem/conv/kernel, batch_stats/stem/norm/mean
    config.json          format, sha256 of the weights, definition of the network, class names, preprocessing, and the
                         record of its training
    README.md            the model card

Files from the hub are untrusted: they are read as data and checked before any array is read.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.convert import largest_file
from cnnjax.convert.safetensors_file import write_safetensors
from cnnjax.convert.weight_files import open_tensors
from cnnjax.errors import UserError, listed, quoted
from cnnjax.functional import Variables, abstract_variables, leaves_by_path
from cnnjax.models.layers import Arch
from cnnjax.runs.predictor import Predictor, describe_info
from cnnjax.system import formats
from cnnjax.system.files import new_folder, read_json, require_empty, sha256, write_bytes, write_json

FORMAT = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
DIGEST = "weights_sha256"
"""Entry of config.json."""


def write(folder: Path, network: Predictor, card: str, record: Mapping[str, Any]) -> None:
    """Write a network as ``folder``, atomically; ``record`` is added to config.json.

    Raises:
        UserError: the folder exists and is not empty.
    """
    require_empty(folder)
    with new_folder(folder) as temporary:
        write_safetensors(temporary / WEIGHTS, tensors_of(network))
        config = {
            **formats.written(FORMAT),
            DIGEST: sha256(temporary / WEIGHTS),
            "model": network.arch.to_dict(),
            "classes": list(network.classes),
            "preprocessing": network.preprocessing.to_dict(),
            **({"data": network.data} if network.data else {}),
        }
        write_json(temporary / CONFIG, {**config, **record})
        write_bytes(temporary / CARD, card.encode())


def tensors_of(network: Predictor) -> dict[str, np.ndarray]:
    """Return the variables of a network by path, such as params/stem/conv/kernel."""
    return {path: np.asarray(leaf) for path, leaf in leaves_by_path(network.variables._asdict()).items()}


def read(folder: Path, prepare: Callable[[Arch], None] = lambda arch: None) -> Predictor:
    """Read a network written by `write`, bit for bit. ``prepare`` is called with its definition first.

    Raises:
        UserError: a file is missing or damaged, or the tensors do not fit the definition.
    """
    config = read_json(folder / CONFIG)
    formats.check(str(folder / CONFIG), config, FORMAT)
    described = describe_info(folder / CONFIG, config)
    prepare(described.arch)
    _check_weights(folder / WEIGHTS, config.get(DIGEST))
    expected = abstract_variables(described.arch)._asdict()
    arrays = _read_arrays(folder / WEIGHTS, leaves_by_path(expected), largest_file(described.arch))
    leaves = [arrays[path] for path in leaves_by_path(expected)]
    variables = Variables(**jax.tree.unflatten(jax.tree.structure(expected), leaves))
    return Predictor(described.arch, variables, described.classes, described.preprocessing, folder, described.data)


def _check_weights(path: Path, digest: object) -> None:
    """Raise UserError unless the file can be read and has this sha256."""
    try:
        found = sha256(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the folder") from error
    if found != digest:
        raise UserError(
            f"{path} has the sha256 {found[:12]}, and {CONFIG} states {quoted(digest)}; get the folder again"
        )


def _read_arrays(path: Path, expected: Mapping[str, jax.ShapeDtypeStruct], largest: int) -> dict[str, np.ndarray]:
    """Return the tensors of a file, which must have exactly the expected names, shapes and types."""
    with open_tensors(path, largest) as tensors:
        wrong = sorted(tensors.shapes.keys() ^ expected.keys())
        wrong += [
            name for name, leaf in expected.items()
            if name in tensors.shapes and tensors.shapes[name] != (leaf.shape, str(leaf.dtype))
        ]  # fmt: skip
        if wrong:
            raise UserError(
                f"{path} does not fit the network in {CONFIG}: missing, unexpected or of another shape or type: "
                f"{listed(wrong, 3)}; get the folder again"
            )
        return {name: tensors.read(name) for name in expected}
