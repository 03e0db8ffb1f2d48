"""Checks of the files of a prepared tensorflow-datasets data set, before tensorflow-datasets reads any of them.

The files are untrusted. `features.json` names the Python classes that tensorflow-datasets imports and creates,
`dataset_info.json` may hold the same and a format string for file names, and a record may unpack to far more bytes than
its file has.
"""

import os
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

from array_record.python.array_record_module import ArrayRecordReader

from cnnjax.errors import UserError, printable, quoted
from cnnjax.system import signals
from cnnjax.system.files import open_plain, plain_files, read_json

PARTS = ("train", "test")
FEATURES = {
    "features_dict.FeaturesDict": "featuresDict",
    "image_feature.Image": "image",
    "class_label_feature.ClassLabel": "classLabel",
    "text_feature.Text": "text",
    "tensor_feature.Tensor": "tensor",
    "scalar.Scalar": "tensor",
    "bounding_boxes.BBoxFeature": "boundingBox",
}
"""Classes of `tensorflow_datasets.core.features` that a data set may use, and the key of their content."""
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "string",
)  # fmt: skip
"""Types of values in a feature; others make tensorflow-datasets import TensorFlow."""
INFO_KEYS = frozenset({
    "alternativeFileFormats", "citation", "configDescription", "configName", "configTags", "dataSourceAccesses",
    "description", "disableShuffling", "downloadChecksums", "downloadSize", "fileFormat", "isBlocked", "location",
    "moduleName", "name", "nondeterministicOrder", "redistributionInfo", "releaseNotes", "schema", "sizeInBytes",
    "splits", "supervisedKeys", "version",
})  # fmt: skip
"""Keys of `dataset_info.json`; without ``features``, which would name classes too."""
SPLIT_KEYS = frozenset({"name", "numShards", "shardLengths", "numBytes", "statistics", "filepathTemplate"})
SHARD_NAME = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
"""The only template of shard names that is accepted: it becomes a Python format string."""
MOST_CLASSES = 131_072
MOST_METADATA_BYTES = 2**24
MOST_CHUNK_BYTES = 2**27
"""Maximum bytes of a chunk of records, unpacked."""


class ImageSpec(NamedTuple):
    """Declared form of the images and labels."""

    height: int | None
    """In pixels, or None if the metadata does not give it."""
    width: int | None
    channels: int
    """1 for grayscale, 3 for RGB."""
    num_classes: int


def check_folder(folder: Path) -> None:
    """Raise UserError if a prepared data set holds a link, a pipe or a metadata file of more than 16 MiB."""
    for path in plain_files(folder):
        is_shard = re.search(r"\.array_record-\d+-of-\d+\Z", path.name)
        if not is_shard and path.stat().st_size > MOST_METADATA_BYTES:
            raise UserError(
                f"{path} has {path.stat().st_size:,} bytes; a metadata file may have at most {MOST_METADATA_BYTES:,}"
            )


def read_splits(folder: Path, name: str, config: str, version: str) -> dict[str, list[int]]:
    """Return the number of records in each shard of ``train`` and ``test``, as `dataset_info.json` gives them.

    Raises:
        UserError: the file is malformed, describes another data set or another format, or lacks a split.
    """
    path = folder / "dataset_info.json"
    info = _object(read_json(path), path, INFO_KEYS)
    for key, expected in (("name", name), ("configName", config), ("version", version)):
        if info.get(key, "") != expected:
            raise UserError(f"{path}: {key} is {quoted(info.get(key, ''))}; its folder says {expected!r}")
    if (file_format := info.get("fileFormat", "tfrecord")) != "array_record":
        raise UserError(
            f"{folder} holds {quoted(file_format)} files; only array_record is read without TensorFlow, so prepare it "
            f"again with `scripts/data.py prepare tfds:{name}`"
        )
    splits: dict[str, list[int]] = {}
    for split in _list(info.get("splits", []), path):
        split = _object(split, path, SPLIT_KEYS)
        if split.get("filepathTemplate", SHARD_NAME) != SHARD_NAME:
            raise UserError(f"{path}: filepathTemplate is {quoted(split['filepathTemplate'])}; it must be {SHARD_NAME}")
        title = str(split.get("name", ""))[:100]
        if title in splits:
            raise UserError(f"{path} describes the split {title!r} twice; prepare the data set again")
        splits[title] = [_count(length, path) for length in _list(split.get("shardLengths", []), path)]
    for part in PARTS:
        if not sum(splits.get(part, [])):
            have = ", ".join(map(repr, list(splits)[:10])) or "none"
            raise UserError(f"{folder} has no images in a split {part!r}; its splits are {have}, and both of "
                            f"{' and '.join(PARTS)} are needed")  # fmt: skip
    return {part: splits[part] for part in PARTS}


