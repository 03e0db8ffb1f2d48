"""SVG charts of means with intervals: ranked bars, heat map, sensitivity to a number on a logarithmic axis.

Each mark shows its text under the pointer. The charts use the colors and the style of `cnnjax.report.charts`.
"""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cnnjax.report.charts import SERIES_COLORS, ticks

WIDTH, ROW, CHARACTER = 640, 22, 6.4
"""Width of a chart, height of a row, and mean width of a character, in pixels of the drawing."""
LONGEST_LABEL = 44
"""Maximum characters of a label in a drawing; the text under the pointer shows all of them."""
STYLE = """
figure[data-marks] { max-width: 46rem; margin-bottom: 1.5rem; }
figure[data-marks] svg { min-width: 34rem; }
.mark { cursor: default; }
.whisker { stroke: var(--fg); stroke-width: 1.5; fill: none; }
.heat { fill: var(--s1); stroke: var(--bg); stroke-width: 2; }
.empty { fill: none; stroke: var(--line); }
svg text.inside { fill: var(--fg); }
.dot { stroke: var(--bg); stroke-width: 1.5; }
.d0 { fill: var(--s0); } .d1 { fill: var(--s1); } .d2 { fill: var(--s2); }
.d3 { fill: var(--s3); } .d4 { fill: var(--s4); } .d5 { fill: var(--s5); }
"""
SCRIPT = """
document.querySelectorAll('figure[data-marks]').forEach(figure => {
  const svg = figure.querySelector('svg'), value = figure.querySelector('.value'), rest = value.textContent;
  svg.addEventListener('pointerover', event => {
    const mark = event.target.closest('[data-label]');
    value.textContent = mark ? mark.dataset.label : rest;
  });
  svg.addEventListener('pointerleave', () => { value.textContent = rest; });
});
"""


