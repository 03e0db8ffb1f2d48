import io
import shutil
import stat
import zipfile

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.config import Data
from cnnjax.data import image_files, pixels, read_image
from cnnjax.data.export import export_images
from cnnjax.data.image_folder import load_image_folder
from cnnjax.data.pixels import mean_and_std
from cnnjax.data.sources import CIFAR10_CLASSES
from cnnjax.errors import UserError

COUNTS = {"train": 5, "test": 2}


def png(pixels, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def noise_images(shape=(8, 6, 3), classes=("cat", "dog")) -> dict[str, bytes]:
    """Return small noise images by path, unsorted."""
    rng = np.random.default_rng(0)
    names = [f"{part}/{name}/{n}.png" for part, count in COUNTS.items() for name in classes for n in range(count)]
    return {name: png(rng.integers(0, 256, shape, dtype=np.uint8)) for name in reversed(names)}


def write_folder(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(params=["directory", "zip"])
def write(request, tmp_path):
    """Write files as a directory or a zip; return its path."""
    if request.param == "directory":
        return lambda files: write_folder(tmp_path / "images", files)
    return lambda files: write_zip(tmp_path / "images.zip", files)


def refused(place, match):
    """Assert that `data.load` refuses the path with one error message that names it."""
    with pytest.raises(UserError, match=match) as error:
        data.load(Data(source="image_folder", dir=str(place), validation=0.2))
    assert str(place) in str(error.value)
    assert "\n" not in str(error.value)


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_images_and_labels_are_in_path_order(write):
    files = noise_images()
    parts, classes, *_ = load_image_folder(write(files))
    assert classes == ("cat", "dog")
    for part, count in COUNTS.items():
        assert parts[part].labels.tolist() == [0] * count + [1] * count
        assert parts[part].labels.dtype == np.int32
        for image, name in zip(parts[part].images, sorted(n for n in files if n.startswith(part)), strict=True):
            assert np.array_equal(image, pixels_of(files[name]))


def test_a_directory_and_its_zip_give_the_same_data(tmp_path):
    files = noise_images(classes=("a", "a b", "B", "é"))
    datasets = [
        data.load(Data(source="image_folder", dir=str(place), validation=0.2))
        for place in (
            write_folder(tmp_path / "images", files),
            write_zip(tmp_path / "images.zip", files),
            shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "images"),
        )
    ]
    assert len({(dataset.content_hash, dataset.split_hash, dataset.classes) for dataset in datasets}) == 1
    assert len({dataset.preprocessing for dataset in datasets}) == 1
    assert datasets[0].classes == ("B", "a", "a b", "é")


def test_everything_may_be_below_one_top_folder(write):
    files = noise_images()
    plain = load_image_folder(write({f"top/{name}": content for name, content in files.items()} | {"README": b""}))
    assert plain.classes == ("cat", "dog")
    assert np.array_equal(plain.parts["test"].images[0], pixels_of(files["test/cat/0.png"]))


def test_mean_and_std_are_over_all_training_images(write):
    place = write(noise_images())
    dataset = data.load(Data(source="image_folder", dir=str(place), validation=0.2))
    images = load_image_folder(place).parts["train"].images / 255
    assert dataset.preprocessing.mean == tuple(images.mean((0, 1, 2)).round(4).tolist())
    assert dataset.preprocessing.std == tuple(images.std((0, 1, 2)).round(4).tolist())
    assert (dataset.preprocessing.height, dataset.preprocessing.width) == (8, 6)


@pytest.mark.parametrize("chunk", [1, 200, 10**9])
def test_mean_and_std_do_not_depend_on_the_chunk_size(chunk, monkeypatch):
    monkeypatch.setattr(pixels, "CHUNK_BYTES", chunk)
    images = np.random.default_rng(1).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)
    mean, std = mean_and_std(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), atol=5.1e-5)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), atol=5.1e-5)


