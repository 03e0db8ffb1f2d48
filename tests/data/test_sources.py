import dataclasses
import gzip
import hashlib
import shutil

import numpy as np
import pytest
from conftest import write_digits
from PIL import Image

from cnnjax import data
from cnnjax.config import Data
from cnnjax.data import Preprocessing, normalize, published, read_image
from cnnjax.data.class_names import DIGITS
from cnnjax.data.export import embed_subset, export_images, first_of_each_class
from cnnjax.data.sources import EMBEDDED, SOURCES, idx_loader
from cnnjax.errors import UserError


def test_the_embedded_subset_is_balanced_and_small():
    parts = SOURCES["fashion_mnist_mini"].load(None).parts
    assert np.bincount(parts["train"].labels).tolist() == [1000] * 10
    assert np.bincount(parts["test"].labels).tolist() == [200] * 10
    assert parts["train"].images.shape == (10_000, 28, 28, 1)
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 6_000_000
    assert "MIT" in (EMBEDDED / "LICENSE").read_text()


def test_the_embedded_images_are_not_synthetic():
    images = SOURCES["fashion_mnist_mini"].load(None).parts["train"].images
    scaled = images / 255
    assert abs(scaled.mean() - 0.2860) < 0.01
    assert abs(scaled.std() - 0.3530) < 0.01
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) > 9_900


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_plain_and_gzipped_are_read(tmp_path, suffix):
    write_digits(tmp_path, suffix=suffix)
    dataset = data.load(Data(source="mnist", dir=str(tmp_path), validation=0.2))
    assert (len(dataset.train.labels), len(dataset.validation.labels), len(dataset.test.labels)) == (320, 80, 130)
    assert dataset.classes == tuple("0123456789")
    assert dataset.train.labels.dtype == np.int32


def test_the_folder_is_found_through_the_environment(digits, monkeypatch, tmp_path):
    monkeypatch.setenv("CNNJAX_DATA", str(digits))
    assert len(data.load(Data(source="mnist")).test.labels) == 130
    (tmp_path / "root").mkdir()
    shutil.copytree(digits, tmp_path / "root" / "fashion-mnist")
    monkeypatch.setenv("CNNJAX_DATA", str(tmp_path / "root"))
    assert len(data.load(Data(source="fashion_mnist")).test.labels) == 130


def test_missing_files_are_reported_with_every_searched_path_and_instructions(monkeypatch, tmp_path):
    monkeypatch.setenv("CNNJAX_DATA", str(tmp_path / "from-environment"))
    monkeypatch.setattr("cnnjax.data.sources.Path.is_file", lambda self: False)
    with pytest.raises(UserError) as error:
        data.load(Data(source="fashion_mnist"))
    for expected in (
        str(tmp_path / "from-environment"), "/usr/share/datasets/fashion-mnist", "--data.dir", "CNNJAX_DATA",
        "dataset-fashion-mnist", "fashion_mnist_mini", "train-images-idx3-ubyte",
    ):  # fmt: skip
        assert expected in str(error.value)


def test_only_a_given_folder_is_searched(monkeypatch, digits, tmp_path):
    monkeypatch.setenv("CNNJAX_DATA", str(digits))
    with pytest.raises(UserError, match=f"mnist was not found: none of {tmp_path}/mnist"):
        data.load(Data(source="mnist", dir=str(tmp_path)))


def test_files_of_another_known_data_set_are_refused(digits, monkeypatch):
    known = data.load(Data(source="mnist", dir=str(digits))).content_hash
    other = dataclasses.replace(SOURCES["fashion_mnist"], content_hash=known)
    monkeypatch.setitem(SOURCES, "fashion_mnist", other)
    with pytest.raises(UserError, match="the files given for mnist are those of fashion_mnist"):
        data.load(Data(source="mnist", dir=str(digits)))


