"""The page of one network of each family, written from made-up records."""

import xml.etree.ElementTree as ElementTree

import pytest

from cnnjax import create
from cnnjax.config import Experiment, Train
from cnnjax.errors import UserError
from cnnjax.report.scatter import LINE_HEIGHT, Point, label_heights, round_numbers, scatter
from cnnjax.runs import line_page
from cnnjax.runs.records import Record

LINE = """
text = "The first reaches {1}, the second {2}."

[[network]]
record = "line_mlp"
label = "dense"
year = 1958

[[network]]
record = "line_lenet"
label = "LeNet-5 & more"
year = 1998
"""
ENVIRONMENT = {
    "device": "a device", "cpus": 2, "python": "3.11.7", "packages": {"cnnjax": "0.1.0", "jax": "0.10.2"},
    "lowering": {"convolution": "xla-cpu"},
}  # fmt: skip


def made_up(model: str, top1: float, seed: int = 0, **train: int) -> Record:
    rows = [{"epoch": epoch, "seconds": seconds} for epoch, seconds in enumerate((90.0, 40.0, 41.0), 1)]
    experiment = Experiment(model=create(model), train=Train(epochs=3, **train), seed=seed)
    return Record(f"line_{model}", experiment, ENVIRONMENT, rows, {"epochs": 3, "test": {"top1": top1}})


@pytest.fixture
def line(tmp_path):
    (tmp_path / "line.toml").write_text(LINE)
    return line_page.read(tmp_path / "line.toml")


def test_the_page_has_a_row_for_each_network_and_a_picture(line):
    mlp, lenet = made_up("mlp", 0.81), [made_up("lenet", 0.9), made_up("lenet", 0.92, seed=1)]
    text, picture = line_page.page(line, {"line_lenet": lenet, "line_mlp": [mlp]})
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    assert rows[2] == "| dense (`line_mlp`) | 1958 | 266,610 | 0.0003 | 1 | 3 | 41 | 81.00 % |"
    assert rows[3].startswith(
        "| LeNet-5 & more (`line_lenet`) | 1998 | 61,706 | 0.0004 | 2 | 3 ± 0 | 41 ± 0 | 91.00 ± 1.41"
    )
    assert "The first reaches 81.00 %, the second 91.00 ± 1.41 %." in text
    assert "![Test top-1 vs. multiply-adds](line.svg)" in text
    assert len(ElementTree.fromstring(picture).findall(".//{*}circle")) == 2


def test_a_page_of_some_networks_names_the_others(line):
    text, picture = line_page.page(line, {"line_mlp": [made_up("mlp", 0.81)], "other": [made_up("lenet", 0.5)]})
    assert "Not recorded: line_lenet." in text
    assert "The first reaches" not in text
    assert len(ElementTree.fromstring(picture).findall(".//{*}circle")) == 1
    assert line_page.page(line, {}) is None


def test_networks_that_were_trained_differently_are_refused(line):
    unlike = {"line_mlp": [made_up("mlp", 0.81)], "line_lenet": [made_up("lenet", 0.9, batch_size=64)]}
    with pytest.raises(UserError, match="line_mlp and line_lenet differ in more than the network"):
        line_page.page(line, unlike)


def test_points_are_placed_by_their_values():
    points = [Point("a", 1.0, 50.0), Point("b", 10.0, 60.0, spread=2.0), Point("c", 100.0, 55.0)]
    drawn = ElementTree.fromstring(scatter("t", "x", "y", points))
    (ax, ay), (bx, by), (cx, cy) = ((float(c.get("cx")), float(c.get("cy"))) for c in drawn.findall(".//{*}circle"))
    assert bx - ax == pytest.approx(cx - bx, abs=0.2)  # the horizontal axis is logarithmic
    assert ay - cy == pytest.approx(cy - by, abs=0.2)
    spread = drawn.find(".//{*}line[@class='spread']")
    assert float(spread.get("y2")) - float(spread.get("y1")) == pytest.approx(0.4 * (ay - by), abs=0.3)


def test_labels_keep_their_order_and_do_not_overlap():
    heights = label_heights([100.0, 101.0, 99.0, 200.0, 195.0], bottom=200)
    assert heights == [99.0 + LINE_HEIGHT, 99.0 + 2 * LINE_HEIGHT, 99.0, 200.0, 200.0 - LINE_HEIGHT]


def test_round_numbers_cover_the_axis():
    assert round_numbers(0.6, 120) == [1, 2, 5, 10, 20, 50, 100]
