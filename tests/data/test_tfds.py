import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import fit_run
from PIL import Image

from cnnjax import create, data
from cnnjax.config import Data, Experiment, Optimizer, Train
from cnnjax.data import tfds_prepare
from cnnjax.data.export import export_images
from cnnjax.data.pixels import mean_and_std
from cnnjax.data.tfds_source import find_prepared, load_tfds
from cnnjax.errors import UserError
from cnnjax.runs.folder import RunFolder
from tests.data.prepared import CLASSES, edit, image_of, images_of, load, prepare


def in_order(split):
    """Return images and labels sorted by bytes, because tensorflow-datasets shuffles them."""
    return sorted((image.tobytes(), int(label)) for image, label in zip(*split, strict=True))


@pytest.mark.parametrize(("shape", "config"), [((28, 28, 1), None), ((30, 26, 3), "rgb")])
def test_pixels_labels_and_classes_round_trip(shape, config, tmp_path):
    prepare(tmp_path, shape, config)
    loaded = load_tfds("columns", [tmp_path])
    assert loaded.classes == CLASSES
    for part, split in loaded.parts.items():
        images = images_of(part, shape)
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        assert in_order(split) == in_order((images, np.arange(len(images)) % 3))
    assert (loaded.mean, loaded.std) == mean_and_std(images_of("train", shape))


def test_unspecified_image_sizes_and_other_features(tmp_path):
    others = {
        "file": (tfds.features.Text(), "a.png"),
        "box": (tfds.features.BBoxFeature(), tfds.features.BBox(0.0, 0.0, 1.0, 1.0)),
        "weights": (tfds.features.Tensor(shape=(2,), dtype=np.float32), [1.0, 2.0]),
        "camera": (tfds.features.FeaturesDict({"number": tfds.features.Scalar(np.int32)}), {"number": 3}),
        "breed": (tfds.features.ClassLabel(num_classes=9), 8),
    }
    folder = prepare(tmp_path, **others)
    edit(folder / "features.json", lambda value: image_of(value).update(shape={"dimensions": ["-1", "-1", "1"]}))
    assert load(folder).train.images.shape[1:] == (28, 28, 1)


@pytest.mark.trains_long
def test_a_network_learns_the_data_set(prepared, tmp_path, progress):
    experiment = Experiment(
        model=create("lenet", num_classes=3, activation="relu", pooling="max"),
        data=Data(source="tfds:columns", dir=str(prepared.parent.parent), validation=0.2),
        optimizer=Optimizer(name="adam", lr=3e-3),
        train=Train(epochs=1, batch_size=4, eval_batch_size=12),
    )
    folder = RunFolder(tmp_path / "run")
    folder.start("run", experiment)
    fit_run(experiment, folder, progress)
    assert progress.rows[-1]["validation_top1"] > 0.9


def test_tensorflow_is_never_imported_and_tfds_only_if_needed(prepared, tmp_path):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from cnnjax import data
from cnnjax.config import Data
data.load(Data(source="fashion_mnist_mini"))
assert not {{"tensorflow_datasets", "array_record"}} & sys.modules.keys()
data.load(Data(source="tfds:columns", dir={str(prepared.parent.parent)!r}))
assert "tensorflow_datasets" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_test_images_are_exported_with_class_names(prepared, tmp_path):
    dataset = data.load(Data(source="tfds:columns", dir=str(prepared.parent.parent)), divide=False)
    paths = export_images(dataset, tmp_path / "photos", 3)
    assert {path.stem[6:].replace("_", " ") for path in paths} <= set(CLASSES)
    with Image.open(paths[0]) as image:
        assert image.size == (28, 28)


# Search path