def test_different_counts_of_images_and_labels_are_refused(tmp_path):
    folder = write_digits(tmp_path / "a")
    other = write_digits(tmp_path / "b", train=390)
    shutil.copy(other / "train-labels-idx1-ubyte", folder)
    with pytest.raises(UserError, match="holds 400 images and .* 390 labels"):
        data.load(Data(source="mnist", dir=str(folder)))


def test_labels_out_of_range_are_refused(tmp_path):
    folder = write_digits(tmp_path)
    path = folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0b")
    with pytest.raises(UserError, match="the test labels go up to 11, but there are 10 classes"):
        data.load(Data(source="mnist", dir=str(folder)))


def test_an_unknown_source_is_refused_with_near_matches():
    with pytest.raises(UserError, match="unknown data source 'fashion_mnst'; did you mean 'fashion_mnist'"):
        data.load(Data(source="fashion_mnst"))


def test_one_changed_pixel_changes_the_content_hash(tmp_path):
    folder = write_digits(tmp_path)
    before = data.load(Data(source="mnist", dir=str(folder))).content_hash
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert data.load(Data(source="mnist", dir=str(folder))).content_hash != before


def test_the_subset_holds_the_first_images_of_each_class(tmp_path):
    split = SOURCES["fashion_mnist_mini"].load(None).parts["test"]
    subset = first_of_each_class(split, 3)
    assert np.bincount(subset.labels).tolist() == [3] * 10
    assert np.array_equal(subset.images[subset.labels == 4], split.images[split.labels == 4][:3])


@pytest.mark.many_inputs
def test_embedding_is_reproducible(tmp_path):
    assert embed_subset(tmp_path, str(EMBEDDED)) < 6_000_000
    for path in EMBEDDED.glob("*.gz"):
        assert gzip.decompress((tmp_path / path.name).read_bytes()) == gzip.decompress(path.read_bytes())


def test_exported_images_can_be_read_back(tmp_path):
    dataset = data.load(Data())
    paths = export_images(dataset, tmp_path / "photos", 3)
    assert [path.name for path in paths] == ["00000-Ankle_boot.png", "00001-Pullover.png", "00002-Trouser.png"]
    assert np.array_equal(read_image(str(paths[1]), dataset.preprocessing), dataset.test.images[1])


def test_normalize_equals_float64_numpy():
    preprocessing = Preprocessing(height=2, width=2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 3), dtype=np.uint8)
    expected = (images / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    np.testing.assert_allclose(normalize(preprocessing, images), expected, rtol=1e-5, atol=1e-6)


GRAY = Preprocessing(height=28, width=20, mean=(0.5,), std=(0.5,))
RGB = Preprocessing(height=28, width=20, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I;16"])
@pytest.mark.parametrize(("preprocessing", "channels"), [(GRAY, 1), (RGB, 3)])
def test_every_image_mode_is_read(tmp_path, mode, preprocessing, channels):
    path = tmp_path / ("photo.tiff" if mode == "CMYK" else "photo.png")
    Image.new(mode, (64, 40)).save(path)
    image = read_image(str(path), preprocessing)
    assert image.shape == (28, 20, channels)
    assert image.dtype == np.uint8


def test_unreadable_images_are_one_error(tmp_path):
    with pytest.raises(UserError, match="there is no image file"):
        read_image(str(tmp_path / "missing.png"), GRAY)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_image(str(tmp_path / "text.png"), GRAY)
    with pytest.raises(UserError, match="is not a regular file"):
        read_image(str(tmp_path), GRAY)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:400])
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_image(str(tmp_path / "cut.jpg"), RGB)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.1, 0.2)}, "preprocessing.mean"),
        ({"std": (0.1, 0.2, 0.3)}, "preprocessing.std"),
        ({"std": (0.0,)}, "preprocessing.std"),
    ],
)
def test_preprocessing_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        GRAY.replace(**options)


