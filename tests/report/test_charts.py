import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cnnjax.report.charts import HEIGHT, LEFT, MOST_POINTS, WIDTH, line_chart, ticks


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_round_numbers_in_range(low, span):
    assume(span >= 1e-6 * abs(low))  # a narrower range has too few floats between its ends
    values = ticks(low, low + span)
    assert len(values) <= 6
    assert all(low - 1e-6 * span <= tick <= low + span + 1e-6 * span for tick in values)


def points(text):
    return [
        tuple(map(float, pair.split(","))) for line in re.findall(r'points="([^"]*)"', text) for pair in line.split()
    ]


def test_points_are_at_the_coordinates_of_their_values():
    drawn = points(line_chart("t", "epoch", [1, 2, 3], {"a": [0.0, 1.0, 0.5]}))
    assert drawn[0][0] == LEFT
    assert drawn[0][1] > drawn[2][1] > drawn[1][1]
    assert math.isclose(drawn[2][1], (drawn[0][1] + drawn[1][1]) / 2, abs_tol=0.1)


@pytest.mark.parametrize(
    "values", [[1.0], [2.0, 2.0], [0.0, 0.0], [math.nan, 1.0, math.inf], [None, 3.0], [None, None], [math.nan]]
)
def test_charts_of_any_values_stay_within_the_frame(values):
    drawn = points(line_chart("t", "epoch", list(range(len(values))), {"a": values}))
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in drawn)


def test_thinned_series_keep_the_marked_and_the_last_point():
    values = [float(n) for n in range(10_001)]
    text = line_chart("t", "epoch", values, {"a": values}, best=("a", 7777))
    assert len(points(text)) <= MOST_POINTS + 2
    assert "epoch 10000: a 10000.0000" in text
    assert 'class="best"' in text


def test_names_are_escaped():
    text = line_chart("<b>t</b>", "epoch", [1, 2], {"<script>": [1.0, 2.0]})
    assert "<script>" not in text and "<b>" not in text


def test_borders_are_drawn_at_their_positions_with_their_names():
    text = line_chart("t", "epoch", [1, 2, 3], {"a": [0.0, 1.0, 0.5]}, borders={0.5: "head", 2.5: "<all>"})
    at = [float(x) for x in re.findall(r'class="border" x1="([\d.]+)"', text)]
    drawn = points(text)
    assert at[0] == LEFT
    assert math.isclose(at[1], (drawn[1][0] + drawn[2][0]) / 2, abs_tol=0.1)
    assert ">head</text>" in text and "&lt;all&gt;" in text
