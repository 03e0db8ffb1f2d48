"""Every command and every Python example of docs/course.md and of its notebooks runs, on small data."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import write_digits
from PIL import Image

from cnnjax.data import Preprocessing
from docs import notebooks
from tests.script import run_script
from tests.transfer.trained import BODY, write_run

COURSE = Path(__file__).resolve().parents[1] / "docs" / "course.md"
PARTS = notebooks.parts(COURSE.read_text())
SMALLER = {
    "resnet50_v1.keras_in1k": "resnet20_cifar.cifar10_jpeg",  # part of the package
    "xception.keras_in1k": "run:origin",
    'create("xception", num_classes=2, input_size=150)': (
        'create("resnet20_cifar", depths=(1, 1), width=8, num_classes=2)'
    ),
    "resize=227": 'width=2, stem="cifar"',
    "--model.width 96 --model.stem imagenet --model.resize 227": "--model.width 2",
}
"""Text of the page and what the tests use instead: networks that train in a second, and need no download."""
EPOCHS = ["--train.epochs", "1", "--train.batch-size", "16"]
PHASES = [word for phase in range(3) for word in (f"--phases.{phase}.epochs", "1")]


def smaller(text: str) -> str:
    for theirs, ours in SMALLER.items():
        text = text.replace(theirs, ours)
    return re.sub(r"epochs=\d+", "epochs=1", text)


def commands(part: notebooks.Part) -> list[tuple[str, list[str]]]:
    """Return each script with its arguments, shortened, in order."""
    found = []
    for words in notebooks.scripts(part):
        script, *arguments = smaller(" ".join(words)).split()
        if script == "train.py":
            out = [] if "--out" in arguments else ["--out", f"runs/{arguments[0]}"]
            # The second training of one experiment repeats the first with other options.
            out = [*out[:1], f"{out[1]}-{len(found)}"] if out and any(out[1] in words for _, words in found) else out
            arguments += out + (PHASES if "transfer" in arguments[0] else EPOCHS)
        found.append((script, arguments))
    return found


def examples(part: notebooks.Part) -> list[str]:
    return [smaller(text) for kind, text in part.cells if kind == "code" and not text.startswith("!")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with small data sets, photos, and a trained network to start from."""
    write_digits(tmp_path / "data" / "fashion_mnist")
    monkeypatch.setenv("CNNJAX_DATA", str(tmp_path / "data"))
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for channel, name in enumerate(("cat", "dog")):
            (tmp_path / "cats-dogs" / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 120, (40, 36, 3), np.uint8)
                pixels[..., 2 * channel] += 100
                Image.fromarray(pixels).save(tmp_path / "cats-dogs" / part / name / f"{index}.png")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 60), "white").save(tmp_path / "photos" / "photo.jpg")
    small = BODY.replace(channels=3, input_size=12)
    write_run(tmp_path / "origin", small, Preprocessing(height=12, width=12, mean=(0.5,) * 3, std=(0.3,) * 3))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.trains_long
@pytest.mark.parametrize("part", PARTS, ids=notebooks.NAMES)
def test_every_command_and_example_runs(part, place):
    for script, arguments in commands(part):
        ended = run_script(script, *arguments)
        assert ended.returncode == 0, (script, arguments, ended.stderr)
    for code in examples(part):
        exec(compile(code, "docs/course.md", "exec"), {})


def test_each_part_has_commands_an_example_and_a_picture():
    assert len(PARTS) == 4
    for part in PARTS:
        pictures = re.findall(r"!\[.+\]\((.+)\)", "".join(text for kind, text in part.cells if kind == "markdown"))
        assert len(pictures) == 1
        assert commands(part)
        assert examples(part)


def test_the_notebooks_are_those_of_the_page():
    """`python docs/notebooks.py` writes them."""
    assert {path.name: path.read_text() for path in notebooks.FOLDER.glob("*")} == notebooks.written()


def test_the_notebooks_have_every_line_of_the_page():
    page = "\n".join(re.split(r"^## .*$", COURSE.read_text(), flags=re.MULTILINE)[1:])
    lines = {line.strip() for line in page.splitlines()} - {"", "```", "```python"}
    cells = {line.strip() for part in PARTS for _, text in part.cells for line in text.splitlines()}
    assert {re.sub("^python scripts", "!python scripts", line) for line in lines} <= cells
