"""Prepare a data set with tensorflow-datasets itself, and edit its files."""

import io
import json
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from cnnjax import data
from cnnjax.config import Data

CLASSES = ("ankle boot", "bag", "coat")
COUNTS = {"train": 60, "test": 12}


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def images_of(part, shape=(28, 28, 1)):
    """Return uint8 images [N, H, W, C]. The class is the index modulo 3, drawn as a bright column."""
    rng = np.random.default_rng(len(part))
    images = rng.integers(0, 60, (COUNTS[part], *shape), dtype=np.uint8)
    for index, image in enumerate(images):
        image[:, 9 * (index % 3) : 9 * (index % 3) + 8] += 150
    return images


def prepare(root, shape=(28, 28, 1), config=None, **features):
    """Prepare a data set with tensorflow-datasets itself; return its version folder.

    Args:
        root: Parent folder; the data set is in columns/1.0.0 or columns/CONFIG/1.0.0.
        shape: Shape of each image; a height of None makes photos of different sizes.
        config: Config name, or None for a data set without configs.
        features: Features other than image and label, each with an example value.
    """

    class Columns(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        __module__ = "columns"  # in a package, tfds 4.9.10 imports importlib_resources, an undeclared dependency
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            known = {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(names=CLASSES)}
            others = {name: feature for name, (feature, _) in features.items()}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(known | others))

        def _split_generators(self, dl_manager):
            return {part: self._generate_examples(part) for part in COUNTS}

        def _generate_examples(self, part):
            others = {name: example for name, (_, example) in features.items()}
            height, width, channels = shape
            for index, image in enumerate(images_of(part, (height or 28, width or 28, channels))):
                if height is None:  # photos of different sizes
                    image = np.asarray(Image.fromarray(image).resize((40 + index, 70 - index)))
                content = png(image[..., 0] if channels == 1 else image)
                yield index, {"image": io.BytesIO(content), "label": index % 3, **others}

    builder = Columns(data_dir=str(root), file_format="array_record", config=config)
    builder.download_and_prepare()
    return Path(builder.data_dir)


def load(folder):
    return data.load(Data(source="tfds:columns", dir=str(folder.parent.parent), validation=0.2))


def edit(path, change):
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def write_records(path, records, options="group_size:1"):
    path.unlink(missing_ok=True)
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()


def image_of(features):
    return features["featuresDict"]["features"]["image"]["image"]
