"""SVG charts for HTML pages. They follow the colors of the page, fit any width, and show values under the pointer."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 14, 36
MOST_POINTS = 1000
"""Maximum points to draw per series; longer series are thinned evenly."""

STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
figure { margin: 0; position: relative; }
figcaption { font-weight: 600; }
svg { width: 100%; height: auto; touch-action: pan-y; }
svg text { font: 11px system-ui, sans-serif; fill: var(--dim); }
.grid { stroke: var(--line); stroke-width: 1; }
.series { fill: none; stroke-width: 2; stroke-linejoin: round; }
.s0 { stroke: var(--s0); background: var(--s0); } .s1 { stroke: var(--s1); background: var(--s1); }
.s2 { stroke: var(--s2); background: var(--s2); } .s3 { stroke: var(--s3); background: var(--s3); }
.s4 { stroke: var(--s4); background: var(--s4); } .s5 { stroke: var(--s5); background: var(--s5); }
.band { opacity: .15; }
.b0 { fill: var(--s0); } .b1 { fill: var(--s1); } .b2 { fill: var(--s2); }
.b3 { fill: var(--s3); } .b4 { fill: var(--s4); } .b5 { fill: var(--s5); }
.bar { fill: var(--s1); opacity: .75; }
.ideal { stroke: var(--dim); stroke-dasharray: 4 4; }
.best { fill: none; stroke: var(--fg); stroke-width: 1.5; }
.border { stroke: var(--dim); stroke-dasharray: 2 3; }
.cursor { stroke: var(--dim); visibility: hidden; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .35em 0 .9em; }
.value { min-height: 1.5em; font-variant-numeric: tabular-nums; color: var(--dim); font-size: .85rem; }
"""
SCRIPT = """
document.querySelectorAll('figure[data-chart]').forEach(figure => {
  const chart = JSON.parse(figure.dataset.chart), svg = figure.querySelector('svg');
  const cursor = svg.querySelector('.cursor'), value = figure.querySelector('.value'), rest = value.textContent;
  svg.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * chart.width;
    let near = 0;
    chart.pixels.forEach((pixel, i) => { if (Math.abs(pixel - at) < Math.abs(chart.pixels[near] - at)) near = i; });
    cursor.setAttribute('x1', chart.pixels[near]);
    cursor.setAttribute('x2', chart.pixels[near]);
    cursor.style.visibility = 'visible';
    value.textContent = chart.labels[near];
  });
  svg.addEventListener('pointerleave', () => { cursor.style.visibility = 'hidden'; value.textContent = rest; });
});
"""
SERIES_COLORS = 6


