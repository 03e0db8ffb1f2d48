"""`scripts/data.py check` on folders with known faults."""

import io

import numpy as np
import pytest
from PIL import Image

from cnnjax.config import Data
from cnnjax.data.examination import examine, find_duplicates
from cnnjax.errors import PartlyDone, UserError
from cnnjax.report import data_page
from scripts.data import run


def picture(rng, size=(60, 40)):
    """Return a unique smooth image."""
    return Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for index in range(count):
                picture(rng).save(tmp_path / "photos" / part / name / f"{index}.png")
    return tmp_path / "photos"


def texts(place):
    examined = examine(Data(source=f"image_folder:{place}"))
    found = data_page.findings(examined, find_duplicates(examined))
    return [finding.text for finding in found if finding.wrong], [f.text for f in found if not f.wrong]


def test_a_valid_folder_has_no_problems(folder, tmp_path, capsys):
    assert texts(folder) == ([], [])
    run(["check", f"image_folder:{folder}", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    for text in ("pixel format: RGB (22)", "width in pixels: 60\n", "height in pixels: 40\n"):
        assert text in printed
    assert "cat" in (tmp_path / "out/data.html").read_text()
    with Image.open(tmp_path / "out/examples.png") as image:
        assert image.size > (400, 100)


def test_equal_images_in_two_splits_or_classes_are_reported(folder):
    (folder / "test/cat/copy.png").write_bytes((folder / "train/cat/0.png").read_bytes())
    (folder / "train/dog/other.png").write_bytes((folder / "train/cat/1.png").read_bytes())
    (folder / "train/dog/twice.png").write_bytes((folder / "train/dog/2.png").read_bytes())
    wrong, notes = texts(folder)
    assert wrong == [
        "exact duplicates in two splits, 1 pair: train/cat/0.png and test/cat/copy.png",
        "exact duplicates in two classes, 1 pair: train/cat/1.png and train/dog/other.png",
    ]
    assert len(notes) == 1
    assert notes[0].startswith("exact duplicates within a split, 2 pairs: ")


def test_images_of_more_than_8_bits_that_seem_dark_are_reported(folder):
    values = np.random.default_rng(5).integers(0, 4096, (40, 60), np.uint16)
    values[0, 0] = 4095
    Image.fromarray(values).save(folder / "train/cat/deep.png")
    advice = "have values up to 4,095 of 65,535; if they have 12 bits, train with --data.max-value 4095"
    assert texts(folder) == ([], [f"images with more than 8 bits {advice}"])
    Image.fromarray(values * 16).save(folder / "train/cat/deep.png")
    assert texts(folder) == ([], [])


@pytest.mark.parametrize("change", ["jpeg", "smaller", "brighter"])
def test_near_duplicates_are_reported(folder, change):
    with Image.open(folder / "train/cat/0.png") as image:
        if change == "smaller":
            image = image.resize((45, 30))
        if change == "brighter":
            image = image.point(lambda value: min(255, value + 8))
        file = io.BytesIO()
        image.save(file, "JPEG" if change == "jpeg" else "PNG")
    (folder / "test/cat/copy.png").write_bytes(file.getvalue())
    wrong, _ = texts(folder)
    assert len(wrong) == 1
    assert wrong[0].startswith("near duplicates (correlation of thumbnails 0.98 or more) in two splits, 1 pair: ")


def test_damage_and_other_faults_are_reported(folder, tmp_path):
    (folder / "train/cat/0.png").write_bytes(b"")
    (folder / "train/cat/1.png").write_bytes((folder / "train/cat/1.png").read_bytes()[:-40])
    (folder / "train/notes.txt").write_text("notes")
    Image.new("RGB", (30, 30), "red").save(folder / "train/dog/red.png")
    for index in range(20):
        picture(np.random.default_rng(index + 100), (20, 90)).convert("L").save(folder / f"train/dog/more-{index}.png")
    wrong, notes = texts(folder)
    assert wrong[0].startswith("2 damaged files: train/cat/0.png, train/cat/1.png (train/cat/0.png: ")
    assert wrong[1] == "1 image of one uniform color: train/dog/red.png"
    assert notes == [
        "1 file not used: train/notes.txt",
        "train: 29 images of dog, 6 of cat",
    ]
    with pytest.raises(PartlyDone, match=r"2 problems found"):
        run(["check", f"image_folder:{folder}", "--out", str(tmp_path / "out")])


def test_data_sets_without_files_are_examined(digits):
    examined = examine(Data(source="mnist", dir=str(digits)))
    assert len(examined.names) == 530
    assert examined.names[0] == "train/0"
    assert set(examined.modes.tolist()) == {"L"}
    assert examined.read(3).shape == (28, 28, 3)
    header, rows = data_page.counts_table(examined)
    assert header == ["class", "train", "test", "all"]
    assert rows[-1] == ["all", "400", "130", "530"]


def test_near_duplicates_are_skipped_above_the_limit(folder, monkeypatch):
    monkeypatch.setattr("cnnjax.data.examination.MOST_COMPARED", 10)
    _, notes = texts(folder)
    assert notes[-1].startswith("the search for near duplicates was skipped")


def test_a_missing_folder_is_refused():
    with pytest.raises(UserError, match="image_folder needs a directory or a zip"):
        examine(Data(source="image_folder"))