def test_the_default_folder_of_tensorflow_datasets_is_searched(prepared, monkeypatch, tmp_path):
    root = prepared.parent.parent
    for name in ("CNNJAX_DATA", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"not found in .*/tensorflow_datasets; prepare it with `scripts/data.py prep"):
        data.load(Data(source="tfds:columns"))
    for name in ("CNNJAX_DATA", "TFDS_DATA_DIR"):
        with monkeypatch.context() as patch:
            patch.setenv(name, str(root))
            assert data.load(Data(source="tfds:columns")).name == "tfds:columns"
    (tmp_path / "tensorflow_datasets").symlink_to(root)
    assert data.load(Data(source="tfds:columns:1.0.0")).classes == CLASSES


def made(root, *paths):
    for path in paths:
        (root / path).mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", "a/10.0.0"), ("a:2.0.0", "a/2.0.0"), ("b", "b/only/1.0.0"), ("b/only", "b/only/1.0.0"),
        ("c/x", "c/x/1.1.0"), ("c/y:1.0.0", "c/y/1.0.0"),
    ],
)  # fmt: skip
def test_the_newest_version_of_a_config_is_used(name, expected, tmp_path):
    places = ("a/2.0.0", "a/10.0.0", "b/only/1.0.0", "c/x/1.0.0", "c/x/1.1.0", "c/y/1.0.0", "a/incomplete.1_1.0.0")
    assert find_prepared(name, [tmp_path / "none", made(tmp_path, *places)])[2].folder == tmp_path / expected


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("c", "holds the configs 'x', 'y'; choose one, as tfds:c/CONFIG"),
        ("c/z", "tfds:c/z was not found in .*; prepared there: c/x:1.0.0, c/y:1.0.0"),
        ("c/x:1.0.1", "prepared there: c/x:1.0.0, c/y:1.0.0"),
        ("animls", "did you mean 'animals'"),
        ("../c", "not a valid data set name; write it as tfds:NAME"),
        ("/etc", "not a valid data set name"),
        ("c/..", "not a valid data set name"),
        ("c/x/1.0.0", "not a valid data set name"),
        ("c:1.*.*", "not a valid data set name"),
        ("", "not a valid data set name"),
    ],
)
def test_an_unknown_name_is_refused_with_the_available_ones(name, match, tmp_path):
    made(tmp_path, "c/x/1.0.0", "c/y/1.0.0", "animals/1.0.0")
    with pytest.raises(UserError, match=match):
        data.load(Data(source=f"tfds:{name}", dir=str(tmp_path)))


def test_a_mistyped_prefix_is_refused_with_near_matches():
    with pytest.raises(UserError, match="unknown data source 'tfds'; did you mean 'tfds:NAME'"):
        data.load(Data(source="tfds"))


def test_photos_of_any_size_are_resized_and_cropped(tmp_path):
    folder = prepare(tmp_path, shape=(None, None, 3))
    with pytest.raises(UserError, match=r"must have the same size: give --data.size PIXELS to resize and crop them"):
        load(folder)
    dataset = data.load(Data(source="tfds:columns", dir=str(tmp_path), size=24, validation=0.2))
    assert dataset.test.image_shape == (24, 24, 3)
    photo = Image.fromarray(images_of("test", (28, 28, 3))[3]).resize((43, 67))
    expected = photo.resize((24, int(24 * 67 / 43)), Image.Resampling.BILINEAR).crop((0, 6, 24, 30))
    assert np.asarray(expected).tobytes() in {image.tobytes() for image in dataset.test.images}


@pytest.mark.parametrize("option", [{"skip_damaged": True}, {"stream": "always"}, {"max_value": 4095}])
def test_options_that_tfds_sources_lack_are_refused(option):
    with pytest.raises(UserError, match=f"data.{next(iter(option))} .* is given for tfds:columns; it does not have"):
        data.load(Data(source="tfds:columns", **option))


def test_preparing_without_tensorflow_says_what_to_install(tmp_path):
    with pytest.raises(UserError, match=r"preparing tfds:columns needs .*tensorflow.*; run pip install cnnjax"):
        tfds_prepare.prepare("columns", tmp_path)
