"""The findings of a sweep: one plain sentence for each axis."""

import statistics
from collections.abc import Sequence

from cnnjax.errors import counted
from cnnjax.sweep.edf import edf_sentences, edfs
from cnnjax.sweep.statistics import Axes, Cell, Comparison, cells, compare, shown
from cnnjax.sweep.table import Row


def sentences(axes: Axes, rows: Sequence[Row]) -> list[str]:
    """Return one plain sentence for each axis, and one for each two design spaces."""
    comparisons = compare(axes, rows)
    ranked = cells(axes, rows)
    found = edf_sentences(edfs(axes, rows))
    for number, name in enumerate(axes.names):
        if axes.drawn[number]:
            found.append(_drawn_sentence(name, number, ranked))
        else:
            found.append(_sentence(name, [c for c in comparisons if c.axis == name]))
    return found


def _drawn_sentence(name: str, number: int, ranked: Sequence[Cell]) -> str:
    if not ranked:
        return f"{name}: no member has finished."
    best = max(ranked, key=lambda cell: statistics.fmean(row.figures["validation_top1"] for row in cell.rows))
    return (
        f"{name}: of {counted(len(ranked), 'drawn point')}, {best.values[number]} has the best validation top-1; its "
        f"test top-1 is {shown(best.top1)}."
    )


def _sentence(name: str, comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return f"{name}: no two values can be compared."
    wins: dict[str, int] = {}
    for comparison in comparisons:
        wins[comparison.first] = wins.get(comparison.first, 0) + 1
    best = max(wins, key=lambda value: wins[value])
    of_best = [c for c in comparisons if best in (c.first, c.second)]
    parts = [difference_text(c) for c in of_best if c.found or not c.difference.known]
    if same := [c for c in of_best if c.difference.known and not c.found]:
        others = ", ".join(_other(best, c) for c in same)
        parts.append(f"no difference found between {best} and {others}, {counted(same[0].difference.n, 'seed')}")
    if left_out := max(comparison.left_out for comparison in comparisons):
        parts.append(f"up to {counted(left_out, 'pair')} of combinations left out, because a member did not finish")
    return f"{name}: {'; '.join(parts)}."


def _other(best: str, comparison: Comparison) -> str:
    """Return the value that ``best`` is compared with, and the difference: ``"tanh (+0.20 [-0.10, 0.50])"``."""
    difference, value = comparison.difference, comparison.second
    if comparison.second == best:
        difference, value = difference._replace(mean=-difference.mean), comparison.first
    return f"{value} ({difference.mean:+.2f} [{difference.low:.2f}, {difference.high:.2f}])"


def difference_text(comparison: Comparison) -> str:
    """Return ``"relu over sigmoid: +1.4 points [1.1, 1.7], 5 seeds"``."""
    difference = comparison.difference
    seeds = counted(difference.n, "seed")
    text = f"{comparison.first} over {comparison.second}: {difference.mean:+.2f} points"
    if not difference.known:
        return f"{text}, {seeds}, too few for an interval"
    return f"{text} [{difference.low:.2f}, {difference.high:.2f}], {seeds}"