def test_grayscale_images_have_one_channel(write):
    files = noise_images(shape=(8, 6))
    loaded = load_image_folder(write(files))
    assert loaded.parts["train"].images.shape == (10, 8, 6, 1)
    assert np.array_equal(loaded.parts["train"].images[0, ..., 0], pixels_of(files["train/cat/0.png"]))
    assert len(loaded.mean) == len(loaded.std) == 1


@pytest.mark.parametrize("color", ["train/cat/0.png", "train/dog/3.png", "test/dog/1.png"])
def test_one_color_image_makes_all_images_rgb(write, color):
    files = noise_images(shape=(8, 6))
    files[color] = png(np.full((8, 6, 3), (1, 2, 3), np.uint8))
    parts = load_image_folder(write(files)).parts
    names = sorted(name for name in files if name.startswith("train")), sorted(n for n in files if n.startswith("test"))
    for part, paths in zip(("train", "test"), names, strict=True):
        for image, name in zip(parts[part].images, paths, strict=True):
            expected = pixels_of(files[name])
            assert np.array_equal(image, expected if name == color else np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_images_equal_those_that_predict_reads(write, tmp_path, kind):
    files = noise_images()
    file = io.BytesIO()
    Image.open(io.BytesIO(files.pop("train/cat/0.png"))).save(file, kind)
    files[f"train/cat/0.{kind}"] = file.getvalue()
    dataset = data.load(Data(source="image_folder", dir=str(write(files)), validation=0.2))
    (tmp_path / "photo").write_bytes(file.getvalue())
    image = load_image_folder(write(files)).parts["train"].images[0]
    assert np.array_equal(image, read_image(str(tmp_path / "photo"), dataset.preprocessing))


def test_exif_rotation_is_applied_before_the_size_check(write):
    files = noise_images()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    lying = np.random.default_rng(2).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    files["train/cat/1.png"] = png(lying, exif=exif)
    assert np.array_equal(load_image_folder(write(files)).parts["train"].images[1], np.rot90(lying, -1))


def pgm16(values):
    return b"P5 %d %d 65535\n" % values.shape[::-1] + values.astype(">u2").tobytes()


def tiff(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    return file.getvalue()


def test_16_bit_values_are_scaled_and_not_clipped(write):
    values = np.arange(48, dtype=np.uint16).reshape(8, 6) * 1300
    contents = {
        "pgm": pgm16(values),
        "png": png(values),
        "tiff": tiff(values),
        "int.tiff": tiff(values.astype(np.int32)),
    }
    for suffix, content in contents.items():
        files = noise_images(shape=(8, 6))
        del files["train/cat/0.png"]
        image = load_image_folder(write(files | {f"train/cat/0.{suffix}": content})).parts["train"].images[0]
        np.testing.assert_array_equal(image[..., 0], values >> 8, err_msg=suffix)


@pytest.mark.parametrize("values", [np.full((8, 6), 0.5, np.float32), np.full((8, 6), 70_000, np.int32)])
def test_values_with_an_unknown_range_are_refused(write, values):
    files = noise_images(shape=(8, 6)) | {"train/cat/9.tiff": tiff(values)}
    refused(write(files), "9.tiff cannot be read as an image .*convert it to 8 or 16 bits")


def test_files_that_are_not_images_are_left_out(write):
    others = (
        "README", "README.txt", "train/cat/Thumbs.db", "train/cat/.hidden.png", "train/cat/notes.txt", ".git/config",
        "__MACOSX/train/cat/._0.png", "__MACOSX/._train", "train/.DS_Store", "test/.cache/0.png", "train/list.txt",
        "other/cat/0.png", "sample.png",
    )  # fmt: skip
    loaded = load_image_folder(write(noise_images() | dict.fromkeys(others, b"something")))
    assert loaded.classes == ("cat", "dog")
    assert len(loaded.parts["train"].labels) == 10
    (notice,) = loaded.notices
    assert notice.startswith("7 files of ")
    for name in ("README", "train/cat/Thumbs.db", "train/list.txt", "other/cat/0.png", "sample.png"):
        assert name in notice


def test_one_file_is_counted_as_one(write):
    (notice,) = load_image_folder(write(noise_images() | {"train/notes.txt": b"something"})).notices
    assert notice.startswith("1 file of ")


def test_images_are_recognized_by_content_and_not_by_suffix(write):
    files = {name.replace("train/cat/1.png", "train/cat/1.jfif"): content for name, content in noise_images().items()}
    loaded = load_image_folder(write(files))
    assert len(loaded.parts["train"].labels) == 10
    assert loaded.notices == ()


def test_a_val_folder_becomes_the_validation_part(write):
    files = noise_images()
    given = {name.replace("test/", "val/"): content for name, content in files.items() if name.startswith("test")}
    dataset = data.load(Data(source="image_folder", dir=str(write(files | given))))
    assert [len(dataset.part(part).labels) for part in ("train", "validation", "test")] == [10, 4, 4]
    assert dataset.notices == ()


@pytest.mark.parametrize("layout", ["train", "no parts"])
def test_missing_splits_are_taken_from_training_and_reported(write, layout):
    names = [name for name in noise_images() if name.startswith("train")]
    files = {name if layout == "train" else name.removeprefix("train/"): noise_images()[name] for name in names}
    config = Data(source="image_folder", dir=str(write(files)), validation=0.25, test=0.2)
    dataset = data.load(config)
    assert [len(dataset.part(part).labels) for part in ("train", "validation", "test")] == [6, 2, 2]
    assert np.bincount(dataset.test.labels).tolist() == [1, 1]
    assert dataset.notices == (
        "image_folder has no test images; 2 of 10 training images were set aside as test images "
        "(data.test, data.split_seed)",
    )
    assert np.array_equal(data.load(config).test.images, dataset.test.images)
    assert data.load(config.replace(split_seed=1)).split_hash != dataset.split_hash


def test_photos_of_any_size_are_resized_and_cropped(write):
    rng = np.random.default_rng(3)
    files = noise_images() | {"train/cat/0.png": png(rng.integers(0, 256, (40, 90, 3), dtype=np.uint8))}
    dataset = data.load(Data(source="image_folder", dir=str(write(files)), validation=0.2, size=16))
    assert dataset.train.image_shape == (16, 16, 3)
    chain = dataset.preprocessing
    assert (chain.resize, chain.resize_size, chain.height, chain.width) == ("short", 16, 16, 16)
    refused(write(files), r"all must have the same size: give --data.size PIXELS")


def test_damaged_files_are_listed_together_or_skipped(write):
    files = noise_images() | {"train/dog/2.png": b"", "test/cat/1.png": b"text"}
    place = write(files)
    refused(place, "2 files cannot be read as images, .*: train/dog/2.png, test/cat/1.png$")
    dataset = data.load(Data(source="image_folder", dir=str(place), validation=0.25, skip_damaged=True))
    assert dataset.notices[0].startswith("2 damaged files of ")
    assert len(dataset.train.labels) + len(dataset.validation.labels) == 9
    assert dataset.test.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("deep", ["a/b/c/d", "a/b/c/d/e/f/g/h"])
def test_images_are_counted_or_refused_at_any_depth(write, deep):
    files = noise_images()
    image = files["train/cat/0.png"]
    (notice,) = load_image_folder(write(files | {f"extra/{deep}/0.png": image, "extra/a/1.png": image})).notices
    assert notice.startswith("2 files of ")
    assert f"extra/{deep}/0.png" in notice
    refused(write(files | {f"train/cat/{deep}/0.png": image}), f"train/cat/{deep}/0.png does not follow the layout")


def test_a_loop_of_symlinks_ends(tmp_path):
    folder = write_folder(tmp_path / "images", noise_images())
    (folder / "extra").mkdir()
    (folder / "extra/loop").symlink_to("..")
    loaded = load_image_folder(folder)
    assert len(loaded.parts["train"].labels) == 10
    assert "extra/loop" in loaded.notices[0]


def test_two_names_of_a_part_are_refused(write):
    files = noise_images()
    copies = {f"{part}/{name.partition('/')[2]}": files[name] for name in files for part in ("val", "valid")}
    refused(write(files | copies), "has the folders val and valid, which all stand for the validation images; keep one")


def test_zips_from_windows_are_read(tmp_path):
    files = noise_images()
    plain = load_image_folder(write_zip(tmp_path / "plain.zip", files))
    content = (tmp_path / "plain.zip").read_bytes()
    for name in files:
        content = content.replace(name.encode(), name.replace("/", "\\").encode())
    (tmp_path / "backslash.zip").write_bytes(content)
    loaded = load_image_folder(tmp_path / "backslash.zip")
    assert all(np.array_equal(loaded.parts[part].images, plain.parts[part].images) for part in plain.parts)


@pytest.mark.parametrize("options", [{"size": 32}, {"skip_damaged": True}])
def test_image_folder_options_are_refused_for_other_sources(options):
    with pytest.raises(UserError, match="is given for fashion_mnist_mini; it does not have that option"):
        data.load(Data(**options))


def test_a_damaged_image_is_named(write):
    files = noise_images()
    whole = files["train/dog/2.png"]
    for content in (b"", b"text", whole[:100], whole[:-40]):
        files["train/dog/2.png"] = content
        refused(write(files), "train/dog/2.png cannot be read as an image")


def test_a_file_with_a_misleading_image_suffix_is_refused(write):
    page = io.BytesIO()
    Image.new("RGB", (6, 8)).save(page, "EPS")
    files = noise_images() | {"train/dog/2.png": page.getvalue()}
    refused(write(files), r"2.png cannot be read as an image \(not an image\)")


def test_different_sizes_are_refused_and_both_files_named(write):
    files = noise_images() | {"train/dog/1.png": png(np.zeros((9, 6, 3), np.uint8))}
    refused(write(files), "train/cat/0.png is 6x8 pixels and train/dog/1.png 6x9; all must have the same size")
    files["train/dog/1.png"] = png(np.zeros((6, 8, 3), np.uint8))
    refused(write(files), "train/cat/0.png is 6x8 pixels and train/dog/1.png 8x6; all must have the same size")


@pytest.mark.parametrize("name", ["train/cat/0.png", "train/dog/1.png"])
def test_a_far_too_large_image_is_refused_before_decoding(write, name, monkeypatch):
    header = bytearray(png(np.zeros((8, 6), np.uint8)))
    chunk = b"IHDR" + (50_000).to_bytes(4, "big") * 2 + header[24:29]
    header[12:33] = chunk + zipfile.crc32(chunk).to_bytes(4, "big")
    refused(write(noise_images() | {name: bytes(header)}), f"{name} cannot be read as an image .*exceeds limit")


def test_an_image_with_another_size_is_not_decoded(write, monkeypatch):
    place = write(noise_images() | {"train/dog/1.png": png(np.zeros((90, 60), np.uint8))})
    seen = []
    eight_bits = image_files.eight_bits
    monkeypatch.setattr(image_files, "eight_bits", lambda image, _: seen.append(image.size) or eight_bits(image, 65535))
    refused(place, "train/dog/1.png 60x90")
    assert set(seen) == {(6, 8)}


def test_too_many_pixels_are_refused(write, monkeypatch):
    monkeypatch.setattr(pixels, "MOST_PIXEL_BYTES", 14 * 8 * 6 * 3)
    place = write(noise_images())
    assert load_image_folder(place)
    monkeypatch.setattr(pixels, "MOST_PIXEL_BYTES", 14 * 8 * 6 * 3 - 1)
    refused(place, "holds 14 images of 6x8 pixels")


def test_the_pixel_limit_includes_grayscale_images_that_become_rgb(write, monkeypatch):
    monkeypatch.setattr(pixels, "MOST_PIXEL_BYTES", 14 * 8 * 6)
    files = noise_images(shape=(8, 6))
    assert load_image_folder(write(files))
    refused(write(files | {"test/dog/1.png": noise_images()["test/dog/1.png"]}), "holds 14 images")


def without(prefix):
    return {name: content for name, content in noise_images().items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no folder train"),
        ({"README": b""}, "has no folder train"),
        (without("train"), "has no folder train"),
        ({f"a/b/{name}": content for name, content in noise_images().items()}, "has no folder train"),
        (noise_images() | {"test/bird/0.png": b""}, "the test images have a class 'bird'"),
        (without("test/cat"), "the test images have no class 'cat'"),
        (without("train/cat"), "the test images have a class 'cat'"),
        (without("train/cat") | {"train/cat/notes.txt": b""}, "the class 'cat' has no images in train"),
        (without("test/dog") | {"test/dog/notes.txt": b""}, "the class 'dog' has no images in test"),
        (noise_images() | {"train/0.png": b""}, "/train/0.png does not follow the layout train/CLASS/FILE"),
        (
            noise_images() | {"train/cat/young/0.png": b""},
            "/train/cat/young/.* does not follow the layout train/CLASS/FILE",
        ),
        (
            dict.fromkeys(noise_images(), png(np.full((8, 6), 7, np.uint8))),
            "a channel has the same value in all training images",
        ),
    ],
)
def test_other_layouts_are_refused(write, tmp_path, files, message):
    (tmp_path / "images").mkdir()
    refused(write(files), message)


def test_a_missing_folder_is_refused(tmp_path):
    refused(tmp_path / "missing", "there is no directory or zip")
    with pytest.raises(UserError, match="image_folder needs --data.dir, a directory or a zip laid out as train/CLASS"):
        data.load(Data(source="image_folder"))


def test_an_empty_class_folder_is_refused(tmp_path):
    folder = write_folder(tmp_path / "images", noise_images())
    (folder / "train" / "bird").mkdir()
    refused(folder, "the class 'bird' has no images in train")


class TestHostileZips:
    @pytest.mark.parametrize(
        "name", ["../train/cat/9.png", "train/cat/../../../9.png", "/train/cat/9.png", "C:/9.png", "..\\9.png", "../x"]
    )
    def test_a_path_outside_the_zip_is_refused(self, tmp_path, name):
        refused(write_zip(tmp_path / "images.zip", noise_images() | {name: b""}), "a symlink or a path outside")
        assert [path.name for path in tmp_path.iterdir()] == ["images.zip"]

    def test_an_unsupported_compression_is_refused(self, tmp_path):
        path = tmp_path / "images.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
            for name, data in noise_images().items():
                archive.writestr(name, data)
        refused(path, "uses an unsupported compression")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_a_duplicate_name_is_refused(self, tmp_path):
        path = write_zip(tmp_path / "images.zip", noise_images())
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(archive.namelist()[0], b"again")
        refused(path, " twice; recreate the zip")

    def test_a_symlink_is_refused(self, tmp_path):
        path = write_zip(tmp_path / "images.zip", noise_images())
        link = zipfile.ZipInfo("train/cat/9.png")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(link, "/etc/passwd")
        refused(path, "'train/cat/9.png', a symlink or a path outside the zip")

    def test_a_zip_bomb_is_refused_before_reading(self, tmp_path, monkeypatch):
        swelling = bytes(image_files.MOST_FILE_BYTES + 1)
        path = write_zip(tmp_path / "images.zip", noise_images() | {"train/cat/9.png": swelling})
        assert path.stat().st_size < len(swelling) / 500
        asked = []
        opened = zipfile.ZipFile.open
        monkeypatch.setattr(
            zipfile.ZipFile, "open", lambda archive, member: asked.append(member.filename) or opened(archive, member)
        )
        refused(path, "train/cat/9.png cannot be read as an image .*67,108,865 bytes; at most 67,108,864 are allowed")
        assert asked
        assert "train/cat/9.png" not in asked

    def test_a_member_larger_than_it_claims_is_refused(self, tmp_path):
        path = write_zip(tmp_path / "images.zip", noise_images() | {"train/cat/9.png": bytes(10**6)})
        size = (10**6).to_bytes(4, "little")
        assert path.read_bytes().count(size) == 2
        path.write_bytes(path.read_bytes().replace(size, (100).to_bytes(4, "little")))
        refused(path, "train/cat/9.png cannot be read as an image .*CRC")

    @pytest.mark.parametrize("share", [0, 0.5, 0.99])
    def test_a_truncated_zip_is_refused(self, tmp_path, share):
        path = write_zip(tmp_path / "images.zip", noise_images())
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        refused(path, "cannot be read as a zip")

    def test_a_changed_byte_is_refused(self, tmp_path):
        path = write_zip(tmp_path / "images.zip", noise_images())
        content = bytearray(path.read_bytes())
        content[60] ^= 255
        path.write_bytes(content)
        refused(path, "cannot be read as an image")

    def test_nothing_is_written_to_disk(self, tmp_path, monkeypatch):
        path = write_zip(tmp_path / "images.zip", noise_images())
        monkeypatch.chdir(tmp_path)
        load_image_folder(path)
        assert list(tmp_path.iterdir()) == [path]


class TestCifar10:
    @pytest.fixture
    def files(self):
        return noise_images((32, 32, 3), CIFAR10_CLASSES)

    def test_the_mean_equals_the_published_one(self, write, files):
        dataset = data.load(Data(source="cifar10", dir=str(write(files)), validation=0.2))
        assert dataset.classes == CIFAR10_CLASSES
        assert dataset.preprocessing.mean == (0.4914, 0.4822, 0.4465)
        assert dataset.preprocessing.std == (0.2470, 0.2435, 0.2616)
        assert len(dataset.train.labels) == 40

    @pytest.mark.parametrize("place", ["cifar10", "cifar10.zip", ""])
    def test_the_folder_is_found_through_the_environment(self, tmp_path, monkeypatch, files, place):
        (write_zip if place.endswith("zip") else write_folder)(tmp_path / place, files)
        monkeypatch.setenv("CNNJAX_DATA", str(tmp_path))
        assert len(data.load(Data(source="cifar10", validation=0.2)).test.labels) == 20

    def test_other_images_are_refused(self, write):
        with pytest.raises(UserError, match="8x6x3 in the classes cat, dog, and CIFAR-10 has 32x32x3 images"):
            data.load(Data(source="cifar10", dir=str(write(noise_images()))))

    def test_a_missing_data_set_is_reported_with_every_searched_path(self, tmp_path, monkeypatch):
        with pytest.raises(
            UserError, match=f"none of {tmp_path}/cifar10, {tmp_path}/cifar10.zip, {tmp_path} has cifar"
        ):
            data.load(Data(source="cifar10", dir=str(tmp_path)))
        monkeypatch.delenv("CNNJAX_DATA", raising=False)
        with pytest.raises(UserError, match=r"cifar10 was not found: .* --data.dir DIR or CNNJAX_DATA=DIR"):
            data.load(Data(source="cifar10"))


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3), (1, 1), (3, 1, 3)])
def test_exported_images_equal_the_test_images(write, tmp_path, shape):
    files = noise_images(shape)
    dataset = data.load(Data(source=f"image_folder:{write(files)}"), divide=False)
    paths = export_images(dataset, tmp_path / "photos", 3)
    assert [path.name for path in paths] == ["00000-cat.png", "00001-cat.png", "00002-dog.png"]
    for path, name in zip(paths, ["test/cat/0.png", "test/cat/1.png", "test/dog/0.png"], strict=True):
        assert np.array_equal(pixels_of(path.read_bytes()), pixels_of(files[name]))
