"""Write cnnjax/pretrained.csv, the registry of published weights, from the tables in other libraries.

    python tests/oracle/registry.py --write

torchvision, timm and Keras state addresses, hashes, licenses and preprocessing in their packages; torchvision also
states accuracies and sizes. stated_accuracy.csv holds the accuracies that Keras, timm and the CIFAR networks state
elsewhere, with their sources. Rows of cnnjax's own networks are kept as they are.
"""

import csv
import inspect
import io
import re
import sys
from pathlib import Path

from keras_peer import keras  # it selects the backend of Keras
from peers import timm, torchvision

from cnnjax import create, list_models
from cnnjax.convert import source_of
from cnnjax.errors import UserError
from cnnjax.pretrained import COLUMNS, TABLE

from keras.src import applications as keras_applications  # isort: skip

KERAS_RESNETS = {
    "resnet50_v1": "resnet50", "resnet101_v1": "resnet101", "resnet152_v1": "resnet152",
    "resnet50_v2": "resnet50v2", "resnet101_v2": "resnet101v2", "resnet152_v2": "resnet152v2",
}  # fmt: skip
KERAS_OTHERS = {"vgg16": "VGG16", "vgg19": "VGG19", "inception_v3_keras": "InceptionV3", "xception": "Xception"}
TIMM_NAMES = {
    "regnet_x_400mf_pycls": "regnetx_004", "regnet_y_800mf_pycls": "regnety_008", "regnet_y_8gf_pycls": "regnety_080",
}  # fmt: skip
TRANSFORM_INPUT = ("googlenet", "inception_v3")
"""Networks of torchvision whose pretrained weights imply ``transform_input``: their layers see values in [-1, 1]."""
NORMALIZATIONS = {
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)): "imagenet",
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)): "symmetric",
}
CIFAR = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models"
CIFAR_FILES = {
    20: "resnet20-12fca82f.th", 32: "resnet32.th", 44: "resnet44-014dd654.th", 56: "resnet56.th",
    110: "resnet110.th",
}  # fmt: skip
LICENSES = {"https://github.com/facebookresearch/SWAG/blob/main/LICENSE": "cc-by-nc-4.0", None: "bsd-3-clause"}
"""License that torchvision's description of the package states for SWAG, and torchvision's own for the others."""


def published_hash(address: str) -> str:
    """Return the start of the sha256 that torch and timm put at the end of a file's name."""
    match = re.search(r"-([0-9a-f]{8,})\.(?:pth|th)$", address)
    return f"sha256:{match[1]}" if match else ""


def torchvision_rows():
    for name in set(torchvision.models.list_models(torchvision.models)) & set(list_models()):
        for weights in torchvision.models.get_model_weights(name):
            stated, chain = weights.meta["_metrics"]["ImageNet-1K"], weights.transforms()
            if stated["acc@1"] != stated["acc@1"]:  # weights without a classifier
                continue
            normalization = NORMALIZATIONS[tuple(chain.mean), tuple(chain.std)]
            yield {
                "name": f"{name}.tv_{weights.name.lower().replace('imagenet1k', 'in1k')}",
                "source": "torchvision",
                "weights": weights.name,
                "address": weights.url,
                "hash": published_hash(weights.url),
                "size_mib": weights.meta["_file_size"],
                "license": LICENSES[weights.meta.get("license")],
                "data": "imagenet",
                "top1": stated["acc@1"],
                "top5": stated["acc@5"],
                "input_size": chain.crop_size[0],
                "resize": chain.resize_size[0],
                "interpolation": chain.interpolation.value,
                "normalization": "symmetric" if name in TRANSFORM_INPUT else normalization,
            }


def timm_rows():
    for name in list_models():
        try:
            source_of(create(name), "timm")
        except UserError:
            continue
        for tagged in timm.models.list_pretrained(f"{TIMM_NAMES.get(name, name)}.*"):
            entry = timm.models.get_pretrained_cfg(tagged)
            if entry.num_classes != 1000:
                continue
            assert entry.crop_mode == "center"
            crop = entry.test_crop_pct or entry.crop_pct
            size = (entry.test_input_size or entry.input_size)[1]
            address = entry.url or f"https://huggingface.co/{entry.hf_hub_id}/resolve/main/model.safetensors"
            yield {
                "name": f"{name}.{entry.tag}",
                "source": "timm",
                "weights": tagged,
                "address": address,
                "hash": published_hash(address),
                "license": entry.license,
                "data": "imagenet",
                "input_size": size,
                "resize": int(size / crop),
                "interpolation": entry.interpolation,
                "normalization": NORMALIZATIONS[entry.mean, entry.std],
            }


def keras_rows():
    resnet = keras_applications.resnet
    for name, file in KERAS_RESNETS.items():
        address = f"{resnet.BASE_WEIGHTS_PATH}{file}_weights_tf_dim_ordering_tf_kernels.h5"
        yield keras_row(name, address, resnet.WEIGHTS_HASHES[file][0])
    for name, function in KERAS_OTHERS.items():
        module = getattr(keras_applications, name.removesuffix("_keras"))
        with_top = r"WEIGHTS_PATH,\s+cache_subdir=\"models\",\s+file_hash=\"([0-9a-f]{32})\""
        yield keras_row(name, module.WEIGHTS_PATH, re.search(with_top, inspect.getsource(getattr(module, function)))[1])


def keras_row(name: str, address: str, md5: str) -> dict:
    mode = "tf" if name in ("xception", "inception_v3_keras") or name.endswith("_v2") else "caffe"
    return {
        "name": f"{name}.keras_in1k",
        "source": "keras",
        "weights": "imagenet",
        "address": address,
        "hash": f"md5:{md5}",
        "license": "apache-2.0",
        "data": "imagenet",
        "input_size": create(name).input_size,
        "resize": "exact",
        "interpolation": inspect.signature(keras.utils.load_img).parameters["interpolation"].default,
        "normalization": {"tf": "symmetric", "caffe": "caffe"}[mode],
    }


def cifar_rows():
    for depth, file in CIFAR_FILES.items():
        yield {
            "name": f"resnet{depth}_cifar.akamaster_cifar10",
            "source": "cifar",
            "weights": f"resnet{depth}",
            "address": f"{CIFAR}/{file}",
            "hash": published_hash(file),
            "license": "bsd-2-clause",
            "data": "cifar10",
            "input_size": 32,
            "resize": "exact",
            "interpolation": "bilinear",
            "normalization": "imagenet",
        }


def table() -> str:
    """Return the content of cnnjax/pretrained.csv."""
    stated_file = Path(__file__).with_name("stated_accuracy.csv")
    stated = {row.pop("name"): row for row in csv.DictReader(io.StringIO(stated_file.read_text()))}
    rows = [*torchvision_rows(), *timm_rows(), *keras_rows(), *cifar_rows()]
    assert stated.keys() <= {row["name"] for row in rows}
    for row in rows:
        row |= {key: value for key, value in stated.get(row["name"], {}).items() if key in COLUMNS and value}
    with TABLE.open(newline="") as file:
        rows += [row for row in csv.DictReader(file) if row["source"] == "cnnjax"]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["name"]))
    return text.getvalue()


if __name__ == "__main__":
    if "--write" in sys.argv:
        TABLE.write_text(table())
    else:
        print(table(), end="")
