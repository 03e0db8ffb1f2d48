"""Data mistakes that users of other libraries have reported: each is refused, or reported and made harmless."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from conftest import mostly_slow, without_figures, write_digits
from PIL import Image
from rich.console import Console

import cnnjax
from cnnjax import checkpoint, create
from cnnjax.config import Data, EarlyStopping, Experiment, Train
from cnnjax.data import Preprocessing
from cnnjax.data.idx import read_idx, write_idx
from cnnjax.errors import UserError
from cnnjax.functional import init
from cnnjax.runs import evaluation

SILENT = Console(quiet=True)
CLASSES = ("cat", "dog")


def write_images(root, counts, classes=CLASSES, shape=(28, 28), values=np.uint8, seed=0):
    """Write noise images as SPLIT/CLASS/NUMBER.png."""
    rng = np.random.default_rng(seed)
    for part, count in counts.items():
        for name in classes:
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = rng.integers(0, np.iinfo(values).max + 1 if values == np.uint8 else 4096, shape)
                Image.fromarray(pixels.astype(values)).save(root / part / name / f"{index:03}.png")
    return root


def experiment(folder, channels=1, **options) -> Experiment:
    return Experiment(
        model=create("mlp", num_classes=2, channels=channels),
        data=Data(source="image_folder", dir=str(folder), validation=0.2, **options),
        train=Train(epochs=1, batch_size=8),
        early_stopping=EarlyStopping(patience=None),
    )


@pytest.mark.trains_long
def test_a_finished_run_refuses_other_data(tmp_path):
    first = write_images(tmp_path / "first", {"train": 10, "test": 4})
    second = write_images(tmp_path / "second", {"train": 10, "test": 4}, seed=1)
    cnnjax.train(experiment(first), tmp_path / "run", console=SILENT)
    with pytest.raises(UserError, match=r"was trained on other data \(sha256 \w{12}, given \w{12}\)"):
        cnnjax.train(experiment(second), tmp_path / "run", console=SILENT)


@pytest.mark.trains_long
@pytest.mark.parametrize("stream", mostly_slow(["never", "always"], 1, pytest.mark.trains_long))
def test_training_images_are_never_used_for_validation(tmp_path, stream):
    folder = write_images(tmp_path / "photos", {"train": 20, "test": 4})
    run = cnnjax.train(experiment(folder, size=28, stream=stream), tmp_path / "run", console=SILENT)
    before = run.dataset()
    assert len(before.names["validation"]) == 8
    assert not set(before.names["train"]) & set(before.names["validation"])
    write_images(tmp_path / "more", {"train": 3}, seed=1)
    for name in CLASSES:
        (tmp_path / "more/train" / name / "000.png").rename(folder / "train" / name / "000b.png")
    lost = before.names["validation"][0]
    (folder / lost).unlink()
    after = cnnjax.load(tmp_path / "run").dataset()
    assert after.names["validation"] == before.names["validation"][1:]
    assert after.names["train"] == before.names["train"]
    assert f"1 image of the run missing: {lost}" in after.notices
    assert any("2 images added since the run, not used: train/cat/000b.png" in n for n in after.notices)
    validation = before.validation.read(np.arange(1, 8))
    assert np.array_equal(after.validation.read(np.arange(7)), validation)
    assert cnnjax.load(tmp_path / "run").evaluate("validation").images == 7


def copy_images(folder, source, target):
    for name in CLASSES:
        shutil.copy(folder / source / name / "000.png", folder / target / name / "900.png")


@pytest.fixture(scope="module")
def trained_on_parts(tmp_path_factory):
    """A run on a folder with all three parts; tests copy both."""
    root = tmp_path_factory.mktemp("parts")
    write_images(root / "photos", {"train": 10, "val": 4, "test": 4})
    with without_figures():
        cnnjax.train(experiment(root / "photos"), root / "run", console=SILENT)
    return root


@pytest.fixture(scope="module")
def trained_without_parts(tmp_path_factory):
    """A run on a folder with training images only, whose test images were drawn by the seed."""
    root = tmp_path_factory.mktemp("whole")
    with without_figures():
        cnnjax.train(experiment(write_images(root / "photos", {"train": 20}), test=0.2), root / "run", console=SILENT)
    return root


def moved(trained, tmp_path):
    """Return a copy of the run whose data are a copy of the photos, and those photos."""
    shutil.copytree(trained / "run", tmp_path / "run")
    shutil.copytree(trained / "photos", tmp_path / "photos")
    config = tmp_path / "run/config.json"
    config.write_text(config.read_text().replace(str(trained / "photos"), str(tmp_path / "photos")))
    return cnnjax.load(tmp_path / "run"), tmp_path / "photos"


@pytest.mark.parametrize(("part", "folder"), [("test", "test"), ("validation", "val")])
def test_training_images_copied_into_another_part_are_not_counted(trained_on_parts, tmp_path, part, folder):
    run, photos = moved(trained_on_parts, tmp_path)
    before = run.evaluate(part)
    copy_images(photos, "train", folder)
    dataset = run.dataset()
    assert f"2 images added since the run, not used: {folder}/cat/900.png, {folder}/dog/900.png" in dataset.notices
    assert evaluation.compare(run.network, dataset, part) is None
    after = run.evaluate(part)
    assert (after.images, after.loss) == (before.images, before.loss)


def test_a_new_part_does_not_replace_a_recorded_one(trained_without_parts, tmp_path):
    run, folder = moved(trained_without_parts, tmp_path)
    before = run.dataset()
    write_images(folder, {"test": 2, "val": 2}, seed=1)
    after = cnnjax.load(tmp_path / "run").dataset()
    assert after.names == before.names
    assert (after.part_hashes, after.split_hash) == (before.part_hashes, before.split_hash)
    assert any(notice.startswith("8 images added since the run, not used") for notice in after.notices)


def test_changed_contents_are_refused_or_reported(trained_on_parts, tmp_path):
    run, photos = moved(trained_on_parts, tmp_path)
    write_images(photos, {"train": 10, "val": 4, "test": 4}, seed=5)
    dataset = run.dataset()
    for part in ("train", "validation"):
        with pytest.raises(UserError, match=rf"the {part} images of image_folder are not those of the run \(sha256 \w"):
            evaluation.evaluate(run.network, dataset, part)
    notice = evaluation.compare(run.network, dataset, "test")
    assert notice.startswith("the test images of image_folder are not those of the run (sha256 ")
    assert evaluation.evaluate(run.network, dataset, "test").images == 8


def test_runs_without_hashes_of_their_parts_are_compared_as_a_whole(trained_on_parts, trained_without_parts, tmp_path):
    """As older versions wrote them."""

    def older(trained, name):
        run, photos = moved(trained, tmp_path / name)
        network = run.network
        data = {key: network.data[key] for key in ("name", "content_hash", "split_hash")}
        run._network = dataclasses.replace(network, data=data)
        return run, photos

    run, photos = older(trained_on_parts, "parts")
    assert evaluation.compare(run.network, run.dataset(), "validation") is None
    copy_images(photos, "train", "test")
    assert "recorded only a sha256 of all images" in evaluation.compare(run.network, run.dataset(), "validation")
    run, photos = older(trained_without_parts, "whole")
    (photos / "train/cat/000.png").unlink()
    drawn = cnnjax.data.load(Data(source=f"image_folder:{photos}", validation=0.2), like=run.network.preprocessing)
    with pytest.raises(UserError, match="the images of image_folder are not those of the run .sha256"):
        evaluation.compare(run.network, drawn, "validation")


def test_contents_that_cannot_be_compared_are_reported(trained_on_parts, tmp_path):
    run, photos = moved(trained_on_parts, tmp_path)
    (photos / "test/cat/000.png").unlink()
    dataset = run.dataset()
    assert "1 image of the run missing: test/cat/000.png" in dataset.notices
    assert evaluation.compare(run.network, dataset, "test").endswith("because some are missing")
    assert evaluation.compare(run.network, dataset, "validation") is None


def test_other_photos_with_the_same_names_are_all_used(trained_on_parts, tmp_path):
    run = cnnjax.load(trained_on_parts / "run")
    other = Data(source=f"image_folder:{write_images(tmp_path / 'other', {'train': 2, 'test': 7}, seed=3)}")
    dataset = run.dataset(other, divide=False)
    assert len(dataset.test.labels) == 14
    assert "are not those of the run" in evaluation.compare(run.network, dataset, "test")
    same = shutil.copytree(trained_on_parts / "photos", tmp_path / "same")
    copy_images(same, "train", "test")
    assert len(run.dataset(Data(source=f"image_folder:{same}"), divide=False).test.labels) == 8


@pytest.mark.trains_long
def test_a_removed_label_does_not_move_training_images_to_validation(tmp_path):
    """The split of images in memory is drawn by the seed; one image fewer draws another split."""
    digits = write_digits(tmp_path / "digits")
    config = experiment(digits).replace(model=create("mlp"), data=Data(source="mnist", dir=str(digits), validation=0.2))
    run = cnnjax.train(config, tmp_path / "run", console=SILENT)
    for part in ("train", "validation", "test"):
        assert evaluation.compare(run.network, run.dataset(), part) is None
    for stem, axes in (("train-images-idx3-ubyte", 3), ("train-labels-idx1-ubyte", 1)):
        write_idx(digits / stem, read_idx(digits / stem, axes)[1:])
    shorter = run.dataset()
    for part in ("train", "validation"):
        with pytest.raises(UserError, match="are not those of the run .*so the run may have trained on some of them"):
            evaluation.evaluate(run.network, shorter, part)
    assert evaluation.compare(run.network, shorter, "test") is None


def test_test_images_drawn_from_other_photos_are_refused(trained_without_parts, tmp_path):
    run = cnnjax.load(trained_without_parts / "run")
    copy = shutil.copytree(trained_without_parts / "photos", tmp_path / "copy")
    (copy / run.dataset().names["train"][0]).unlink()
    with pytest.raises(UserError, match="the test images of image_folder are not those of the run"):
        run.evaluate("test", Data(source=f"image_folder:{copy}"))


@pytest.mark.trains_long
def test_12_bit_images_are_reported_and_can_be_scaled(tmp_path):
    folder = write_images(tmp_path / "photos", {"train": 10, "test": 4}, values=np.uint16)
    dark = cnnjax.data.load(experiment(folder).data)
    assert dark.train.read(np.arange(8)).max() == 15
    assert any(
        "65,535 becomes white, and the largest value seen is 4,095; if they have 12 bits, give --data.max-value 4095"
        in notice
        for notice in dark.notices
    )
    scaled = experiment(folder, max_value=4095)
    assert cnnjax.data.load(scaled.data).train.read(np.arange(8)).max() == 255
    run = cnnjax.train(scaled, tmp_path / "run", console=SILENT)
    assert run.network.preprocessing.max_value == 4095
    path = folder / run.dataset().names["test"][0]
    assert np.array_equal(run.network.read([str(path)]), run.dataset().test.read(np.arange(1)))
    with pytest.raises(UserError, match=r"because of: its values go up to 40\d\d; --data.max-value 2047 is too low"):
        cnnjax.data.load(experiment(folder, max_value=2047).data)


def converted(tmp_path, classes, preprocessing):
    arch = create("mlp", num_classes=len(classes), channels=3, input_size=preprocessing.height)
    info = {
        "epoch": 0, "model": arch.to_dict(), "classes": list(classes), "preprocessing": preprocessing.to_dict(),
    }  # fmt: skip
    variables = {"variables": init(arch, jax.random.key(0))._asdict()}
    checkpoint.save(tmp_path / "network/checkpoints", 0, variables, info)
    return cnnjax.load(tmp_path / "network")


def test_grayscale_photos_of_any_size_fit_an_rgb_network(tmp_path):
    """`evaluate` and `predict` see the same pixels."""
    folder = write_images(tmp_path / "photos", {"train": 4, "test": 3}, shape=(40, 60))
    preprocessing = Preprocessing(
        height=16, width=16, resize="short", resize_size=20, mean=(0.5,) * 3, std=(0.2,) * 3, interpolation="bicubic"
    )
    network = converted(tmp_path, CLASSES, preprocessing)
    dataset = network.dataset(Data(source=f"image_folder:{folder}"), divide=False)
    images = network.network.read([str(folder / name) for name in dataset.names["test"]])
    assert np.array_equal(dataset.test.read(np.arange(6)), images)
    assert network.evaluate("test", Data(source=f"image_folder:{folder}")).images == 6


def test_other_sources_are_converted_as_in_predict(tmp_path, digits):
    classes = tuple("0123456789")
    preprocessing = Preprocessing(height=16, width=16, mean=(0.5,) * 3, std=(0.2,) * 3)
    network = converted(tmp_path, classes, preprocessing)
    dataset = network.dataset(Data(source="mnist", dir=str(digits)), divide=False)
    assert dataset.test.image_shape == (16, 16, 3)
    assert any("28x28x1, are converted to fit the network" in notice for notice in dataset.notices)
    Image.fromarray(cnnjax.data.load(Data(source="mnist", dir=str(digits))).test.images[5, :, :, 0]).save(
        tmp_path / "five.png"
    )
    assert np.array_equal(dataset.test.read(np.array([5]))[0], network.network.read([str(tmp_path / "five.png")])[0])


def test_classes_are_matched_by_name(tmp_path):
    """Folders "10" and "11" sort before "2", but a converted network counts 0, 1, 2."""
    classes = tuple(map(str, range(12)))
    folder = write_images(tmp_path / "photos", {"train": 2, "test": 2}, classes=classes)
    network = converted(tmp_path, classes, Preprocessing(height=28, width=28, mean=(0.5,) * 3, std=(0.2,) * 3))
    report = network.evaluate("test", Data(source="image_folder", dir=str(folder)))
    assert np.array_equal(report.confusion.sum(axis=1), np.full(12, 2))
    images = [str(folder / "test" / name / f"{index:03}.png") for name in classes for index in range(2)]
    answers = [int(answer[0][0]) for answer in network.predict(images, top=1)]
    expected = np.zeros((12, 12), int)
    np.add.at(expected, (np.repeat(np.arange(12), 2), answers), 1)
    assert np.array_equal(report.confusion, expected)


@pytest.mark.trains_long
def test_files_that_were_left_out_are_recorded(tmp_path):
    folder = write_images(tmp_path / "photos", {"train": 10, "test": 4})
    (folder / "train/cat/003.png").write_bytes(b"")
    (folder / "train/notes.txt").write_text("a note")
    run = cnnjax.train(experiment(folder, skip_damaged=True), tmp_path / "run", console=SILENT)
    recorded = json.loads((run.path / "files.json").read_text())
    assert (recorded["damaged"], recorded["unused"]) == (["train/cat/003.png"], ["train/notes.txt"])
    entry = json.loads((run.path / "environment.json").read_text())[0]["data"]
    assert (entry["damaged"], entry["unused"]) == ("1 file: train/cat/003.png", "1 file: train/notes.txt")
    page = (run.path / "report.html").read_text()
    assert "<td>damaged files</td><td>1 file: train/cat/003.png</td>" in page
    assert run.dataset().names["train"] == recorded["train"]
    streamed = cnnjax.data.load(experiment(folder, skip_damaged=True, size=28, stream="always").data)
    assert {kind: recorded[kind] for kind in streamed.left_out} == streamed.left_out


def test_a_damaged_files_json_is_refused(trained_on_parts, tmp_path):
    run, _ = moved(trained_on_parts, tmp_path)
    for text in ("[]", "{", '{"train": [1], "validation": [], "test": []}', "[" * 100_000):
        (tmp_path / "run/files.json").write_text(text)
        with pytest.raises(UserError, match=r"files.json is damaged: it must hold a list of paths for each of train"):
            run.dataset()
