"""Intervals and comparisons, against known values and with members that are missing."""

import math
import statistics

import numpy as np
import pytest

from cnnjax.sweep.sentences import sentences
from cnnjax.sweep.statistics import Axes, cells, compare, interval, p_value, t_quantile
from cnnjax.sweep.table import Row

ACTIVATION = Axes(("model.activation",), (("model.activation",),), (False,))
BOTH = Axes(("model.activation", "optimizer.name"), (("model.activation",), ("optimizer.name",)), (False, False))


def row(values, top1, status="finished"):
    figures = {"test_top1": top1 / 100, "validation_top1": top1 / 100} if status == "finished" else {}
    return Row("id", values, {}, status, "", figures, ())


def rows_of(table, option="model.activation", **others):
    """Return a row per value and seed from ``{value: (test top-1 of seed 0, of seed 1, ...)}``."""
    return [row({option: value, **others, "seed": seed}, top1)
            for value, figures in table.items() for seed, top1 in enumerate(figures)]  # fmt: skip


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"), [(0.975, 1, 12.706), (0.975, 4, 2.776), (0.995, 9, 3.250)]
)
def test_quantiles_of_student_s_t(probability, freedom, expected):
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=5e-4)


def test_the_interval_is_mean_and_t_times_the_standard_error():
    found = interval([90.0, 91.0, 92.0, 93.0, 94.0])
    assert found.mean == 92
    assert found.half == pytest.approx(2.7764 * math.sqrt(2.5 / 5), abs=1e-3)
    assert math.isnan(interval([90.0]).half)
    assert not interval([90.0]).known
    assert interval([90.0, 92.0], comparisons=6).half > interval([90.0, 92.0]).half


@pytest.mark.parametrize("comparisons", [1, 6])
def test_intervals_cover_the_true_mean_as_often_as_they_say(comparisons):
    """All intervals of a family hold jointly in at least 95 % of the experiments."""
    rng = np.random.default_rng(0)
    trials = 2000
    covered = sum(
        all(abs((found := interval(list(rng.normal(0, 1, 4)), comparisons)).mean) <= found.half
            for _ in range(comparisons))
        for _ in range(trials)
    )  # fmt: skip
    assert covered / trials > 0.94
    assert covered / trials < 0.97


def test_the_p_value_agrees_with_the_interval():
    for values in ([0.1, 0.3, 0.2], [0.1, -0.2, 0.05], [5.0, 5.1]):
        for comparisons in (1, 4):
            found = interval(values, comparisons)
            assert (p_value(values, comparisons) < 0.05) == (abs(found.mean) > found.half)
    assert p_value([0.0, 0.0]) == 1
    assert math.isnan(p_value([1.0]))


def test_values_are_paired_by_seed():
    """Seeds differ much more than activations; only the paired difference shows the effect."""
    rows = rows_of({"relu": (80.0, 85.0, 90.0), "sigmoid": (78.9, 84.0, 89.0)})
    (comparison,) = compare(ACTIVATION, rows)
    assert (comparison.first, comparison.second) == ("relu", "sigmoid")
    assert comparison.difference.mean == pytest.approx((1.1 + 1 + 1) / 3)
    assert comparison.found
    assert sentences(ACTIVATION, rows) == ["model.activation: relu over sigmoid: +1.03 points [0.89, 1.18], 3 seeds."]


def test_no_difference_is_reported_with_its_interval():
    rows = rows_of({"relu": (80.0, 85.0), "sigmoid": (81.0, 84.5)})
    (text,) = sentences(ACTIVATION, rows)
    assert text.startswith("model.activation: no difference found between sigmoid and relu (+0.25 [-")
    assert text.endswith("]), 2 seeds.")


def test_a_single_seed_has_no_interval():
    (text,) = sentences(ACTIVATION, rows_of({"relu": (80.0,), "sigmoid": (70.0,)}))
    assert text == "model.activation: relu over sigmoid: +10.00 points, 1 seed, too few for an interval."


def test_differences_are_averaged_over_the_other_axes():
    rows = rows_of({"relu": (80.0, 82.0), "tanh": (79.0, 81.0)}, **{"optimizer.name": "adam"})
    rows += rows_of({"relu": (70.0, 72.0), "tanh": (67.0, 69.5)}, **{"optimizer.name": "sgd"})
    activation, optimizer = compare(BOTH, rows)
    assert activation.difference.mean == pytest.approx(statistics.fmean([(1 + 3) / 2, (1 + 2.5) / 2]))
    assert activation.pairs == optimizer.pairs == 2
    assert optimizer.first == "adam"
    alone = compare(ACTIVATION, [r for r in rows if r.values["optimizer.name"] == "adam"])
    assert len(alone) == 1
    assert interval([2.0, 1.75]).half < activation.difference.half  # corrected for two comparisons


def test_members_that_did_not_finish_are_left_out_and_counted():
    rows = rows_of({"relu": (80.0, 82.0), "tanh": (79.0, 81.0)}, **{"optimizer.name": "adam"})
    rows += [row({"model.activation": "relu", "optimizer.name": "sgd", "seed": seed}, 70.0) for seed in (0, 1)]
    rows += [row({"model.activation": "tanh", "optimizer.name": "sgd", "seed": 0}, 60.0)]
    rows += [row({"model.activation": "tanh", "optimizer.name": "sgd", "seed": 1}, 0.0, "diverged")]
    activation = compare(BOTH, rows)[0]
    assert activation.pairs == 1
    assert activation.left_out == 1
    assert activation.difference.mean == pytest.approx(1)
    assert "up to 1 pair of combinations left out, because a member did not finish" in sentences(BOTH, rows)[0]
    assert {cell.values: cell.missing for cell in cells(BOTH, rows)}["tanh", "sgd"] == 1


def test_an_axis_applies_only_where_its_condition_holds():
    axes = Axes(
        ("optimizer.name", "optimizer.momentum"), (("optimizer.name",), ("optimizer.momentum",)), (False, False)
    )
    rows = [row({"optimizer.name": "adam", "seed": 0}, 80.0)]
    rows += [row({"optimizer.name": "momentum", "optimizer.momentum": m, "seed": 0}, 70.0 + m) for m in (0.5, 0.9)]
    assert [(c.axis, c.first, c.second) for c in compare(axes, rows)] == [("optimizer.momentum", "0.9", "0.5")]
    assert sentences(axes, rows)[0] == "optimizer.name: no two values can be compared."


def test_drawn_points_are_ranked_by_validation_and_not_compared():
    axes = Axes(("optimizer.lr",), (("optimizer.lr",),), (True,))
    rows = rows_of({0.1: (70.0,), 0.01: (80.0,), 0.03: (75.0,)}, option="optimizer.lr")
    assert compare(axes, rows) == []
    assert sentences(axes, rows) == [
        "optimizer.lr: of 3 drawn points, 0.01 has the best validation top-1; its test top-1 is 80.00 %."
    ]
