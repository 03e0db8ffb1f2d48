"""A standalone SVG that places named points over a logarithmic axis, for Markdown pages."""

import html
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from cnnjax.report.charts import ticks

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 220, 16, 44
LINE_HEIGHT, LEADER = 16, 26
"""Height of a label and width of the line that leads to it, in pixels."""
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a; } .name { fill: #1f2328; }
.grid { stroke: #d0d7de; } .leader { fill: none; stroke: #8c959f; stroke-width: .7; }
circle { fill: #1f6feb; } .spread { stroke: #1f6feb; stroke-width: 2; }
@media (prefers-color-scheme: dark) { text { fill: #9198a1; } .name { fill: #f0f6fc; } .grid { stroke: #3d444d; } }
"""


class Point(NamedTuple):
    """A named value, such as the accuracy of a network over its cost."""

    name: str
    x: float
    """Greater than 0."""
    y: float
    spread: float = 0.0
    """Half the length of the vertical line through the point."""


def scatter(title: str, x_name: str, y_name: str, points: Sequence[Point]) -> str:
    """Return the chart as an SVG document; there must be at least one point."""
    first, last = math.log10(min(p.x for p in points)) - 0.15, math.log10(max(p.x for p in points)) + 0.15
    low, high = min(p.y - p.spread for p in points), max(p.y + p.spread for p in points)
    margin = max(0.05 * (high - low), 0.5)
    low, high = low - margin, high + margin

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(x) - first) / (last - first)

    def up(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low)

    parts = [_horizontal(up(tick), f"{tick:g}") for tick in ticks(low, high)]
    parts += [_vertical(across(tick), f"{tick:g}") for tick in round_numbers(10**first, 10**last)]
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">')
    parts[-1] += f"{html.escape(x_name)}</text>"
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">'
        f"{html.escape(y_name)}</text>"
    )
    heights = label_heights([up(p.y) for p in points], HEIGHT - BOTTOM)
    for point, height in zip(points, heights, strict=True):
        x, y, edge = across(point.x), up(point.y), WIDTH - RIGHT
        parts.append(f'<polyline class="leader" points="{x:.1f},{y:.1f} {edge},{y:.1f} {edge + LEADER},{height:.1f}"/>')
        if point.spread:
            top, bottom = up(point.y + point.spread), up(point.y - point.spread)
            parts.append(f'<line class="spread" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(
            f'<text class="name" x="{edge + LEADER + 4}" y="{height + 4:.1f}">{html.escape(point.name)}</text>'
        )
    body = "\n".join(parts)
    label = html.escape(title, quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">\n'
        f"<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def round_numbers(low: float, high: float) -> list[float]:
    """Return the numbers in [low, high] that are 1, 2 or 5 times a power of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = (float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5))
    return [number for number in numbers if low <= number <= high]


def label_heights(wanted: Sequence[float], bottom: float) -> list[float]:
    """Return a height near each wanted one, in the same order, at least a line apart and, if they fit, up to bottom."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    heights = list(wanted)
    for above, below in itertools.pairwise(order):
        heights[below] = max(heights[below], heights[above] + LINE_HEIGHT)
    limit = bottom
    for index in reversed(order):
        heights[index] = min(heights[index], limit)
        limit = heights[index] - LINE_HEIGHT
    return heights


def _horizontal(y: float, label: str) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'


def _vertical(x: float, label: str) -> str:
    line = f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    return f'{line}<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label}</text>'