def test_transparent_pixels_become_white(tmp_path):
    pixels = np.zeros((10, 10, 4), np.uint8)
    pixels[:5, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    image = read_image(str(tmp_path / "photo.png"), GRAY.replace(height=10, width=10))[:, :, 0]
    assert (image[:5] == 0).all()
    assert (image[5:] == 255).all()


def test_16_bit_grayscale_becomes_8_bit(tmp_path):
    Image.fromarray(np.full((10, 10), 128 * 256 + 77, np.uint16)).save(tmp_path / "photo.png")
    assert (read_image(str(tmp_path / "photo.png"), GRAY) == 128).all()


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = np.zeros((10, 10), np.uint8)
    pixels[:5] = 200
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    image = read_image(str(tmp_path / "photo.png"), GRAY.replace(height=10, width=10))[:, :, 0]
    assert (image[:5] == 0).all()
    assert (image[5:] == 200).all()


def test_an_image_with_too_many_pixels_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for side in (40, 100):  # Pillow warns about the first and refuses the second
        Image.new("L", (side, side)).save(tmp_path / "photo.png")
        with pytest.raises(UserError, match="cannot be read as an image"):
            read_image(str(tmp_path / "photo.png"), GRAY)


def test_a_folder_for_the_embedded_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="leave out --data.dir"):
        data.load(Data(dir=str(tmp_path)))


@pytest.mark.parametrize(
    "name",
    [
        "train-images.idx3-ubyte", "train-images-idx3-ubyte/train-images-idx3-ubyte", "raw/train-images-idx3-ubyte",
        "MNIST/raw/train-images-idx3-ubyte", "train-images.idx3-ubyte/train-images.idx3-ubyte",
    ],
)  # fmt: skip
@pytest.mark.parametrize("gzipped", [False, True])
def test_mirror_layouts_are_found_and_gzip_is_recognized_by_content(digits, tmp_path, name, gzipped):
    folder = shutil.copytree(digits, tmp_path / "copied")
    (original,) = folder.rglob("train-images-idx3-ubyte*")
    content = original.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    original.unlink()
    target = original.parent / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(content) if gzipped else content)
    config = Data(source="mnist", dir=str(folder), validation=0.2)
    moved, before = data.load(config), data.load(config.replace(dir=str(digits)))
    assert moved.content_hash == before.content_hash


def test_files_that_differ_from_the_published_ones_are_reported(digits):
    dataset = data.load(Data(source="fashion_mnist", dir=str(digits), validation=0.2))
    (notice,) = dataset.notices
    assert notice.startswith("the files of fashion_mnist are not the published ones (sha256 ")
    (notice,) = data.load(Data(source="mnist", dir=str(digits), validation=0.2)).notices
    assert notice.startswith("files of mnist that are not the published ones: ")


def test_mnist_files_are_compared_by_content(tmp_path, monkeypatch, digits):
    packed = write_digits(tmp_path / "packed", suffix=".gz")
    loader = idx_loader("mnist", DIGITS, (0.1,), (0.3,))
    [notice] = loader(str(packed)).notices
    assert notice.startswith("files of mnist that are not the published ones: ")
    assert str(packed / "train-images-idx3-ubyte.gz") in notice
    plain = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in digits.iterdir()}
    monkeypatch.setitem(published.CONTENTS, "mnist", plain)
    for folder in (packed, digits):
        assert loader(str(folder)).notices == ()
        with pytest.raises(UserError, match="the files given for kmnist are those of mnist; use --data.source mnist"):
            data.load(Data(source="kmnist", dir=str(folder)))


def test_kmnist_files_are_compared_as_they_are_packed(tmp_path, monkeypatch, digits):
    packed = write_digits(tmp_path / "packed", suffix=".gz")
    loader = idx_loader("kmnist", DIGITS, (0.1,), (0.3,))
    [notice] = loader(str(packed)).notices
    assert notice.startswith("files of kmnist that are not the published ones: ")
    md5 = {path.stem: hashlib.md5(path.read_bytes()).hexdigest() for path in packed.iterdir()}
    monkeypatch.setitem(published.PACKED, "kmnist", md5)
    assert loader(str(packed)).notices == ()
    [notice] = loader(str(digits)).notices
    assert "were not compared" in notice