class Mark(NamedTuple):
    """A value with its interval, and the text that the pointer shows."""

    mean: float
    half: float
    """Half the width of the interval; NaN without an interval."""
    text: str

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest value to draw."""
        half = 0.0 if math.isnan(self.half) else self.half
        return self.mean - half, self.mean + half


def ranked_bars(title: str, unit: str, bars: Sequence[tuple[str, Mark]]) -> str:
    """Return horizontal bars with whiskers, in the order given. The axis starts near the lowest value, not at 0."""
    left = _label_width([name for name, _ in bars])
    low, high = _range([mark for _, mark in bars])
    height = ROW * len(bars) + 34

    def across(value: float) -> float:
        return left + (WIDTH - left - 14) * (value - low) / (high - low)

    parts = [
        f'<line class="grid" x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="4" y2="{height - 30}"/>'
        f'<text x="{across(tick):.1f}" y="{height - 16}" text-anchor="middle">{tick:g}</text>'
        for tick in ticks(low, high)
    ]
    for number, (name, mark) in enumerate(bars):
        top = 6 + ROW * number
        parts.append(
            f'<g class="mark" data-label="{html.escape(mark.text, quote=True)}">'
            f'<rect x="0" y="{top - 2}" width="{WIDTH}" height="{ROW}" fill="transparent"/>'
            f'<text x="{left - 8}" y="{top + 13}" text-anchor="end">{html.escape(_cut(name))}</text>'
            f'<rect class="bar" x="{left}" y="{top + 2}" width="{across(mark.mean) - left:.1f}" height="{ROW - 8}"/>'
            f"{_whisker_across(across, mark, top + ROW / 2 - 2)}</g>"
        )
    parts.append(f'<text x="{WIDTH / 2}" y="{height - 2}" text-anchor="middle">{html.escape(unit)}</text>')
    return _figure(title, "", parts, height)


def heat_map(
    title: str, x_name: str, x: Sequence[str], y_name: str, y: Sequence[str], marks: Mapping[tuple[str, str], Mark]
) -> str:
    """Return a grid of cells, each shaded by its value; ``marks`` are by the labels (x, y)."""
    left = _label_width(y) + 14
    turned = max(map(len, x)) * CHARACTER > (WIDTH - left) / len(x)
    below = (min(LONGEST_LABEL, max(map(len, x))) * CHARACTER * 0.6 if turned else 0) + 40
    side, tall = (WIDTH - left - 8) / len(x), 34
    height = tall * len(y) + 8 + below
    means = [mark.mean for mark in marks.values()]
    low, high = min(means), max(means)
    parts = []
    for row, y_label in enumerate(y):
        top = 6 + tall * row
        parts.append(f'<text x="{left - 8}" y="{top + 21}" text-anchor="end">{html.escape(_cut(y_label))}</text>')
        for column, x_label in enumerate(x):
            mark = marks.get((x_label, y_label))
            at = f'x="{left + side * column:.1f}" y="{top}" width="{side:.1f}" height="{tall}"'
            if mark is None:
                parts.append(f'<rect class="empty" {at}/>')
                continue
            share = (mark.mean - low) / (high - low) if high > low else 1.0
            parts.append(
                f'<g class="mark" data-label="{html.escape(mark.text, quote=True)}">'
                f'<rect class="heat" {at} fill-opacity="{0.06 + 0.54 * share:.3f}"/>'
                f'<text class="inside" x="{left + side * (column + 0.5):.1f}" y="{top + 21}" text-anchor="middle">'
                f"{mark.mean:.1f}</text></g>"
            )
    bottom = tall * len(y) + 22
    for column, x_label in enumerate(x):
        place = left + side * (column + 0.5)
        turn = f' text-anchor="end" transform="rotate(-35 {place:.1f} {bottom})"' if turned else ' text-anchor="middle"'
        parts.append(f'<text x="{place:.1f}" y="{bottom}"{turn}>{html.escape(_cut(x_label))}</text>')
    middle = left + (WIDTH - left) / 2
    parts.append(f'<text x="{middle:.1f}" y="{height - 4:.1f}" text-anchor="middle">{html.escape(x_name)}</text>')
    return _figure(title, html.escape(f"rows: {y_name}"), parts, height)


def sensitivity_chart(
    title: str, x_name: str, unit: str, series: Mapping[str, Sequence[tuple[float, Mark]]]
) -> str:  # fmt: skip
    """Return a line with whiskers for each series of (positive x, mark), over a logarithmic horizontal axis."""
    points = [point for line in series.values() for point in line]
    low, high = _range([mark for _, mark in points])
    first, last = (math.log10(pick(x for x, _ in points)) for pick in (min, max))
    left, top, height = 52, 12, 300
    bottom = height - 40

    def across(x: float) -> float:
        return left + (WIDTH - left - 16) * ((math.log10(x) - first) / (last - first) if last > first else 0.5)

    def up(value: float) -> float:
        return top + (bottom - top) * (high - value) / (high - low)

    parts = [
        f'<line class="grid" x1="{left}" x2="{WIDTH - 16}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        f'<text x="{left - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in ticks(low, high)
    ]
    parts += [
        f'<text x="{across(x):.1f}" y="{height - 22}" text-anchor="middle">{x:g}</text>'
        for x in _spread_out(sorted({x for x, _ in points}), across)
    ]
    parts.append(f'<text x="{WIDTH / 2}" y="{height - 4}" text-anchor="middle">{html.escape(x_name)}</text>')
    for number, line in enumerate(series.values()):
        color = number % SERIES_COLORS
        drawn = " ".join(f"{across(x):.1f},{up(mark.mean):.1f}" for x, mark in line)
        parts.append(f'<polyline class="series s{color}" points="{drawn}"/>')
        parts += [
            f'<g class="mark" data-label="{html.escape(mark.text, quote=True)}">'
            f'<line class="whisker" x1="{across(x):.1f}" x2="{across(x):.1f}" y1="{up(mark.ends[0]):.1f}" '
            f'y2="{up(mark.ends[1]):.1f}"/>'
            f'<circle class="dot d{color}" cx="{across(x):.1f}" cy="{up(mark.mean):.1f}" r="6"/></g>'
            for x, mark in line
        ]
    keys = "".join(
        f'<span class="key s{number % SERIES_COLORS}"></span>{html.escape(name)}' for number, name in enumerate(series)
    )
    return _figure(f"{title} ({unit})", keys, parts, height)


def _range(marks: Sequence[Mark]) -> tuple[float, float]:
    """Return the range of an axis that shows all marks, a little wider than they are."""
    low, high = min(mark.ends[0] for mark in marks), max(mark.ends[1] for mark in marks)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _whisker_across(across: Callable[[float], float], mark: Mark, y: float) -> str:
    if math.isnan(mark.half):
        return ""
    x1, x2 = (across(end) for end in mark.ends)
    return f'<path class="whisker" d="M{x1:.1f} {y - 4}v8m0 -4H{x2:.1f}m0 -4v8"/>'


def _spread_out(values: Sequence[float], across: Callable[[float], float]) -> list[float]:
    """Return the values whose labels do not overlap."""
    kept: list[float] = []
    for value in values:
        if not kept or across(value) - across(kept[-1]) > CHARACTER * len(f"{value:g}") + 8:
            kept.append(value)
    return kept


def _label_width(labels: Sequence[str]) -> float:
    return min(LONGEST_LABEL, max(map(len, labels))) * CHARACTER + 14


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 1]}…"


def _figure(title: str, keys: str, parts: Sequence[str], height: float) -> str:
    name = html.escape(title, quote=True)
    return (
        f'<figure data-marks="1"><figcaption>{name}</figcaption>'
        f'<div class="wide"><svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{name}">{"".join(parts)}'
        f'</svg></div><div>{keys}</div><div class="value">hover over a mark for its value</div></figure>'
    )
