"""Keras weight files, read with h5py as data: legacy ``.h5`` (a model or its weights), ``.weights.h5`` and ``.keras``.

In all three formats, tensors are named ``LAYER/VARIABLE``, such as ``conv1_conv/kernel``. The definition of a model in
the file is parsed as data, see `keras_definition`; nothing in it is executed.
"""

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from cnnjax.convert.keras_definition import parse_definition, renamed
from cnnjax.convert.tensors import GET_AGAIN, Shape, Tensors, naming
from cnnjax.errors import UserError
from cnnjax.system.archives import open_zip

VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "normalization": ("mean", "variance", "count"),
}
"""Variables of each kind of layer, in the order in which Keras numbers them."""
UNNAMED = re.compile(r"(conv2d|batch_normalization)(?:_(\d+))?")
"""Names that Keras gives to unnamed layers, numbered over all networks of a process."""
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
WEIGHTS = "model.weights.h5"
LARGEST_CONFIG = 4 * 2**20
MOST_OBJECTS = 100_000
"""Maximum groups and datasets in a file; the largest networks with optimizer state have a few thousand."""


@contextlib.contextmanager
def open_archive(path: Path, largest: int) -> Iterator[Tensors]:
    """Open a ``.keras`` archive; only the layer names and the weights are read, in memory."""
    with open_zip(path) as archive:
        if WEIGHTS not in archive.members:
            raise UserError(f"{path} lacks {WEIGHTS}; {GET_AGAIN}")
        weights = io.BytesIO(archive.read(WEIGHTS, largest))
        config = json.loads(archive.read("config.json", LARGEST_CONFIG))
    if not weights.getbuffer()[: len(HDF5_MAGIC)] == HDF5_MAGIC:
        raise UserError(f"{path} is damaged: its {WEIGHTS} is not an HDF5 file; {GET_AGAIN}")
    with h5py.File(weights, "r") as file:
        yield _tensors(path, file, config)


@contextlib.contextmanager
def open_h5(path: Path, largest: int) -> Iterator[Tensors]:
    """Open an HDF5 file of either layout."""
    with h5py.File(path, "r", locking=False) as file:
        yield _tensors(path, file, _model_config(path, file))


def _model_config(path: Path, file: h5py.File) -> Any:
    """Return the configuration of a whole model in the legacy format, or None for a file of weights."""
    if "model_config" not in file.attrs:
        return None
    if file.attrs.get_id("model_config").shape != ():
        raise UserError(f"{path}: its model_config is not text; {GET_AGAIN}")
    text = file.attrs["model_config"]
    if not isinstance(text, str | bytes) or len(text) > LARGEST_CONFIG:
        raise UserError(f"{path}: its model_config is not text of at most {LARGEST_CONFIG:,} bytes; {GET_AGAIN}")
    return json.loads(text)


def _tensors(path: Path, file: h5py.File, config: Any) -> Tensors:
    with naming(path):
        definition = parse_definition(config) if isinstance(config, dict) else None
    names = _layer_names(config)
    nested = frozenset(definition.layers) if definition else frozenset()
    datasets: dict[str, h5py.Dataset] = {}
    for location, dataset in _datasets(path, file, "", set()):
        if location.startswith("optimizer"):  # a trained model's file includes the optimizer's state
            continue
        name = _keras3_name(path, file, location, names) if "/vars/" in location else _legacy_name(location, nested)
        if name in datasets:
            raise UserError(f"{path} holds {name} twice; {GET_AGAIN}")
        datasets[name] = dataset
    renumbered = _renumber(datasets)
    datasets = {_renamed(name, renumbered): dataset for name, dataset in datasets.items()}
    if definition:
        definition = renamed(definition, renumbered)
    shapes = {name: Shape(dataset.shape, str(dataset.dtype)) for name, dataset in datasets.items()}
    return Tensors(path, shapes, lambda name: datasets[name][()], definition)


def _renumber(datasets: dict[str, h5py.Dataset]) -> dict[str, str]:
    """Return new names for the unnamed layers, which number each kind from 0, as in the first network of a process."""
    layers = {name.rpartition("/")[0] for name in datasets}
    names: dict[str, str] = {}
    for kind in VARIABLES:
        matches = (match for layer in layers if (match := UNNAMED.fullmatch(layer)) and match[1] == kind)
        for count, match in enumerate(sorted(matches, key=lambda match: int(match[2] or 0))):
            names[match[0]] = f"{kind}_{count}" if count else kind
    return names


