"""A network as a folder in the layout of the Hugging Face hub.

    model.safetensors    parameters and batch statistics by path: params/stem/conv/kernel, batch_stats/stem/norm/mean
    config.json          format, definition of the network, class names, preprocessing, and the record of its training
    README.md            the model card

Files from the hub are untrusted: they are read as data and checked before any array is read.
"""

import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.convert.safetensors_file import open_safetensors, write_safetensors
from cnnjax.errors import UserError, listed
from cnnjax.functional import Variables, abstract_variables, leaves_by_path
from cnnjax.models.layers import Arch
from cnnjax.runs.predictor import Predictor, describe_info
from cnnjax.system import formats
from cnnjax.system.files import (
    make_folder,
    open_plain,
    read_json,
    require_empty,
    sync_folder,
    sync_tree,
    write_bytes,
    write_json,
)  # fmt: skip

FORMAT = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def write(folder: Path, network: Predictor, card: str, record: Mapping[str, Any]) -> None:
    """Write a network as ``folder``, atomically; ``record`` is added to config.json.

    Raises:
        UserError: the folder exists and is not empty.
    """
    require_empty(folder)
    make_folder(folder.parent)
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        write_safetensors(temporary / WEIGHTS, tensors_of(network))
        data = {"data": network.data} if network.data else {}
        write_json(temporary / CONFIG, {
            **formats.written(FORMAT), "model": network.arch.to_dict(), "classes": list(network.classes),
            "preprocessing": network.preprocessing.to_dict(), **data, **record,
        })  # fmt: skip
        write_bytes(temporary / CARD, card.encode())
        sync_tree(temporary)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)


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
    expected = abstract_variables(described.arch)._asdict()
    arrays = _read_arrays(folder / WEIGHTS, leaves_by_path(expected))
    leaves = [arrays[path] for path in leaves_by_path(expected)]
    variables = Variables(**jax.tree.unflatten(jax.tree.structure(expected), leaves))
    return Predictor(described.arch, variables, described.classes, described.preprocessing, folder, described.data)


def _read_arrays(path: Path, expected: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Return the tensors of a file, which must have exactly the expected names, shapes and types."""
    try:
        open_plain(path).close()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the folder") from error
    with open_safetensors(path) as tensors:
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
