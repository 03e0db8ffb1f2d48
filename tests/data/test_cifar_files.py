"""CIFAR as published: binary files, Python pickles and archives, with made-up images."""

import os
import pickle
import re
import tarfile

import numpy as np
import pytest

from cnnjax import data
from cnnjax.config import Data
from cnnjax.data.cifar_files import CIFAR10, CIFAR100
from cnnjax.data.class_names import CIFAR100_CLASSES
from cnnjax.errors import UserError

PER_FILE = 20


def random_images(form, name):
    """Return images [N, 3, 32, 32] and labels for one file of the data set."""
    rng = np.random.default_rng(sum(map(ord, name)))
    classes = 100 if "100" in form.folder else 10
    count = 200 if classes == 100 else PER_FILE
    return rng.integers(0, 256, (count, 3, 32, 32), np.uint8), np.arange(count) % classes


def content(form, name) -> bytes:
    images, labels = random_images(form, name)
    rows = images.reshape(len(images), -1)
    if form.label_bytes:
        before = [np.zeros((len(labels), 1), np.uint8)] * (form.label_bytes - 1)
        return np.concatenate([*before, labels[:, None].astype(np.uint8), rows], axis=1).tobytes()
    value = {form.labels: labels.tolist(), b"data": rows, b"batch_label": b"some", b"filenames": [b"a"] * len(labels)}
    return pickle.dumps(value, protocol=2)


def names(form):
    return [name for files in form.parts.values() for name in files]


def write(form, place, kind):
    folder = place / form.folder
    folder.mkdir(parents=True)
    for name in names(form):
        (folder / name).write_bytes(content(form, name))
    if kind == "archive":
        with tarfile.open(place / form.archive, "w:gz") as tar:
            tar.add(folder, form.folder)
        for name in names(form):
            (folder / name).unlink()
        return place / form.archive
    return place if kind == "around" else folder


def load(form, place, source):
    return data.load(Data(source=source, dir=str(place), validation=0.5))


@pytest.mark.parametrize("kind", ["folder", "around", "archive"])
@pytest.mark.parametrize("form", [*CIFAR10, *CIFAR100], ids=lambda form: form.folder)
def test_published_formats_are_read(tmp_path, form, kind):
    source = "cifar100" if form in CIFAR100 else "cifar10"
    dataset = load(form, write(form, tmp_path, kind), source)
    images, labels = map(np.concatenate, zip(*(random_images(form, name) for name in form.parts["test"]), strict=True))
    assert np.array_equal(dataset.test.images, images.transpose(0, 2, 3, 1))
    assert dataset.test.labels.tolist() == labels.tolist()
    assert len(dataset.train.labels) + len(dataset.validation.labels) == len(form.parts["train"]) * len(
        random_images(form, form.parts["train"][0])[1]
    )
    expected = "are not the published files" if form.md5 else "checksums of .* are not known"
    assert any(re.search(expected, notice) for notice in dataset.notices)


def test_an_archive_is_found_in_its_folder(tmp_path, monkeypatch):
    archive = write(CIFAR100[1], tmp_path, "archive")
    assert load(CIFAR100[1], archive.parent, "cifar100").classes == CIFAR100_CLASSES
    monkeypatch.setenv("CNNJAX_DATA", str(tmp_path))
    assert len(data.load(Data(source="cifar100", validation=0.5)).test.labels) == 200


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("/tmp/cnnjax-pwned",)


@pytest.mark.parametrize("value", [Malicious(), {b"data": np.array([Malicious()], object), b"labels": [0]}])
def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path, value):
    form = CIFAR10[1]
    folder = write(form, tmp_path, "folder")
    (folder / "data_batch_1").write_bytes(pickle.dumps(value))
    with pytest.raises(UserError, match=r"could run code|is not a file of cifar-10-python"):
        load(form, folder, "cifar10")
    assert not os.path.exists("/tmp/cnnjax-pwned")  # noqa: PTH110


@pytest.mark.parametrize(
    "value",
    [[], {}, {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1]}, {b"data": b"", b"labels": []},
     {b"data": np.zeros((1, 3072)), b"labels": [0]}],
)  # fmt: skip
def test_other_pickles_are_refused(tmp_path, value):
    form = CIFAR10[1]
    folder = write(form, tmp_path, "folder")
    (folder / "test_batch").write_bytes(pickle.dumps(value))
    with pytest.raises(UserError, match=r"test_batch is not a file of cifar-10-python: it must hold images of 32x32x3"):
        load(form, folder, "cifar10")


@pytest.mark.parametrize("form", CIFAR10, ids=lambda form: form.folder)
def test_truncated_and_missing_files_are_named(tmp_path, form):
    folder = write(form, tmp_path, "folder")
    path = folder / form.parts["train"][2]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=rf"{path.name} is not a file of {form.archive.removesuffix('.tar.gz')}"):
        load(form, folder, "cifar10")
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name} is missing; unpack the published archive again"):
        load(form, folder, "cifar10")


def test_a_truncated_archive_is_refused(tmp_path):
    archive = write(CIFAR10[0], tmp_path, "archive")
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"cifar-10-binary.tar.gz (cannot be read|does not hold)"):
        load(CIFAR10[0], archive, "cifar10")
