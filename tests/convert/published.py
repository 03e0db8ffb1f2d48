"""Small networks in the layouts of published files, written by hand."""

import re
import zipfile
from pathlib import Path

import h5py
import jax
import numpy as np

from cnnjax import create, init
from cnnjax.convert import source_of
from cnnjax.convert.rules import from_variables
from cnnjax.files import json_bytes

TINY = {"depths": (1, 2), "width": 8, "num_classes": 5, "input_size": 32}
TORCH, KERAS_V1, KERAS_V2 = (create(name, **TINY) for name in ("resnet18", "resnet50_v1", "resnet50_v2"))
KINDS = {"kernel": "Conv2D", "gamma": "BatchNormalization"}


def tensors_of(arch, source, seed=0) -> dict[str, np.ndarray]:
    """Return random tensors by the names of a source."""
    return from_variables(source_of(arch, source).table, init(arch, jax.random.key(seed)))


def by_layer(tensors) -> dict[str, dict[str, np.ndarray]]:
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in tensors.items():
        layer, variable = name.split("/")
        layers.setdefault(layer, {})[variable] = array
    return layers


def write_legacy_h5(path: Path, tensors) -> Path:
    """Write Keras 2's layout: ``conv1_conv/conv1_conv/kernel:0``."""
    with h5py.File(path, "w") as file:
        for name, array in tensors.items():
            file[f"{name.split('/')[0]}/{name}:0"] = array
    return path


def write_keras3_h5(path: Path, tensors, named: bool = True) -> list[dict]:
    """Write Keras 3's layout: ``layers/conv2d_1/vars/0``; return the layers' entries of a configuration."""
    order = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    entries, counts = [], {}
    with h5py.File(path, "w") as file:
        for layer, variables in by_layer(tensors).items():
            kind = "Dense" if layer == "predictions" else KINDS["gamma" if "gamma" in variables else "kernel"]
            numbered = re.sub("(?<=[a-z])(?=[A-Z])", "_", kind).lower().replace("conv2_d", "conv2d")
            count = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"layers/{numbered}{f'_{count}' if count else ''}/vars")
            if named:
                group.attrs["name"] = layer
            for number, variable in enumerate(sorted(variables, key=order.index)):
                group[str(number)] = variables[variable]
            entries.append({"class_name": kind, "config": {"name": layer}})
    return entries


def write_keras(path: Path, tensors, named: bool = True, extra_layers=()) -> Path:
    """Write a ``.keras`` archive."""
    weights = path.with_suffix(".weights.h5")
    layers = [*write_keras3_h5(weights, tensors, named), *extra_layers]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json_bytes({"class_name": "Functional", "config": {"layers": layers}}))
        archive.write(weights, "model.weights.h5")
    return path
