"""A standalone SVG that places named points over a logarithmic axis, for Markdown pages."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

from cnnjax.report.charts import ticks

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 16, 44
LINE_HEIGHT, CHARACTER = 14, 6.5
"""Height of a label and approximate width of one of its characters, in pixels."""
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a; } .name { fill: #1f2328; }
.grid { stroke: #d0d7de; } circle { fill: #1f6feb; } .spread { stroke: #1f6feb; stroke-width: 2; }
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
    decades = math.floor(math.log10(min(p.x for p in points))), math.ceil(math.log10(max(p.x for p in points)))
    first, last = decades if decades[0] < decades[1] else (decades[0], decades[0] + 1)
    low, high = min(p.y - p.spread for p in points), max(p.y + p.spread for p in points)
    margin = max(0.05 * (high - low), 0.5)
    low, high = low - margin, high + margin

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(x) - first) / (last - first)

    def up(y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low)

    parts = [_horizontal(up(tick), f"{tick:g}") for tick in ticks(low, high)]
    parts += [_vertical(across(10.0**power), f"{10.0**power:g}") for power in range(first, last + 1)]
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">')
    parts[-1] += f"{html.escape(x_name)}</text>"
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">'
        f"{html.escape(y_name)}</text>"
    )
    heights = label_heights([(across(p.x), up(p.y), CHARACTER * len(p.name)) for p in points])
    for point, height in zip(points, heights, strict=True):
        x, y = across(point.x), up(point.y)
        if point.spread:
            top, bottom = up(point.y + point.spread), up(point.y - point.spread)
            parts.append(f'<line class="spread" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(f'<text class="name" x="{x + 8:.1f}" y="{height + 4:.1f}">{html.escape(point.name)}</text>')
    body = "\n".join(parts)
    label = html.escape(title, quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">\n'
        f"<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def label_heights(boxes: Sequence[tuple[float, float, float]]) -> list[float]:
    """Return a height for each label near that of its point, such that no two labels overlap.

    Args:
        boxes: left side, wanted height and width of each label in pixels.
    """
    heights: dict[int, float] = {}
    for index, (left, wanted, width) in sorted(enumerate(boxes), key=lambda item: item[1][1]):
        height = wanted
        beside = [i for i in heights if left < boxes[i][0] + boxes[i][2] and boxes[i][0] < left + width]
        for other in sorted(beside, key=heights.__getitem__):
            if abs(height - heights[other]) < LINE_HEIGHT:
                height = heights[other] + LINE_HEIGHT
        heights[index] = height
    return [heights[index] for index in range(len(boxes))]


def _horizontal(y: float, label: str) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'


def _vertical(x: float, label: str) -> str:
    line = f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    return f'{line}<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label}</text>'