def read_image_spec(folder: Path) -> ImageSpec:
    """Check each feature of `features.json` and return the form of ``image`` and ``label``.

    Raises:
        UserError: a feature has a class that is not in `FEATURES`, or there are no images or no labels to train on.
    """
    path = folder / "features.json"
    root = read_json(path)
    _check_feature(root, path)
    features = root.get("featuresDict", {}).get("features", {})
    image, label = (features.get(key, {}) for key in ("image", "label"))
    if "image" not in image or "classLabel" not in label:
        have = ", ".join(quoted(key) for key in list(features)[:10]) or "none"
        raise UserError(f"{path} must have the features image (an Image) and label (a ClassLabel); it has {have}")
    content, num_classes = image["image"], _count(label["classLabel"].get("numClasses", 0), path)
    dimensions = _list(_object(content.get("shape", {}), path, {"dimensions"}).get("dimensions", []), path)
    shape = [None if size in (-1, "-1") else _count(size, path) for size in dimensions]
    channels = shape[2] if len(shape) == 3 else None
    if content.get("dtype") != "uint8" or (channels != 1 and channels != 3) or 0 in shape:
        raise UserError(
            f"{path}: the images are {quoted(content.get('dtype'))} {quoted(shape)}; they must be uint8 [height, "
            "width, 1 or 3]"
        )
    if not 1 <= num_classes <= MOST_CLASSES:
        raise UserError(f"{path}: numClasses is {num_classes:,}; it must be between 1 and {MOST_CLASSES:,}")
    return ImageSpec(shape[0], shape[1], channels, num_classes)


def read_class_names(folder: Path, num_classes: int) -> tuple[str, ...]:
    """Return the names in `label.labels.txt`, one per line, or the class numbers if there is no such file."""
    path = folder / "label.labels.txt"
    if not path.exists():
        return tuple(map(str, range(num_classes)))
    with open_plain(path) as file:
        lines = file.read(MOST_METADATA_BYTES).decode(errors="replace").split("\n")
    names = tuple(printable(line.strip()) for line in lines if line.strip())
    if len(set(names)) != len(names) or len(names) != num_classes:
        raise UserError(
            f"{path} has {len(names):,} names, {len(set(names)):,} of them distinct; features.json has {num_classes} "
            "classes, and each needs a name of its own"
        )
    return names


def check_shards(folder: Path, name: str, part: str, lengths: list[int]) -> int:
    """Check that each shard of a split exists, is complete, and holds the declared number of records.

    Returns:
        The bytes of the largest chunk of records, unpacked.

    Raises:
        UserError: a shard is missing, cut off, damaged, or exceeds the limit when unpacked.
    """
    largest = 0
    for index, length in enumerate(lengths):
        path = folder / f"{name}-{part}.array_record-{index:05d}-of-{len(lengths):05d}"
        if not path.is_file():
            raise UserError(f"{path} is missing; prepare the data set again")
        largest = max(largest, check_chunks(path))
        try:
            reader = ArrayRecordReader(str(path))
            count = reader.num_records()
            reader.close()
        except Exception as error:  # the library's own classes are not public
            raise UserError(f"{path} is damaged ({reason(error)}); prepare the data set again") from error
        if count != length:
            raise UserError(
                f"{path} holds {count:,} records and dataset_info.json says {length:,}; prepare the data set again"
            )
    return largest