def line_chart(
    title: str, x_name: str, x: Sequence[float], series: Mapping[str, Sequence[float | None]], *, digits: int = 4,
    unit: str = "", best: tuple[str, int] | None = None, borders: Mapping[float, str] = MappingProxyType({}),
    powers: bool = False, bands: Mapping[str, Sequence[tuple[float, ...]]] = MappingProxyType({}),
) -> str:  # fmt: skip
    """Return a line chart that shows values under the pointer.

    Args:
        title: the caption.
        x_name: name of the horizontal axis, such as "epoch".
        x: horizontal positions in ascending order.
        series: values by name, one per position; None marks a missing value.
        digits: decimals of displayed values.
        unit: suffix of displayed values, such as " %".
        best: series and index of a point to mark.
        borders: names of parts of the horizontal axis, by the position at which each begins.
        powers: the positions are exponents of ten, and the axis and the pointer show the powers.
        bands: the lowest and highest value around each point of a series, by its name.
    """
    step = max(1, math.ceil(len(x) / MOST_POINTS))
    kept = sorted({*range(0, len(x), step), len(x) - 1, *([] if best is None else [best[1]])})
    values = [v for line in series.values() for v in (line[i] for i in kept) if v is not None and math.isfinite(v)]
    values += [end for band in bands.values() for i in kept for end in band[i]]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        low, high = low - (abs(low) or 1) * 0.05, high + (abs(high) or 1) * 0.05
    first, last = x[kept[0]], x[kept[-1]]
    across = [LEFT + (WIDTH - LEFT - RIGHT) * ((x[i] - first) / (last - first) if last > first else 0.5) for i in kept]

    def up(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = [_horizontal(up(tick), f"{tick:.4g}") for tick in ticks(low, high)]
    parts += [
        f'<text x="{LEFT + (WIDTH - LEFT - RIGHT) * (tick - first) / (last - first):.1f}" y="{HEIGHT - 18}" '
        f'text-anchor="middle">{10**tick if powers else tick:g}</text>'
        for tick in (ticks(first, last) if last > first else [])
        if tick == int(tick)
    ]
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 3}" text-anchor="middle">{html.escape(x_name)}</text>')
    for position, name in borders.items():
        at = LEFT + (WIDTH - LEFT - RIGHT) * min(max((position - first) / (last - first or 1), 0), 1)
        parts.append(f'<line class="border" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{at + 3:.1f}" y="{TOP - 3}">{html.escape(name)}</text>')
    for number, (name, line) in enumerate(series.items()):
        if name in bands:
            lower, upper = ([(px, bands[name][i][end]) for px, i in zip(across, kept, strict=True)] for end in (0, 1))
            outline = " ".join(f"{px:.1f},{up(v):.1f}" for px, v in (*lower, *reversed(upper)))
            parts.append(f'<polygon class="band b{number % SERIES_COLORS}" points="{outline}"/>')
        points = [(px, line[i]) for px, i in zip(across, kept, strict=True)]
        drawn = " ".join(f"{px:.1f},{up(v):.1f}" for px, v in points if v is not None and math.isfinite(v))
        parts.append(f'<polyline class="series s{number % SERIES_COLORS}" points="{drawn}"/>')
    if best is not None and (value := series[best[0]][best[1]]) is not None:
        parts.append(f'<circle class="best" cx="{across[kept.index(best[1])]:.1f}" cy="{up(value):.1f}" r="5"/>')
    parts.append(f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    labels = [
        f"{x_name} {f'{10 ** x[i]:.3g}' if powers else f'{x[i]:g}'}: "
        + ", ".join(f"{name} {line[i]:.{digits}f}{unit}" for name, line in series.items() if line[i] is not None)
        for i in kept
    ]
    keys = "".join(
        f'<span class="key s{number % SERIES_COLORS}"></span>{html.escape(name)}' for number, name in enumerate(series)
    )
    return _figure(title, keys, parts, {"width": WIDTH, "pixels": [round(px, 1) for px in across], "labels": labels})


def reliability_chart(title: str, edges: Sequence[float], rows: Sequence[tuple[int, float, float]]) -> str:
    """Return a reliability diagram: one bar per confidence bin, with the accuracy as its height.

    Args:
        title: the caption.
        edges: bin edges in [0, 1], one more than the number of bins.
        rows: number of images, mean confidence and accuracy of each bin.
    """
    parts = [_horizontal(TOP + (HEIGHT - TOP - BOTTOM) * (1 - tick), f"{100 * tick:.0f} %") for tick in (0, 0.5, 1)]
    inner = WIDTH - LEFT - RIGHT
    middles, labels = [], []
    for low, high, (count, confidence, accuracy) in zip(edges, edges[1:], rows, strict=False):
        middles.append(round(LEFT + inner * (low + high) / 2, 1))
        share = f"{100 * accuracy:.1f} % accuracy at {100 * confidence:.1f} % confidence" if count else "no images"
        labels.append(f"confidence {100 * low:.0f} to {100 * high:.0f} %: {count:,} images, {share}")
        height = (HEIGHT - TOP - BOTTOM) * accuracy
        parts.append(
            f'<rect class="bar" x="{LEFT + inner * low + 1:.1f}" y="{HEIGHT - BOTTOM - height:.1f}" '
            f'width="{inner * (high - low) - 2:.1f}" height="{height:.1f}"/>'
        )
    parts.append(f'<line class="ideal" x1="{LEFT}" y1="{HEIGHT - BOTTOM}" x2="{WIDTH - RIGHT}" y2="{TOP}"/>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 3}" text-anchor="middle">confidence</text>')
    parts.append(f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    return _figure(title, "accuracy; dashed: perfect calibration", parts,
                   {"width": WIDTH, "pixels": middles, "labels": labels})  # fmt: skip


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most ``most`` + 1 round numbers in [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    count = math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9) + 1
    return [round((math.ceil(low / step - 1e-9) + i) * step, 12) for i in range(count)]


def _horizontal(y: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{html.escape(label)}</text>'
    )


def _figure(title: str, keys: str, parts: Sequence[str], data: Mapping[str, object]) -> str:
    encoded = html.escape(json.dumps(data), quote=True)
    return (
        f'<figure data-chart="{encoded}"><figcaption>{html.escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title, quote=True)}">'
        f'{"".join(parts)}</svg><div>{keys}</div><div class="value">hover over the chart for values</div></figure>'
    )
