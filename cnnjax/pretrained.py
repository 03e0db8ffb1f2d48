"""Registry of published weights: where they are, their hash, license, preprocessing and published accuracy.

The table is in pretrained.csv, one row per set of weights. `tests/oracle/registry.py` writes it from the tables in
torchvision, timm and Keras. Top-1 and top-5 are in percent, as the publisher states them: on ImageNet's 50,000
validation images (single crop), on CIFAR-10's test images, or on the test images that a model card names.
"""

import csv
import fnmatch
import functools
from pathlib import Path
from typing import NamedTuple

from cnnjax.errors import choose

TABLE = Path(__file__).with_name("pretrained.csv")
COLUMNS = (
    "name", "source", "weights", "address", "hash", "size_mib", "license", "data", "top1", "top5", "input_size",
    "resize", "interpolation", "normalization",
)  # fmt: skip
OWN = "cnnjax"
"""Source of the networks that are part of the package."""


class Published(NamedTuple):
    """One set of published weights for a variant."""

    name: str
    """Variant and tag, such as ``resnet50.tv_in1k_v2``."""
    source: str
    """Publisher whose names the file uses; see `cnnjax.convert`. ``cnnjax`` for a network in the package."""
    weights: str
    """The publisher's name of the weights."""
    address: str
    """Address of the file; empty for a network in the package."""
    hash: str
    """Published hash of the file: ``sha256:`` and its first digits, ``md5:`` and all digits, or empty."""
    size_mib: float | None
    """Published size of the file in MiB."""
    license: str
    """License of the weights, or of the library that publishes them if it states no other."""
    data: str
    """Data set of the classes: imagenet, cifar10 or fashion_mnist."""
    top1: float | None
    top5: float | None
    input_size: int
    """Height and width of the images, in pixels, for which the accuracy is stated."""
    resize: int | None
    """Length of the short side before the center crop; None: resize to the input size, whatever the aspect ratio."""
    interpolation: str
    normalization: str
    """Name in `cnnjax.convert.sources.NORMALIZATIONS`."""

    @property
    def variant(self) -> str:
        return self.name.partition(".")[0]

    @property
    def file_name(self) -> str:
        return self.address.rpartition("/")[2]


@functools.cache
def registry() -> dict[str, Published]:
    """Return all published weights by name."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {row["name"]: _published(row) for row in csv.DictReader(file)}


def _published(row: dict[str, str]) -> Published:
    numbers = {name: float(row[name]) if row[name] else None for name in ("size_mib", "top1", "top5")}
    resize = None if row["resize"] == "exact" else int(row["resize"])
    return Published(**{**row, **numbers, "input_size": int(row["input_size"]), "resize": resize})  # type: ignore[arg-type]


def find(name: str) -> Published:
    """Return the published weights of that name; raise UserError with near matches if it is unknown."""
    return registry()[choose("pretrained network", name, registry())]


def list_pretrained(pattern: str = "*") -> list[str]:
    """Return the names that match a shell pattern, which may leave out the tag: ``resnet50`` or ``resnet50.tv*``."""
    names = list(registry())
    return sorted({*fnmatch.filter(names, pattern), *fnmatch.filter(names, f"{pattern}.*")})
