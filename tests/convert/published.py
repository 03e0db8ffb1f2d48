"""Small networks in the layouts of published files, written by hand."""

import json
import pickle
import re
import zipfile
from pathlib import Path

import h5py
import jax
import numpy as np

from cnnjax import create
from cnnjax.convert import source_of
from cnnjax.convert.rules import from_variables
from cnnjax.functional import abstract_variables
from cnnjax.system.files import json_bytes

TINY = {"depths": (1, 2), "width": 8, "num_classes": 5, "input_size": 32}
TORCH, KERAS_V1, KERAS_V2 = (create(name, **TINY) for name in ("resnet18", "resnet50_v1", "resnet50_v2"))


def tensors_of(arch, source, seed=0) -> dict[str, np.ndarray]:
    """Return random tensors under the names of a source. Vectors are positive, because variances must be."""
    rng = np.random.default_rng(seed)

    def drawn(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = rng.uniform(0.5, 1.5, leaf.shape) if leaf.ndim == 1 else rng.normal(0, 0.1, leaf.shape)
        return values.astype(leaf.dtype)

    return from_variables(source_of(arch, source).table, jax.tree.map(drawn, abstract_variables(arch)))


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


def keras_config(tensors) -> dict:
    """Return the configuration that Keras writes for the small ResNet with these tensors."""
    version = 2 if "conv2_block1_preact_bn/gamma" in tensors else 1
    return json.loads((Path(__file__).parent / f"keras_resnet_v{version}.json").read_text())


def with_last_layer(config: dict, kind: str, **settings) -> dict:
    """Return the configuration of a model with one more layer at its end."""
    before = {"class_name": "__keras_tensor__", "config": {"keras_history": config["config"]["output_layers"]}}
    layer = {
        "class_name": kind, "config": {"name": "last", **settings}, "inbound_nodes": [{"args": [before], "kwargs": {}}]
    }  # fmt: skip
    model = config["config"]
    return {**config, "config": {**model, "layers": [*model["layers"], layer], "output_layers": ["last", 0, 0]}}


def write_keras3_h5(path: Path, tensors, named: bool = True) -> None:
    """Write Keras 3's layout, ``layers/conv2d_1/vars/0``: layers are numbered by kind in the model's order."""
    order = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    layers, counts = by_layer(tensors), {}
    with h5py.File(path, "w") as file:
        for entry in keras_config(tensors)["config"]["layers"]:
            kind, layer = entry["class_name"], entry["config"]["name"]
            numbered = re.sub("(?<=[a-z])(?=[A-Z])", "_", kind).lower().replace("conv2_d", "conv2d")
            count = counts[kind] = counts.get(kind, -1) + 1
            group = file.create_group(f"layers/{numbered}{f'_{count}' if count else ''}/vars")
            if named:
                group.attrs["name"] = layer
            variables = layers.get(layer, {})
            for number, variable in enumerate(sorted(variables, key=order.index)):
                group[str(number)] = variables[variable]


def write_keras(path: Path, tensors, named: bool = True, config: dict | None = None) -> Path:
    """Write a ``.keras`` archive."""
    weights = path.with_suffix(".weights.h5")
    write_keras3_h5(weights, tensors, named)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json_bytes(config or keras_config(tensors)))
        archive.write(weights, "model.weights.h5")
    return path


def write_torch(path: Path, tensors, zipped: bool = True) -> Path:
    """Write float32 tensors as ``torch.save`` does: a zip, or the format before torch 1.6."""
    described = b"\x80\x02}(" + b"".join(_described(str(n), *item) for n, item in enumerate(tensors.items())) + b"u."
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", described)
            archive.writestr("archive/byteorder", b"little")
            for number, array in enumerate(tensors.values()):
                archive.writestr(f"archive/data/{number}", np.float32(array).tobytes())
            archive.writestr("archive/version", b"3\n")
        return path
    start = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    keys = [str(number) for number in range(len(tensors))]
    values = [array.size.to_bytes(8, "little") + np.float32(array).tobytes() for array in tensors.values()]
    path.write_bytes(b"".join([*(pickle.dumps(x, 2) for x in start), described, pickle.dumps(keys, 2), *values]))
    return path


def _described(key: str, name: str, array: np.ndarray) -> bytes:
    """Return the pickle instructions that torch writes for one entry of a state dict."""

    def text(value: str) -> bytes:
        return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()

    def numbers(values) -> bytes:
        return b"(" + b"".join(b"J" + int(value).to_bytes(4, "little") for value in values) + b"t"

    strides = [stride // array.itemsize for stride in np.empty(array.shape, array.dtype).strides]
    count = b"J" + array.size.to_bytes(4, "little")
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + count + b"tQ"
    view = storage + b"K\x00" + numbers(array.shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)R"
    return text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + b"tR"
