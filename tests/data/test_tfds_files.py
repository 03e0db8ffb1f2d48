"""Prepared data sets are untrusted: a change to any of their files is refused with one error."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cnnjax.data import pixels, tfds_files
from cnnjax.errors import UserError
from tests.data.prepared import edit, image_of, load, png, write_records

CORE = "tensorflow_datasets.core.features"


@pytest.fixture
def folder(prepared, tmp_path) -> Path:
    """A copy of a prepared data set that the test may change."""
    return Path(shutil.copytree(prepared, tmp_path / "columns" / "1.0.0"))


def refused(folder, match):
    with pytest.raises(UserError, match=match) as error:
        load(folder)
    assert str(folder) in str(error.value)
    assert len(str(error.value).replace(str(folder), "")) < 320


def test_symlinks_are_refused(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    shutil.copytree(folder, outside / "1.0.0", dirs_exist_ok=True)
    (folder / "more").symlink_to(outside)
    refused(folder, "neither a regular file nor a folder")
    shutil.rmtree(folder)
    folder.symlink_to(outside / "1.0.0")
    refused(folder, "is a symlink to a folder outside")


FEATURES = {
    "another class": (lambda value: value.update(pythonClassName="os.path.Join"), "the class 'os.path.Join'"),
    "a nested class": (
        lambda value: value["featuresDict"]["features"].update(
            inner={
                "pythonClassName": f"{CORE}.features_dict.FeaturesDict",
                "featuresDict": {"features": {"x": {"pythonClassName": "antigravity.Fly", "tensor": {}}}},
            }
        ),
        "a feature of the class 'antigravity.Fly'",
    ),
    "a class of tensorflow-datasets": (
        lambda value: value.update(pythonClassName=f"{CORE}.dataset_feature.Dataset"), "dataset_feature.Dataset'",
    ),
    "the older form": (lambda value: value.update(type="os.path.Join", content={}), "the key 'content'"),
    "two names of a field": (lambda value: value.update(python_class_name="os.path.Join"), "key 'python_class_name'"),
    "content as JSON within JSON": (lambda value: value.update(jsonFeature={"json": "{}"}), "the key 'jsonFeature'"),
    "no features": (lambda value: value.update(featuresDict={}), "it has none"),
    "an invalid label": (
        lambda value: value["featuresDict"]["features"].update(
            label={"pythonClassName": f"{CORE}.scalar.Scalar", "tensor": {"dtype": "int64"}}
        ),
        "must have the features image .* and label .*; it has 'image', 'label'",
    ),
    "a TensorFlow dtype": (
        lambda value: value["featuresDict"]["features"].update(
            x={"pythonClassName": f"{CORE}.scalar.Scalar", "tensor": {"dtype": "bfloat16"}}
        ),
        "dtype is 'bfloat16'",
    ),
    "no dtype": (lambda value: image_of(value).pop("dtype"), "dtype is None; it must be one of bool, int8"),
    "deep images": (lambda value: image_of(value).update(dtype="uint16"), "the images are 'uint16' .28, 28, 1."),
    "four channels": (lambda value: image_of(value).update(shape={"dimensions": [9, 9, 4]}), "width, 1 or 3"),
    "an invalid size": (lambda value: image_of(value).update(shape={"dimensions": ["1e9"]}), "where a count"),
    "huge images": (lambda value: image_of(value).update(shape={"dimensions": [9**9, 9**9, 1]}), "not 387420489x"),
    "too many classes": (
        lambda value: value["featuresDict"]["features"]["label"]["classLabel"].update(numClasses="9" * 12),
        "numClasses is 999,999,999,999; it must be between 1 and 131,072",
    ),
    "more classes than names": (
        lambda value: value["featuresDict"]["features"]["label"]["classLabel"].update(numClasses="4"),
        "3 names, 3 of them distinct; features.json has 4 classes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FEATURES)
def test_features_are_checked_before_tensorflow_datasets_reads_them(case, folder):
    change, match = FEATURES[case]
    edit(folder / "features.json", change)
    refused(folder, match)
    assert "antigravity" not in sys.modules


def split_of(value, name="train"):
    return next(split for split in value["splits"] if split["name"] == name)


INFO = {
    "features": (lambda value: value.update(features={"pythonClassName": "os.path.Join"}), "the key 'features'"),
    "another name": (lambda value: value.update(name="../columns"), "name is '../columns'; its folder says 'columns'"),
    "another version": (lambda value: value.update(version="1.0.1"), "version is '1.0.1'"),
    "another config": (lambda value: value.update(configName="x"), "configName is 'x'"),
    "TFRecord": (lambda value: value.update(fileFormat="tfrecord"), "'tfrecord' files; only array_record is read"),
    "no format": (lambda value: value.pop("fileFormat"), "'tfrecord' files"),
    "a template": (
        lambda value: split_of(value).update(filepathTemplate="{SPLIT:>9999999999}"), "it must be {DATASET}-{SPLIT}",
    ),
    "a path": (lambda value: split_of(value).update(filepathTemplate="/etc/passwd"), "'/etc/passwd'; it must be"),
    "no test split": (
        lambda value: split_of(value, "test").update(name="validation"),
        "no images in a split 'test'; its splits are 'train', 'validation'",
    ),
    "no images": (lambda value: split_of(value).update(shardLengths=[]), "no images in a split 'train'"),
    "a split twice": (lambda value: value["splits"].append(value["splits"][0]), "the split 'train' twice"),
    "more records": (lambda value: split_of(value).update(shardLengths=["61"]), "holds 60 records and .* says 61"),
    "fewer records": (lambda value: split_of(value).update(shardLengths=["59"]), "holds 60 records and .* says 59"),
    "records without end": (lambda value: split_of(value).update(shardLengths=["9" * 99]), "where a count should be"),
    "negative records": (lambda value: split_of(value).update(shardLengths=[-1]), "-1 where a count should be"),
    "more shards": (lambda value: split_of(value).update(shardLengths=["30", "30"]), "00000-of-00002 is missing"),
    "no list": (lambda value: value.update(splits=3), "3 where a list is expected"),
    "an invalid number": (lambda value: value.update(downloadSize="x"), "tensorflow-datasets cannot open"),
}  # fmt: skip


@pytest.mark.parametrize("case", INFO)
def test_dataset_info_is_checked(case, folder):
    change, match = INFO[case]
    edit(folder / "dataset_info.json", change)
    refused(folder, match)


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_missing_or_damaged_metadata_is_refused(name, folder):
    (folder / name).write_text("[]")
    refused(folder, name)
    (folder / name).write_text("{")
    refused(folder, "cannot be read as JSON")
    (folder / name).unlink()
    refused(folder, "there is no file")


def test_class_names_are_checked(folder, monkeypatch):
    (folder / "label.labels.txt").write_text("a\nb\nb\n")
    refused(folder, "3 names, 2 of them distinct")
    monkeypatch.setattr(tfds_files, "MOST_METADATA_BYTES", 5)
    refused(folder, "a metadata file may have at most 5")
    monkeypatch.setattr(tfds_files, "MOST_METADATA_BYTES", 10_000)
    (folder / "x.array_record-1-of-2.labels.txt").write_text("a\n" * 9000)
    refused(folder, "a metadata file may have at most 10,000")
    (folder / "x.array_record-1-of-2.labels.txt").unlink()
    (folder / "label.labels.txt").unlink()
    monkeypatch.undo()
    assert load(folder).classes == ("0", "1", "2")


def test_a_truncated_or_damaged_shard_is_refused(folder):
    shard = folder / "columns-train.array_record-00000-of-00001"
    content = shard.read_bytes()
    for size in (0, 20, 64, 10_000, len(content) // 2, len(content) - 1):
        shard.write_bytes(content[:size])
        refused(folder, "truncated|damaged|holds 0 records")
    changed = bytearray(content)
    changed[20_000] ^= 1
    shard.write_bytes(changed)
    refused(folder, "train cannot be read, somewhere in the records 0 to 59 .*; prepare the data set again")


def test_records_that_unpack_to_too_much_are_refused(folder, monkeypatch):
    shard = folder / "columns-train.array_record-00000-of-00001"
    write_records(shard, [bytes(2**27 + 1)])
    assert shard.stat().st_size < 2**18
    refused(folder, "unpack to 134,217,729 bytes; at most 134,217,728")


@pytest.mark.parametrize("sizes", [[0], [1] * 5000, [65472, 65471, 40, 9], [30_000] * 20, [2**20, 0, 7], []])
@pytest.mark.parametrize("options", ["group_size:1", "group_size:1,uncompressed", "group_size:7,brotli"])
def test_valid_shards_of_every_layout_are_read(sizes, options, tmp_path):
    rng = np.random.default_rng(0)
    write_records(tmp_path / "shard", [rng.bytes(size) for size in sizes], options)
    tfds_files.check_chunks(tmp_path / "shard")


def record(image, label):
    """Return an example serialized as in tensorflow-datasets."""
    features = tfds.features.FeaturesDict({"image": tfds.features.Text(), "label": tfds.features.Scalar(np.int64)})
    return features.serialize_example({"image": image, "label": label})


def test_invalid_records_are_refused(folder, monkeypatch):
    shard = folder / "columns-test.array_record-00000-of-00001"
    good = [png(np.zeros((28, 28), np.uint8))] * 12

    def broken(image, label=0):
        write_records(shard, [record(content, 1) for content in good[:-1]] + [record(image, label)])

    broken(good[0], 3)
    refused(folder, "record 11 of test has the label 3; labels must be from 0 to 2")
    broken(good[0], -1)
    refused(folder, "has the label -1")
    broken(b"text")
    refused(folder, r"record 11 of test cannot be read \(not an image\)")
    broken(png(np.zeros((28, 27), np.uint8)))
    refused(folder, "27x28 pixels, not 28x28; all must have the same size")
    broken(png(np.zeros((28, 28, 3), np.uint8)))
    refused(folder, "is in color and features.json says 1 channel")
    write_records(shard, [record(content, 1) for content in good[:-1]] + [b"\xff" * 40])
    refused(folder, "record 11 of test cannot be read")


def test_memory_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(pixels, "MOST_PIXEL_BYTES", 60 * 28 * 28 - 1)
    refused(folder, "60 images of 28x28 pixels")
