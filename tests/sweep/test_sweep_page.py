"""The page of a sweep: what it holds, and its use in headless Chromium: sort, filter, hover, narrow screen, dark."""

import math
from html import unescape

import pytest

from cnnjax.report import value_charts
from cnnjax.report.value_charts import Mark
from cnnjax.sweep import page, store
from cnnjax.sweep.axes import Sweep, grid, log_grid
from tests.report.test_browser import measure_page, needs_chromium
from tests.sweep.made_up import make_store

RATES = log_grid(1e-4, 1e-1, 4)
SWEEP = Sweep(
    axes=(
        grid("model.activation", ("relu", "sigmoid", "tanh")),
        grid("optimizer.lr", RATES),
        grid("seed", range(3)),
    )
)


def top1_of(values):
    """Return a made-up accuracy: best at 1e-2, ReLU ahead, and sigmoid diverges at the highest rate."""
    if values["model.activation"] == "sigmoid" and values["optimizer.lr"] == RATES[-1]:
        return None
    activation = {"relu": 0.9, "tanh": 0.88, "sigmoid": 0.8}[values["model.activation"]]
    return activation - 0.02 * abs(math.log10(values["optimizer.lr"]) + 2) + 0.001 * values["seed"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = make_store(tmp_path_factory.mktemp("store"), "made_up", SWEEP, top1_of)
    page.rebuild(folder)
    return folder


def test_the_page_holds_every_part_and_the_pictures_are_next_to_it(folder):
    text = (folder / "report.html").read_text()
    for part in ("Findings", "Ranking", "Two axes", "Sensitivity", "Curves", "Comparisons", "Members", "Problems"):
        assert f"<h2>{part}</h2>" in text
    assert "36 members, 33 finished, 3 diverged." in text
    assert "model.activation: relu over sigmoid: +10.00 points" in unescape(text)
    names = ("ranking", "curves", "heat", "sensitivity")
    assert {path.name for path in folder.iterdir()} == {
        "sweep.json", "sweep.csv", "report.html", *(f"{name}.{kind}" for name in names for kind in ("png", "svg"))
    }  # fmt: skip
    assert (folder / "heat.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "heat.svg").read_text()


def test_a_sweep_without_a_finished_member_has_a_page(tmp_path):
    folder = make_store(tmp_path, "none", SWEEP, lambda values: None)
    page.rebuild(folder)
    assert "36 members, 0 finished, 36 diverged." in (folder / "report.html").read_text()


def test_names_on_the_page_are_escaped(tmp_path):
    folder = make_store(
        tmp_path, "made_up", Sweep(axes=(grid("train.freeze", (("<b>",), ("$x$",))),)), lambda values: 0.5
    )
    page.rebuild(folder)
    text = (folder / "report.html").read_text()
    assert "<b>" not in text
    assert "&lt;b&gt;" in text


def test_a_chart_of_one_value_and_one_without_interval_can_be_drawn():
    alone = Mark(91.0, math.nan, "alone")
    assert "alone" in value_charts.ranked_bars("title", "unit", [("alone", alone)])
    assert "whisker" not in value_charts.ranked_bars("title", "unit", [("alone", alone)])
    assert "91.0" in value_charts.heat_map("title", "x", ["a"], "y", ["b", "c"], {("a", "b"): alone})
    assert "alone" in value_charts.sensitivity_chart("title", "x", "unit", {"line": [(0.1, alone)]})


PROBE = """
<script>
window.addEventListener('load', () => {
  const section = document.querySelector('section[data-table]');
  const column = name => [...section.querySelectorAll('th')].findIndex(head => head.textContent === name);
  const shown = name => [...section.querySelectorAll('tbody tr')].filter(row => !row.hidden)
    .map(row => row.cells[column(name)].textContent);
  const sort = name => section.querySelectorAll('th button')[column(name)].click();
  const choose = (name, value) => {
    const label = [...section.querySelectorAll('label')].find(label => label.firstChild.textContent === name);
    label.querySelector('select').value = value;
    label.querySelector('select').dispatchEvent(new Event('change'));
  };
  sort('test top-1');
  const down = shown('test top-1');
  sort('test top-1');
  const up = shown('test top-1');
  choose('model.activation', 'relu');
  choose('seed', '2');
  const rates = shown('optimizer.lr'), count = section.querySelector('.count').textContent;
  choose('seed', '');
  const hovered = [...document.querySelectorAll('figure[data-marks]')].map(figure => {
    const value = figure.querySelector('.value'), before = value.textContent, marks = figure.querySelectorAll('.mark');
    marks[0].dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));
    const during = value.textContent;
    figure.querySelector('svg').dispatchEvent(new PointerEvent('pointerleave'));
    return [before, during, value.textContent, marks.length];
  });
  const wide = [...document.querySelectorAll('.wide')].every(part => part.clientWidth <= innerWidth);
  parent.postMessage(JSON.stringify({
    down, up, rates, count, hovered, wide, width: innerWidth, needed: document.documentElement.scrollWidth,
    background: getComputedStyle(document.body).backgroundColor,
    requests: performance.getEntriesByType('resource').filter(entry => !entry.name.startsWith('data:')).length,
  }), '*');
});
</script>
"""


@needs_chromium
@pytest.mark.many_processes
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (400, False), (400, True)])
def test_the_page_sorts_filters_and_shows_values(folder, tmp_path, width, dark):
    used = measure_page((folder / "report.html").read_text(), tmp_path, width, dark, PROBE)
    assert used["width"] == width
    assert used["needed"] <= width
    assert used["wide"]
    assert used["requests"] == 0
    assert used["background"] == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
    numbers = [float(text.removesuffix(" %")) for text in used["down"] if text]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 33
    assert used["down"][33:] == [""] * 3  # members without results come last in both orders
    assert used["up"] == [*reversed(used["down"][:33]), *[""] * 3]
    assert sorted(used["rates"]) == sorted(map(str, RATES))
    assert used["count"] == "4 of 36 rows"
    marks = [marks for *_, marks in used["hovered"]]
    assert marks == [11, 11, 11]  # bars, heat map, sensitivity: 12 combinations, one of them without results
    assert all(before == after != during for before, during, after, _ in used["hovered"])
    assert used["hovered"][0][1].startswith("relu · 0.01: 90.10 ± 0.25 %, 3 seeds")


def test_the_description_of_a_made_up_sweep_is_read_back(folder):
    description = store.read_description(folder)
    assert description.axes == (("model.activation",), ("optimizer.lr",), ("seed",))
    assert len(description.entries) == 36
