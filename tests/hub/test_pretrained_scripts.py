"""predict, evaluate and pretrained as a user runs them on published networks."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from cnnjax.data.class_names import FASHION_CLASSES
from cnnjax.data.sources import EMBEDDED, read_split
from tests.hub.fixtures import surroundings, weights
from tests.hub.server import serving
from tests.script import run_script

LENET = "lenet.fashion_mnist"
PER_CLASS = 4


@pytest.fixture(scope="session")
def photos():
    """Four test images of each class of Fashion-MNIST, by class."""
    split = read_split(EMBEDDED, "test")
    return [split.images[split.labels == label][:PER_CLASS, ..., 0] for label in range(10)]


@pytest.fixture
def folder(photos, tmp_path):
    """Return a function that writes the photos as an image folder, given the name of each class."""

    def write(names, top="photos"):
        for name, images in zip(names, photos, strict=True):
            (tmp_path / top / name).mkdir(parents=True)
            for number, pixels in enumerate(images):
                Image.fromarray(pixels).save(tmp_path / top / name / f"{number}.png")
        return tmp_path / top

    return write


@pytest.fixture
def script(tmp_path):
    return lambda name, *arguments, **environment: run_script(name, *arguments, cwd=tmp_path, **environment)


def figures(output: str, row: str) -> list[str]:
    """Return loss, top-1 and top-5 in a row of the printed table."""
    line = next(line for line in output.splitlines() if row in line)
    return [cell.strip(" %") for cell in line.strip("│").split("│")[1:]]


def rows_of(path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_predict_prints_images_and_classes_as_the_keras_tutorials_do(folder, script):
    photos = folder([f"class{label}" for label in range(10)])
    done = script("predict.py", "--pretrained", LENET, photos / "class9" / "0.png", photos / "class1", "--top", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 * (1 + PER_CLASS)
    assert lines[0] == f"Image #0: {photos}/class9/0.png"
    assert lines[1] == " 9 - Ankle boot   99.94%"
    assert lines[3] == f"Image #1: {photos}/class1/0.png"
    assert lines[4].startswith(" 1 - Trouser      ")
    done = script("predict.py", "--pretrained", LENET, photos / "class9", "--json")
    assert json.loads(done.stdout.splitlines()[0])["classes"][0]["class"] == "Ankle boot"


def test_evaluate_finds_the_classes_by_name_and_by_number(folder, script):
    by_name = folder([name.replace("/", "_") if "/" not in name else "x" for name in FASHION_CLASSES], "wrong")
    done = script("evaluate.py", "--pretrained", LENET, "--data.source", f"image_folder:{by_name}")
    assert done.returncode == 2 and "the class 'x'" in done.stderr
    by_number = folder([str(label) for label in range(10)])
    done = script("evaluate.py", "--pretrained", LENET, "--data.source", f"image_folder:{by_number}")
    assert done.returncode == 0, done.stderr
    assert f"{10 * PER_CLASS} images, 10 classes" in done.stdout
    top1 = float(figures(done.stdout, "here")[1])
    assert 75 <= top1 <= 100
    assert figures(done.stdout, "published") == ["-", "90.56", "99.86"]
    several = script("evaluate.py", "--pretrained", LENET, "--data.source", f"image_folder:{by_number}", "--views", "2")
    assert "10 classes, 2 views of each" in several.stdout
    assert figures(several.stdout, "here")[0] != figures(done.stdout, "here")[0]


def test_numbers_are_not_taken_for_positions(photos, tmp_path, script):
    """If there are only the folders 1 and 9, the first in sorted order is not class 0."""
    for label in (9, 1):
        (tmp_path / "two" / str(label)).mkdir(parents=True)
        Image.fromarray(photos[label][0]).save(tmp_path / "two" / str(label) / "a.png")
    done = script("evaluate.py", "--pretrained", LENET, "--data.source", f"image_folder:{tmp_path / 'two'}")
    assert figures(done.stdout, "here")[1] == "100.00"
    assert "2 images, 2 classes" in done.stdout


@pytest.mark.parametrize("form", ["FILE CLASS", "CLASS", "csv"])
def test_a_flat_folder_needs_a_ground_truth_file(photos, tmp_path, script, form):
    flat, truth = tmp_path / "flat", tmp_path / "truth.txt"
    flat.mkdir()
    right = [3, 9, 1, 0, 9, 8]

    for number, label in enumerate(right):
        Image.fromarray(photos[label][0]).save(flat / f"photo_{number}.png")
    line = {"FILE CLASS": "photo_{}.png {}", "CLASS": "{1}", "csv": "photo_{},{},x"}[form]

    def evaluate(labels):
        lines = ["ImageId,Label,Other"] if form == "csv" else []
        truth.write_text("\n".join([*lines, *(line.format(*pair) for pair in enumerate(labels))]) + "\n")
        where = ("--data.source", f"image_folder:{flat}", "--ground-truth", truth)
        return script("evaluate.py", "--pretrained", LENET, *where)

    done = evaluate(right)
    assert done.returncode == 0, done.stderr
    assert figures(done.stdout, "here")[1] == "100.00"
    few = "5 lines and the folder 6 images" if form == "CLASS" else "states no class for 1 image: photo_5.png"
    for labels, message in (
        (right[:-1], few),
        ([label + 1 for label in right], "numbers the classes from 1"),
        ([*right[:-1], "shoe"], "the class 'shoe' is not among the network's 10"),
    ):
        done = evaluate(labels)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_all_matching_networks_go_into_one_csv_file(folder, script, tmp_path, surroundings):
    place = folder([str(label) for label in range(10)])
    options = ("--data.source", f"image_folder:{place}", "--out", "figures.csv")
    done = script("evaluate.py", "--all", "lenet*", *options)
    assert done.returncode == 0, done.stderr
    (row,) = rows_of(tmp_path / "figures.csv")
    assert row["name"] == LENET and row["published_top1"] == "90.56" and not row["error"]
    assert float(row["top1"]) >= 75
    done = script("evaluate.py", "--all", "resnet20_cifar*", *options, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    rows = {row["name"]: row for row in rows_of(tmp_path / "figures.csv")}
    assert "is not in the cache" in rows["resnet20_cifar.akamaster_cifar10"]["error"]
    assert rows["resnet20_cifar.cifar10_jpeg"]["top1"]  # the digits are classes of CIFAR-10 too
    assert "1 network could not be evaluated" in done.stderr


def test_list_has_a_column_that_says_what_is_cached(script):
    done = script("pretrained.py", "list", "lenet*")
    assert done.returncode == 0 and "cached" in done.stdout and "included" in done.stdout
    done = script("pretrained.py", "list", "resnet50_v1")
    assert "resnet50_v1.keras_in1k" in done.stdout and "74.90" in done.stdout and "no" in done.stdout


def test_get_says_what_it_downloads_and_list_then_shows_it(script, weights):
    with serving(b"wrong") as (server, address):
        done = script("pretrained.py", "get", "resnet20_cifar.akamaster_cifar10", CNNJAX_MIRROR=address)
    assert done.returncode == 2
    assert f"downloading {address}/resnet20-12fca82f.th" in done.stderr
    assert "needs 12fca82f (as published)" in done.stderr
    assert "kept as" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrained.py", "get", "resnet50.tv"], "did you mean"),
        (["pretrained.py", "take"], "unknown command 'take'"),
        (["pretrained.py", "list", "nothing*"], "no published network matches 'nothing*'"),
        (["pretrained.py", "put", LENET, "file"], "is part of the package"),
        (["pretrained.py", "put", "resnet18.tv_in1k_v1", "missing.pth"], "there is no file missing.pth"),
        (["pretrained.py", "embed", "missing", "resnet18.tv_in1k_v1"], "is published by torchvision"),
        (["predict.py", "--pretrained", "lenet.fashion", "photo.png"], "did you mean 'lenet.fashion_mnist'"),
        (["predict.py", "--pretrained", LENET], "no IMAGE is given"),
        (["predict.py", "--pretrained", LENET, "missing.png"], "there is no image file"),
        (["predict.py", "--pretrained", "resnet18.tv_in1k_v1", "missing.png"], "there is no image file"),
        (["predict.py", "--pretrained", "resnet18.tv_in1k_v1", "a.png", "b.png"], "none of the 2 image files exists"),
        (["evaluate.py", "--pretrained", LENET], "without data"),
        (["evaluate.py", "--all", "lenet*", "--data.source", "image_folder:missing"], "no directory or zip"),
        (
            ["evaluate.py", "--pretrained", "resnet18.tv_in1k_v1", "--data.source", "image_folder:missing"],
            "no directory or zip",
        ),
        (["evaluate.py", "--all", "nothing*", "--data.source", "image_folder:."], "no published network matches"),
        (["evaluate.py", "--pretrained", LENET, "--data.source", "image_folder:empty"], "no directory or zip"),
        (["evaluate.py", "--pretrained", LENET, "--data.source", "mnist", "--ground-truth", "x"], "a folder of photos"),
    ],
)
def test_bad_input_is_one_error(arguments, message, tmp_path, script):
    done = script(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_folder_without_images_is_refused(tmp_path, script):
    (tmp_path / "empty" / "a").mkdir(parents=True)
    (tmp_path / "empty" / "b").mkdir()
    done = script("evaluate.py", "--pretrained", LENET, "--data.source", f"image_folder:{tmp_path / 'empty'}")
    assert done.returncode == 2 and "contains no images" in done.stderr
    (tmp_path / "truth.txt").write_text("a 1\n")
    where = ("--data.source", f"image_folder:{tmp_path / 'empty'}", "--ground-truth", tmp_path / "truth.txt")
    done = script("evaluate.py", "--pretrained", LENET, *where)
    assert done.returncode == 2 and "contains no images" in done.stderr
    done = script("predict.py", "--pretrained", LENET, tmp_path / "empty")
    assert done.returncode == 2 and "contains no image" in done.stderr


def test_photos_that_cannot_be_read_do_not_stop_the_others(photos, tmp_path, script):
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.png").write_bytes(b"no image")
    Image.fromarray(np.asarray(photos[9][0])).save(tmp_path / "mixed" / "b.png")
    done = script("predict.py", "--pretrained", LENET, tmp_path / "mixed", "--top", "1")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [f"Image #0: {tmp_path}/mixed/b.png", " 9 - Ankle boot   99.94%"]
    assert "1 of 2 images could not be read" in done.stderr
