"""Checksums by which the published IDX files are recognized."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnnjax.data.idx import idx_bytes
from cnnjax.errors import UserError, listed

CONTENTS: dict[str, Mapping[str, str]] = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }
}
"""sha256 of the unpacked files, by data set."""
PACKED: dict[str, Mapping[str, str]] = {
    "kmnist": {
        "train-images-idx3-ubyte": "bdb82020997e1d708af4cf47b453dcf7",
        "train-labels-idx1-ubyte": "e144d726b3acfaa3e44228e80efcd344",
        "t10k-images-idx3-ubyte": "5c965bf0a639b31b8f53240b1b52f4d7",
        "t10k-labels-idx1-ubyte": "7320c461ea6c1c855c0b718fb2a4b134",
    }
}
"""MD5 of the .gz files, of data sets whose unpacked files have no published checksum."""


def check_published(name: str, paths: Mapping[str, Path], arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return a sentence if the IDX files of a data set are not the published ones, or cannot be compared with them.

    Args:
        name: name of the data set.
        paths: the four files by their published names.
        arrays: their contents, uint8.

    Raises:
        UserError: they are the published files of another data set.
    """
    digests = {stem: hashlib.sha256(idx_bytes(array)).hexdigest() for stem, array in arrays.items()}
    for other, published in CONTENTS.items():
        if digests == published and other != name:
            raise UserError(
                f"the files given for {name} are those of {other}; use --data.source {other}, or give other files"
            )
    if name in CONTENTS:
        unknown = [paths[stem] for stem, digest in CONTENTS[name].items() if digests[stem] != digest]
    elif name in PACKED:
        if any(path.suffix != ".gz" for path in paths.values()):
            return (f"the files of {name} were not compared with the published ones, whose checksums are of .gz files",)
        unknown = [paths[stem] for stem, digest in PACKED[name].items() if _md5(paths[stem]) != digest]
    else:
        unknown = []
    return (f"files of {name} that are not the published ones: {listed(map(str, unknown))}",) if unknown else ()


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