def check_chunks(path: Path) -> int:
    """Check the chunk headers of an ArrayRecord file, without unpacking a chunk; return the largest's unpacked bytes.

    The layout is that of Riegeli/records (github.com/google/riegeli, doc/riegeli_records_file_format.md): chunks of a
    40-byte header and data, interrupted by a 24-byte block header at each multiple of 64 KiB.

    Raises:
        UserError: the file is cut off, or a chunk unpacks to more than `MOST_CHUNK_BYTES`.
    """
    with open_plain(path) as file:
        size, position, largest = os.fstat(file.fileno()).st_size, 0, 0
        while position < size:
            signals.poll()
            # The header is read with the block header that may lie in front of it or within it.
            file.seek(position)
            raw = file.read(_advance(position, _CHUNK_HEADER) - position)
            cut = -position % _BLOCK
            header = raw[:cut] + raw[cut + _BLOCK_HEADER :] if cut < len(raw) else raw
            if len(header) < _CHUNK_HEADER:
                break
            data_size, kind_and_records, unpacked = struct.unpack("<8xQ8xQQ", header)
            if unpacked > MOST_CHUNK_BYTES:
                raise UserError(
                    f"{path} has records that unpack to {unpacked:,} bytes; at most {MOST_CHUNK_BYTES:,} are allowed"
                )
            largest = max(largest, unpacked)
            # A chunk has at least as many bytes as records, and does not end within a block header.
            boundary = position + (kind_and_records >> 8)
            boundary += max(0, -boundary % _BLOCK - (_BLOCK - _BLOCK_HEADER - 1))
            position = max(_advance(position, _CHUNK_HEADER + data_size), boundary)
    if not size or position != size:
        raise UserError(f"{path} is truncated or not an ArrayRecord file; prepare the data set again")
    return largest


_BLOCK, _BLOCK_HEADER, _CHUNK_HEADER = 2**16, 24, 40


def _advance(position: int, count: int) -> int:
    """Return the position after the next ``count`` bytes of a chunk from ``position``, including block headers."""
    room = _BLOCK - _BLOCK_HEADER
    blocks = (count + (position + room - 1) % _BLOCK) // room
    return position + count + blocks * _BLOCK_HEADER


def _check_feature(feature: Any, path: Path) -> None:
    prefix = "tensorflow_datasets.core.features."
    name = feature.get("pythonClassName") if isinstance(feature, dict) else None
    key = FEATURES.get(name.removeprefix(prefix)) if isinstance(name, str) and name.startswith(prefix) else None
    if key is None:
        raise UserError(
            f"{path} has a feature of the class {quoted(name)}; the supported classes are "
            f"{', '.join(name.rpartition('.')[2] for name in FEATURES)} of tensorflow-datasets 4.9"
        )
    content = _object(feature, path, {"pythonClassName", "description", "valueRange", key}).get(key)
    content = _object(content, path, {"features"} if key == "featuresDict" else None)
    if key in ("image", "tensor", "boundingBox") and content.get("dtype") not in DTYPES:
        raise UserError(f"{path}: dtype is {quoted(content.get('dtype'))}; it must be one of {', '.join(DTYPES)}")
    if key == "featuresDict":
        for inner in _object(content.get("features", {}), path, None).values():
            _check_feature(inner, path)


def _object(value: Any, path: Path, keys: set[str] | frozenset[str] | None) -> dict[str, Any]:
    """Return a JSON object whose keys are all in ``keys``; None allows every key."""
    if not isinstance(value, dict):
        raise UserError(f"{path} has {quoted(value)} where an object is expected; prepare the data set again")
    if keys is not None and (other := sorted(value.keys() - keys)):
        raise UserError(f"{path} has the key {quoted(other[0])}, which tensorflow-datasets 4.9 does not write there")
    return value


def _list(value: Any, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{path} has {quoted(value)} where a list is expected; prepare the data set again")
    return value


def _count(value: Any, path: Path) -> int:
    """Return a count; protocol buffers write 64-bit integers as text in JSON."""
    if not (isinstance(value, int | str) and str(value).isascii() and str(value).isdigit() and len(str(value)) < 16):
        raise UserError(f"{path} has {quoted(value)} where a count should be; prepare the data set again")
    return int(value)


def reason(error: Exception) -> str:
    """Return the first words of another library's error, to quote in our own message."""
    return printable(" ".join(str(error).split()))[:120] or type(error).__name__
