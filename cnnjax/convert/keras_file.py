"""Keras's weights, read by h5py as data: legacy ``.h5`` (of a model or its weights), ``.weights.h5``, and ``.keras``.

Every tensor is named ``LAYER/VARIABLE``, such as ``conv1_conv/kernel``, whichever of the three holds it. Layers defined
in the file, such as a Lambda, are not looked at.
"""

import contextlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from cnnjax.convert.tensors import GET_AGAIN, Shape, Tensors
from cnnjax.errors import UserError
from cnnjax.system.archives import open_zip

VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
"""A layer's variables in the order in which Keras numbers them, by the kind of layer."""
UNNAMED = re.compile(r"(conv2d|batch_normalization)(?:_(\d+))?")
"""Names that Keras gives to layers without one, numbered over all networks of a process."""
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
WEIGHTS = "model.weights.h5"
LARGEST_CONFIG = 4 * 2**20
MOST_OBJECTS = 100_000
"""Groups and data sets in a file; the largest networks and their optimizers' state have some thousand."""


@contextlib.contextmanager
def open_archive(path: Path, largest: int) -> Iterator[Tensors]:
    """Open a ``.keras`` archive; only its configuration's names and its weights are read, in memory."""
    with open_zip(path) as held:
        if WEIGHTS not in held.members:
            raise UserError(f"{path} lacks {WEIGHTS}; {GET_AGAIN}")
        weights = io.BytesIO(held.read(WEIGHTS, largest))
        names = _layer_names(json.loads(held.read("config.json", LARGEST_CONFIG)))
    if not weights.getbuffer()[: len(HDF5_MAGIC)] == HDF5_MAGIC:
        raise UserError(f"{path} is damaged: its {WEIGHTS} is not an HDF5 file; {GET_AGAIN}")
    with h5py.File(weights, "r") as file:
        yield _tensors(path, file, names)


@contextlib.contextmanager
def open_h5(path: Path, largest: int) -> Iterator[Tensors]:
    """Open an HDF5 file of either layout."""
    with h5py.File(path, "r", locking=False) as file:
        yield _tensors(path, file, {})


def _tensors(path: Path, file: h5py.File, names: dict[str, str]) -> Tensors:
    datasets: dict[str, h5py.Dataset] = {}
    for place, dataset in _datasets(path, file, "", set()):
        if place.startswith("optimizer"):  # a trained model's file keeps its optimizer's state beside the weights
            continue
        name = _keras3_name(path, file, place, names) if "/vars/" in place else _legacy_name(place)
        if name in datasets:
            raise UserError(f"{path} holds {name} twice; {GET_AGAIN}")
        datasets[name] = dataset
    datasets = _renumber(datasets)
    shapes = {name: Shape(dataset.shape, str(dataset.dtype)) for name, dataset in datasets.items()}
    return Tensors(path, shapes, lambda name: datasets[name][()])


def _renumber(datasets: dict[str, h5py.Dataset]) -> dict[str, h5py.Dataset]:
    """Number the unnamed layers of each kind from 0, as in the first network of a process."""
    layers = {name.rpartition("/")[0] for name in datasets}
    names: dict[str, str] = {}
    for kind in VARIABLES:
        matches = (match for layer in layers if (match := UNNAMED.fullmatch(layer)) and match[1] == kind)
        for count, match in enumerate(sorted(matches, key=lambda match: int(match[2] or 0))):
            names[match[0]] = f"{kind}_{count}" if count else kind
    renamed = {}
    for name, dataset in datasets.items():
        layer, _, variable = name.rpartition("/")
        renamed[f"{names.get(layer, layer)}/{variable}"] = dataset
    return renamed


def _datasets(path: Path, group: h5py.Group, prefix: str, met: set[int]) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield every data set with its place; a link that leads elsewhere, or back, is refused before it is followed."""
    for key in group:
        place = f"{prefix}{key}"
        link = group.get(key, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise UserError(f"{path}: {place} is a {type(link).__name__}, which points elsewhere; it was not followed")
        item = group[key]
        address = h5py.h5o.get_info(item.id).addr
        if address in met:
            raise UserError(f"{path}: {place} is a second name for another object in the file; {GET_AGAIN}")
        met.add(address)
        if len(met) > MOST_OBJECTS:
            raise UserError(f"{path} holds more than {MOST_OBJECTS:,} groups and data sets; {GET_AGAIN}")
        if isinstance(item, h5py.Group):
            yield from _datasets(path, item, f"{place}/", met)
        elif isinstance(item, h5py.Dataset):
            if item.is_virtual or item.external:
                raise UserError(f"{path}: {place} stores its values in another file; it was not read")
            if item.id.get_create_plist().get_nfilters():  # it would unpack without a bound
                raise UserError(f"{path}: {place} is compressed, which Keras does not do; save it without compression")
            if item.size and not item.id.get_storage_size():
                raise UserError(f"{path}: the values of {place} were never written; {GET_AGAIN}")
            yield place, item


def _legacy_name(place: str) -> str:
    """Turn ``conv1_conv/conv1_conv/kernel:0`` into ``conv1_conv/kernel``; a whole model has them one group deeper."""
    parts = place.removeprefix("model_weights/").split("/")
    return f"{parts[0]}/{parts[-1].partition(':')[0]}"


def _keras3_name(path: Path, file: h5py.File, place: str, names: dict[str, str]) -> str:
    """Turn ``layers/conv2d_3/vars/0`` into ``conv2_block1_2_conv/kernel``.

    The file numbers layers by their kind; it says their names itself, or the archive's configuration does.
    """
    numbered, _, number = place.rpartition("/vars/")
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
    known = number.isdecimal() and int(number) < len(variables)
    return f"{name}/{variables[int(number)] if known else number}"


def _layer_names(config: Any) -> dict[str, str]:
    """Return the layers' names by where their weights lie, from a functional model's configuration."""
    layers = config.get("config", {}).get("layers", []) if isinstance(config, dict) else []
    counts: dict[str, int] = {}
    names = {}
    for layer in layers:
        kind = _snake_case(layer["class_name"])
        count = counts.get(kind, 0)
        counts[kind] = count + 1
        names[f"layers/{kind}_{count}" if count else f"layers/{kind}"] = layer["config"]["name"]
    return names


def _snake_case(name: str) -> str:
    """Turn ``BatchNormalization`` into ``batch_normalization`` and ``Conv2D`` into ``conv2d``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", name).lower()
