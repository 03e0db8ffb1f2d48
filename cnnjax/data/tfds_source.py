"""Data sets of tensorflow-datasets, ``tfds:NAME``, read without TensorFlow.

A data set must have been prepared before, as array_record: nothing is downloaded or prepared here. Importing this
module imports tensorflow-datasets, which takes half a second, so `sources` imports it only when a data set is loaded.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from cnnjax.data.dataset import Loaded, Split
from cnnjax.data.image_files import as_mode, check_file_size, decode_picture
from cnnjax.data.pixels import allocate_pixels, training_statistics
from cnnjax.data.preprocessing import Preprocessing, fit
from cnnjax.data.tfds_files import (
    PARTS,
    ImageSpec,
    check_folder,
    check_shards,
    read_class_names,
    read_image_spec,
    read_splits,
    reason,
)
from cnnjax.errors import UserError, near_matches
from cnnjax.system import signals

FORM = "tfds:NAME, tfds:NAME/CONFIG or tfds:NAME/CONFIG:VERSION, with a version such as 1.0.0"
NAME = re.compile(r"([a-z]\w{0,99})(?:/(\w[\w.+-]{0,99}))?(?::(\d{1,9}\.\d{1,9}\.\d{1,9}))?", re.ASCII | re.IGNORECASE)

MOST_AT_ONCE, BYTES_AT_ONCE = 256, 2**26
"""Maximum records, and maximum bytes, to read together, which is ten times as fast as reading them one by one."""


class Prepared(NamedTuple):
    """A prepared data set; sorts by config, then by version."""

    config: str
    """Empty if the data set has no configs."""
    numbers: tuple[int, ...]
    """Version as numbers, for comparison."""
    folder: Path


def load_tfds(name: str, roots: list[Path], geometry: Preprocessing | None = None) -> Loaded:
    """Load a prepared data set; mean and standard deviation are those of all its training images.

    The images are rotated according to their EXIF orientation. Only the splits ``train`` and ``test`` and the features
    ``image`` and ``label`` are read.

    Args:
        name: NAME, NAME/CONFIG or NAME/CONFIG:VERSION; without a version, the newest.
        roots: the folders to look in, each laid out NAME/VERSION or NAME/CONFIG/VERSION.
        geometry: resize and crop; None requires images of the same size.

    Raises:
        UserError: the data set is missing, has another format or other features, or is damaged.
    """
    title, config, prepared = find_prepared(name, roots)
    folder = prepared.folder
    check_folder(folder)
    lengths = read_splits(folder, title, config, folder.name)
    spec = read_image_spec(folder)
    classes = read_class_names(folder, spec.num_classes)
    largest = max(check_shards(folder, title, part, lengths[part]) for part in PARTS)
    try:
        builder = tfds.builder_from_directory(folder)
        features = tfds.features.FeaturesDict({key: builder.info.features[key] for key in ("image", "label")})
        records = {
            part: builder.as_data_source(part, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
            for part in PARTS
        }
    except Exception as error:  # malformed metadata raises errors of many types
        raise UserError(f"tensorflow-datasets cannot open {folder} ({reason(error)}); prepare it again") from error

    def parse(record: bytes) -> tuple[Any, int]:
        example = features.deserialize_example_np(record, decoders={"image": tfds.decode.SkipDecoding()})
        return example["image"], int(example["label"])

    at_once = max(1, min(MOST_AT_ONCE, BYTES_AT_ONCE // max(largest, 1)))
    splits = decode(folder, records, spec, parse, at_once, geometry)
    return Loaded(splits, classes, *training_statistics(folder, splits["train"].images))


def find_prepared(name: str, roots: list[Path]) -> tuple[str, str, Prepared]:
    """Return the name, the config and the place of a prepared data set, in the first root that holds it."""
    match = NAME.fullmatch(name)
    if match is None:
        raise UserError(f"tfds:{name[:100]} is not a valid data set name; write it as {FORM}")
    title, config, version = match.groups()
    there: list[str] = []
    for root in roots:
        everything = list_prepared(root / title)
        there += [f"{title}{'/' * bool(one.config)}{one.config}:{one.folder.name}" for one in everything]
        wanted = [one for one in everything if config in (None, one.config) and version in (None, one.folder.name)]
        if config is None and len({one.config for one in wanted}) > 1:
            configs = ", ".join(repr(one) for one in sorted({one.config for one in wanted})[:10])
            raise UserError(f"{root / title} holds the configs {configs}; choose one, as tfds:{title}/CONFIG")
        if wanted:
            newest = max(wanted)
            if not newest.folder.resolve().is_relative_to(root.resolve()):
                raise UserError(f"{newest.folder} is a symlink to a folder outside {root}; give the target folder")
            return title, newest.config, newest
    places = " or ".join(map(str, roots))
    if there:
        raise UserError(f"tfds:{name} was not found in {places}; prepared there: {', '.join(there[:10])}")
    names = sorted({path.name for root in roots for path in subfolders(root) if list_prepared(path)})
    others = f" ({near_matches(title, names)})" if names else ""
    raise UserError(
        f"tfds:{name} was not found in {places}; prepare it with `scripts/data.py prepare tfds:{title}`, which may "
        f"need TensorFlow, or give the folder that holds it with --data.dir{others}"
    )


def list_prepared(place: Path) -> list[Prepared]:
    """Return the prepared versions in a data set's folder, of all configs."""
    found = []
    for folder in subfolders(place):
        for config, inner in [("", folder), *((folder.name, path) for path in subfolders(folder))]:
            if re.fullmatch(r"\d{1,9}\.\d{1,9}\.\d{1,9}", inner.name, re.ASCII):
                found.append(Prepared(config, tuple(map(int, inner.name.split("."))), inner))
    return found


def subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())
    except OSError:  # missing, not a folder, or not readable
        return []


def decode(
    folder: Path,
    records: dict[str, Any],
    spec: ImageSpec,
    parse: Callable[[bytes], tuple[Any, int]],
    at_once: int,
    geometry: Preprocessing | None,
) -> dict[str, Split]:
    """Return the splits, decoded record by record into one array for each.

    Args:
        folder: named in errors.
        records: the data source of each split.
        spec: form of the images; a height or width of None is that of the first image.
        parse: from a record to the encoded image and its label.
        at_once: records read together.
        geometry: resize and crop, or None.
    """
    height, width = (geometry.height, geometry.width) if geometry else (spec.height, spec.width)
    splits: dict[str, Split] = {}
    for part, source in records.items():
        labels = np.empty(len(source), np.int32)
        for index, record in enumerate(read_in_order(f"{folder}: {part}", source, at_once)):
            place = f"{folder}: record {index:,} of {part}"
            try:
                content, label = parse(record)
                check_file_size(len(content))
                image, gray, *_ = decode_picture(
                    content, (width, height) if width and height and not geometry else None
                )
            except Exception as error:  # a damaged record raises errors of many types
                raise UserError(f"{place} cannot be read ({reason(error)}); prepare the data set again") from error
            if not 0 <= label < spec.num_classes:
                raise UserError(f"{place} has the label {label}; labels must be from 0 to {spec.num_classes - 1}")
            width, height = width or image.width, height or image.height
            if geometry is None and image.size != (width, height):
                raise UserError(
                    f"{place} is {image.width}x{image.height} pixels, not {width}x{height}; all must have the "
                    "same size: give --data.size PIXELS to resize and crop them"
                )
            if spec.channels == 1 and not gray:
                raise UserError(
                    f"{place} is in color and features.json says 1 channel; prepare the data set again with 3"
                )
            if not index:
                splits[part] = Split(allocate_pixels(folder, (len(source), height, width, spec.channels)), labels)
            converted = as_mode(image, spec.channels)
            pixels = np.asarray(fit(converted, geometry) if geometry else converted)
            splits[part].images[index] = pixels.reshape(height, width, spec.channels)
            labels[index] = label
    return splits


def read_in_order(place: str, source: Any, at_once: int) -> Iterator[bytes]:
    """Yield the records of a data source; raise UserError if one cannot be read."""
    for start in range(0, len(source), at_once):
        signals.poll()
        stop = min(start + at_once, len(source))
        try:
            records = source.__getitems__(range(start, stop))
        except Exception as error:  # the library's own classes are not public
            raise UserError(
                f"{place} cannot be read, somewhere in the records {start:,} to {stop - 1:,} ({reason(error)}); "
                "prepare the data set again"
            ) from error
        yield from records
