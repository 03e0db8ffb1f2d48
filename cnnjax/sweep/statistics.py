"""Statistics of a sweep: means over seeds, and comparisons of the values of an axis, paired by seed.

A cell is a combination of values other than the seed. Two values of an axis are compared in every pair of cells that
differ in nothing else: for each seed, the difference of the test top-1 is averaged over those pairs, which gives one
number per seed; their mean has the interval of Student's t distribution. The intervals of all comparisons of the sweep
hold jointly with a probability of at least 95 % (Bonferroni's correction).
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from scipy.special import stdtr, stdtrit

from cnnjax.sweep.axes import label
from cnnjax.sweep.store import Description
from cnnjax.sweep.table import Row

CONFIDENCE = 0.95
METRIC = "test_top1"
"""The figure that is compared; differences are in percentage points."""
SEED = "seed"
NOT_SET = "-"
"""Label of an axis that does not apply to a member."""


class Interval(NamedTuple):
    """A mean with its interval; ``half`` is half the width, or NaN for a single value."""

    mean: float
    half: float
    n: int
    """Number of values."""

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    @property
    def known(self) -> bool:
        """Whether there are enough values for an interval."""
        return not math.isnan(self.half)


class Cell(NamedTuple):
    """The finished members with the same values except the seed, and their test top-1 in percent."""

    values: tuple[str, ...]
    """Label of the value of each axis except the seed."""
    top1: Interval
    rows: tuple[Row, ...]
    missing: int
    """Members that have not finished."""


class Comparison(NamedTuple):
    """The difference between two values of an axis, in points of test top-1: ``first`` minus ``second``."""

    axis: str
    first: str
    second: str
    difference: Interval
    """Interval corrected for all comparisons of the sweep."""
    p: float
    """Corrected p-value of the difference; NaN with a single seed."""
    pairs: int
    """Pairs of cells over which the difference is averaged."""
    left_out: int
    """Pairs of cells left out, because a member of theirs has not finished."""

    @property
    def found(self) -> bool:
        """Whether the interval excludes 0."""
        return self.difference.known and not self.difference.low <= 0 <= self.difference.high


def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution."""
    return float(stdtrit(freedom, probability))


def interval(values: Sequence[float], comparisons: int = 1) -> Interval:
    """Return the mean with its 95 % interval by Student's t, corrected for a number of comparisons."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Interval(mean, math.nan, count)
    error = statistics.stdev(values) / math.sqrt(count)
    return Interval(mean, t_quantile(1 - (1 - CONFIDENCE) / 2 / comparisons, count - 1) * error, count)


def p_value(values: Sequence[float], comparisons: int = 1) -> float:
    """Return the two-sided p-value of the hypothesis that the mean is 0, corrected for a number of comparisons."""
    if len(values) < 2:
        return math.nan
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return min(1.0, comparisons * 2 * float(stdtr(len(values) - 1, -abs(mean / error))))


class Axes(NamedTuple):
    """The axes of a sweep other than the seed, with the label that each row has on each of them."""

    names: tuple[str, ...]
    options: tuple[tuple[str, ...], ...]
    drawn: tuple[bool, ...]

    def labels(self, row: Row) -> tuple[str, ...]:
        """Return the label of a row's value on each axis."""
        return tuple(axis_label(row.values, options) for options in self.options)


def axis_label(values: Mapping[str, Any], options: Sequence[str]) -> str:
    """Return the values of an axis's options as text, such as ``adam, 0.001``."""
    return ", ".join(label(values[option]) if option in values else NOT_SET for option in options)


def axes_of(description: Description) -> Axes:
    """Return the axes other than the seed."""
    kept = [
        (", ".join(options), options, drawn)
        for options, drawn in zip(description.axes, description.drawn, strict=True) if options != (SEED,)
    ]  # fmt: skip
    names, options, drawn = zip(*kept, strict=True) if kept else ((), (), ())
    return Axes(tuple(names), tuple(options), tuple(drawn))


def cells(axes: Axes, rows: Sequence[Row]) -> list[Cell]:
    """Return the cells with a finished member, the best mean first."""
    by_values: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        by_values.setdefault(axes.labels(row), []).append(row)
    found = []
    for values, members in by_values.items():
        finished = tuple(row for row in members if row.finished)
        if finished:
            top1 = interval([percent(row) for row in finished])
            found.append(Cell(values, top1, finished, len(members) - len(finished)))
    return sorted(found, key=lambda cell: -cell.top1.mean)


def percent(row: Row) -> float:
    """Return a finished row's figure that is compared, in percent."""
    return 100 * float(row.figures[METRIC])


def compare(axes: Axes, rows: Sequence[Row]) -> list[Comparison]:
    """Return the comparisons of every two values of each axis that was not drawn, the better value first."""
    paired = [pair for number in range(len(axes.names)) if not axes.drawn[number]
              for pair in _pairs(axes, number, rows)]  # fmt: skip
    return [_comparison(pair, len(paired)) for pair in paired]


class _Pair(NamedTuple):
    """Two values of an axis, with the mean difference for each seed."""

    axis: str
    first: str
    second: str
    differences: tuple[float, ...]
    pairs: int
    left_out: int


def _pairs(axes: Axes, number: int, rows: Sequence[Row]) -> Iterator[_Pair]:
    """Yield each two values of an axis that occur with equal values of all other axes."""
    figures: dict[tuple[str, ...], dict[str, dict[int, float | None]]] = {}
    values: dict[str, None] = {}
    for row in rows:
        labels = axes.labels(row)
        if NOT_SET not in labels[number].split(", "):
            others = labels[:number] + labels[number + 1 :]
            seeds = figures.setdefault(others, {}).setdefault(labels[number], {})
            seeds[row.values.get(SEED, 0)] = percent(row) if row.finished else None
            values[labels[number]] = None
    for first, second in itertools.combinations(values, 2):
        whole, left_out = [], 0
        for cell in figures.values():
            if first in cell and second in cell:
                both = {seed: (a, cell[second].get(seed)) for seed, a in cell[first].items()}
                differences = {seed: a - b for seed, (a, b) in both.items() if a is not None and b is not None}
                if len(differences) == len(both):
                    whole.append(differences)
                else:
                    left_out += 1
        if whole:
            seeds_of_all = dict.fromkeys(seed for differences in whole for seed in differences)
            means = tuple(statistics.fmean(d[seed] for d in whole if seed in d) for seed in seeds_of_all)
            yield _Pair(axes.names[number], first, second, means, len(whole), left_out)


def _comparison(pair: _Pair, comparisons: int) -> Comparison:
    first, second, differences = pair.first, pair.second, pair.differences
    if statistics.fmean(differences) < 0:
        first, second, differences = second, first, tuple(-difference for difference in differences)
    return Comparison(
        pair.axis, first, second, interval(differences, comparisons), p_value(differences, comparisons), pair.pairs,
        pair.left_out,
    )  # fmt: skip


def shown(value: Interval) -> str:
    """Return ``"91.02 ± 0.13 %"``, or only the mean of a single value."""
    return f"{value.mean:.2f} ± {value.half:.2f} %" if value.known else f"{value.mean:.2f} %"