def _renamed(name: str, layers: dict[str, str]) -> str:
    layer, _, variable = name.rpartition("/")
    return f"{layers.get(layer, layer)}/{variable}"


def _datasets(path: Path, group: h5py.Group, prefix: str, seen: set[int]) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield every dataset with its path in the file; links and cycles are rejected before they are followed."""
    for key in group:
        location = f"{prefix}{key}"
        link = group.get(key, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise UserError(f"{path}: {location} is a {type(link).__name__}, and links are not followed; {GET_AGAIN}")
        item = group[key]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise UserError(f"{path}: {location} is a second link to the same object; {GET_AGAIN}")
        seen.add(address)
        if len(seen) > MOST_OBJECTS:
            raise UserError(f"{path} holds more than {MOST_OBJECTS:,} groups and datasets; {GET_AGAIN}")
        if isinstance(item, h5py.Group):
            yield from _datasets(path, item, f"{location}/", seen)
        elif isinstance(item, h5py.Dataset):
            if item.is_virtual or item.external:
                raise UserError(
                    f"{path}: {location} stores its values in another file, which is not read; save them in one file"
                )
            if item.id.get_create_plist().get_nfilters():  # the unpacked size has no bound
                raise UserError(
                    f"{path}: {location} is compressed, which Keras does not do; save it without compression"
                )
            if item.size and not item.id.get_storage_size():
                raise UserError(f"{path}: the values of {location} were never written; {GET_AGAIN}")
            yield location, item


def _legacy_name(location: str, layers: frozenset[str]) -> str:
    """Turn ``conv1_conv/conv1_conv/kernel:0`` into ``conv1_conv/kernel``; in a whole model, it is one group deeper.

    The weights of a nested model are in one group; their layer is the last part of the path that is in ``layers``.
    """
    *groups, variable = location.removeprefix("model_weights/").split("/")
    layer = next((part for part in reversed(groups) if part in layers), groups[0] if groups else "")
    return f"{layer}/{variable.partition(':')[0]}"


def _keras3_name(path: Path, file: h5py.File, location: str, names: dict[str, str]) -> str:
    """Turn ``layers/conv2d_3/vars/0`` into ``conv2_block1_2_conv/kernel``.

    The file numbers layers by kind; their names are in the file or in the archive's configuration.
    """
    numbered, _, number = location.rpartition("/vars/")
    attributes = file[f"{numbered}/vars"].attrs
    named = "name" in attributes and attributes.get_id("name").shape == ()
    name = attributes["name"] if named else names.get(numbered)
    if not isinstance(name, str):
        raise UserError(
            f"{path} does not name its layers, such as {numbered}; save the model again with a newer Keras, or give "
            "the .keras archive"
        )
    kind = re.sub(r"_\d+$", "", numbered.rpartition("/")[2])
    variables = VARIABLES.get(kind, ())
    if kind == "batch_normalization" and len(file[f"{numbered}/vars"]) == len(variables) - 1:
        variables = variables[1:]  # a norm without gamma
    known = number.isdecimal() and int(number) < len(variables)
    return f"{name}/{variables[int(number)] if known else number}"


def _layer_names(config: Any, prefix: str = "") -> dict[str, str]:
    """Return the layer names by the path of their weights, from a model's configuration, nested models included."""
    layers = config.get("config", {}).get("layers", []) if isinstance(config, dict) else []
    counts: dict[str, int] = {}
    names = {}
    for layer in layers:
        kind = _snake_case(layer["class_name"])
        count = counts.get(kind, 0)
        counts[kind] = count + 1
        path = f"{prefix}layers/{kind}_{count}" if count else f"{prefix}layers/{kind}"
        names[path] = layer["config"]["name"]
        names |= _layer_names(layer, f"{path}/")
    return names


def _snake_case(name: str) -> str:
    """Turn ``BatchNormalization`` into ``batch_normalization`` and ``Conv2D`` into ``conv2d``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", name).lower()
