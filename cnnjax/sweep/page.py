"""`report.html` of a sweep: one self-contained page, with its charts as PNG and SVG beside it."""

import html
import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax.errors import counted
from cnnjax.report import charts, data_table, page, value_charts
from cnnjax.report.data_table import Shown
from cnnjax.report.value_charts import Mark
from cnnjax.sweep import figures, store, table
from cnnjax.sweep.axes import label
from cnnjax.sweep.edf import EDF_HEADER, Edf, edf_rows, edfs, steps
from cnnjax.sweep.sentences import sentences
from cnnjax.sweep.statistics import Axes, Cell, Comparison, axes_of, cells, compare, shown
from cnnjax.sweep.store import Description
from cnnjax.sweep.table import Row

MOST_CURVES = charts.SERIES_COLORS
"""Maximum curves in one chart, so that no two have the same color."""
RATES = ("optimizer.lr", "optimizer.weight_decay", "optimizer.eps")
"""Options whose axes are drawn as a sensitivity curve if their values are positive numbers."""
UNIT = "test top-1, %"


class Heat(NamedTuple):
    """The mean test top-1 over two axes, averaged over all others."""

    x_name: str
    y_name: str
    x: tuple[str, ...]
    y: tuple[str, ...]
    marks: dict[tuple[str, str], Mark]


class Sensitivity(NamedTuple):
    """The test top-1 over the values of a numeric axis, one line for each value of another axis."""

    option: str
    series: dict[str, list[tuple[float, Mark]]]
    """The lines to draw, the best first."""
    lines: int
    """Number of all lines."""


def rebuild(folder: Path) -> None:
    """Write the table and the page of the sweep in a folder from its `sweep.json` and the folders of its members."""
    description = store.read_description(folder)
    rows = table.read_rows(folder.parent, description)
    table.write(folder, rows)
    write(folder, description, rows)


def write(folder: Path, description: Description, rows: Sequence[Row]) -> None:
    """Write ``report.html`` and the pictures."""
    axes = axes_of(description)
    ranked = cells(axes, rows)
    body = [
        f"<h1>{html.escape(description.name)}</h1>",
        f"<p>{html.escape(description.title)}</p>",
        f"<p>{html.escape(_counts(rows))}</p>",
    ]
    if ranked:
        body += _results(folder, axes, rows, ranked)
    body += ["<h2>Members</h2>", _members(axes, rows)]
    if problems := [[row.member, row.status, row.problem] for row in rows if row.status in ("diverged", "failed")]:
        body += ["<h2>Problems</h2>", page.table(["member", "status", "reason"], problems, texts=True)]
    page.write_page(
        folder / "report.html", f"sweep {description.name}", body,
        style=value_charts.STYLE + data_table.STYLE, script=value_charts.SCRIPT + data_table.SCRIPT,
    )  # fmt: skip


def _results(folder: Path, axes: Axes, rows: Sequence[Row], ranked: Sequence[Cell]) -> list[str]:
    comparisons, bars = compare(axes, rows), bars_of(ranked)
    heats, rates, curves = heats_of(axes, ranked), sensitivities(axes, ranked), curves_of(ranked)
    spaces = edfs(axes, rows)
    figures.write(folder, bars, heats, rates, curves, spaces, UNIT)
    explained = (
        f"Test top-1. Differences are averaged over the other axes and paired by seed; the intervals of all "
        f"{counted(len(comparisons), 'comparison')} hold jointly with 95 % probability (Student's t, Bonferroni)."
    )
    body = [
        "<h2>Findings</h2>", "<ul>", *(f"<li>{html.escape(text)}</li>" for text in sentences(axes, rows)), "</ul>",
        f"<p>{explained}</p>",
        *(["<h2>Design spaces</h2>", _edf_chart(spaces)] if spaces else []),
        "<h2>Ranking</h2>", value_charts.ranked_bars("Mean and 95 % interval over seeds", UNIT, bars),
    ]  # fmt: skip
    if heats:
        body += ["<h2>Two axes</h2>", *map(_heat_chart, heats)]
    if rates:
        body += ["<h2>Sensitivity</h2>", *map(_rate_chart, rates)]
    shown_curves = (
        f"the {len(curves)} best of {len(ranked)} combinations" if len(curves) < len(ranked) else "mean over seeds"
    )
    body += ["<h2>Curves</h2>", _curve_charts(curves, shown_curves), "<h2>Comparisons</h2>", _comparisons(comparisons)]
    return body


def _counts(rows: Sequence[Row]) -> str:
    statuses = [row.status for row in rows]
    others = ", ".join(
        f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses) if status != "finished"
    )
    return f"{counted(len(rows), 'member')}, {statuses.count('finished')} finished" + (
        f", {others}." if others else "."
    )


def title_of(values: Sequence[str]) -> str:
    """Return the labels of a combination as text; a sweep over seeds alone has none."""
    return " · ".join(values) or "all seeds"


def bars_of(ranked: Sequence[Cell]) -> list[tuple[str, Mark]]:
    """Return a bar for each combination."""
    return [(title_of(cell.values), _mark(cell)) for cell in ranked]


def _mark(cell: Cell) -> Mark:
    missing = f", {cell.missing} not finished" if cell.missing else ""
    seeds = counted(cell.top1.n, "seed")
    return Mark(cell.top1.mean, cell.top1.half, f"{title_of(cell.values)}: {shown(cell.top1)}, {seeds}{missing}")


def heats_of(axes: Axes, ranked: Sequence[Cell]) -> list[Heat]:
    """Return a heat map for every two axes that have two or more values each."""
    labels = [sorted_labels({cell.values[number] for cell in ranked}) for number in range(len(axes.names))]
    wide = [number for number in range(len(axes.names)) if len(labels[number]) > 1]
    return [_heat(axes, labels, ranked, second, first) for first, second in itertools.combinations(wide, 2)]


def _heat(axes: Axes, labels: Sequence[Sequence[str]], ranked: Sequence[Cell], x: int, y: int) -> Heat:
    grouped: dict[tuple[str, str], list[Cell]] = {}
    for cell in ranked:
        grouped.setdefault((cell.values[x], cell.values[y]), []).append(cell)
    marks = {}
    for place, group in grouped.items():
        mean = statistics.fmean(cell.top1.mean for cell in group)
        over = f", mean of {len(group)} combinations" if len(group) > 1 else ""
        marks[place] = Mark(
            mean, math.nan, f"{axes.names[y]} {place[1]}, {axes.names[x]} {place[0]}: {mean:.2f} %{over}"
        )
    return Heat(axes.names[x], axes.names[y], tuple(labels[x]), tuple(labels[y]), marks)


def sorted_labels(labels: set[str]) -> list[str]:
    """Return labels in order: by number if all are numbers, else by text."""
    try:
        return sorted(labels, key=float)
    except ValueError:
        return sorted(labels)


def sensitivities(axes: Axes, ranked: Sequence[Cell]) -> list[Sensitivity]:
    """Return the test top-1 over each rate, with a line for each combination of the other axes."""
    found = []
    for number, options in enumerate(axes.options):
        if len(options) != 1 or options[0] not in RATES:
            continue
        series: dict[str, list[tuple[float, Mark]]] = {}
        for cell in ranked:
            value = cell.rows[0].values.get(options[0])
            if isinstance(value, int | float) and value > 0:
                others = title_of(cell.values[:number] + cell.values[number + 1 :])
                series.setdefault(others, []).append((float(value), _mark(cell)))
        if series and max(map(len, series.values())) > 1:
            kept = dict(itertools.islice(series.items(), MOST_CURVES))  # the best combinations come first
            lines = {name: sorted(line) for name, line in kept.items()}
            found.append(Sensitivity(options[0], lines, len(series)))
    return found


def curves_of(ranked: Sequence[Cell]) -> dict[str, dict[str, list[float | None]]]:
    """Return the mean curves over the seeds of the best combinations, by figure."""
    best = ranked[:MOST_CURVES]
    return {title_of(cell.values): {name: _mean_curve(cell, name) for name in ("validation_top1", "train_loss")}
            for cell in best}  # fmt: skip


def _mean_curve(cell: Cell, name: str) -> list[float | None]:
    """Return the mean of each epoch, up to the last epoch that every seed reached."""
    return [statistics.fmean(float(row[name]) for row in epoch)
            for epoch in zip(*(row.curve for row in cell.rows), strict=False)]  # fmt: skip


def _heat_chart(heat: Heat) -> str:
    return value_charts.heat_map(
        f"{heat.y_name} and {heat.x_name}", heat.x_name, heat.x, heat.y_name, heat.y, heat.marks
    )


def _edf_chart(spaces: Sequence[Edf]) -> str:
    """Return the chart and the table of the design spaces."""
    errors = steps(spaces)
    chart = charts.line_chart(
        "Networks with at most this test error (%)", "test error (%)", errors,
        {space.space: [100 * space.share(error) for error in errors] for space in spaces}, digits=0, unit=" %",
        bands={space.space: [tuple(100 * end for end in space.band(error)) for error in errors] for space in spaces},
    )  # fmt: skip
    note = (
        "<p>Error EDF (Radosavovic et al. 2020, equation 1). The bands of all spaces hold jointly at every error with "
        "95 % probability (bootstrap, Bonferroni). A network that diverged counts with an error of 100 %.</p>"
    )
    return f'<div class="charts">{chart}</div>{note}{page.table(list(EDF_HEADER), edf_rows(spaces), texts=True)}'


def _rate_chart(rate: Sensitivity) -> str:
    best = f", the {len(rate.series)} best of {rate.lines}" if len(rate.series) < rate.lines else ""
    return value_charts.sensitivity_chart(f"Test top-1 vs. {rate.option}{best}", rate.option, "%", rate.series)


def _curve_charts(curves: dict[str, dict[str, list[float | None]]], caption: str) -> str:
    longest = max((len(line["validation_top1"]) for line in curves.values()), default=0)
    epochs = list(range(1, longest + 1))

    def padded(name: str, scale: float) -> dict[str, list[float | None]]:
        lines = {title: [None if v is None else scale * v for v in line[name]] for title, line in curves.items()}
        return {title: [*line, *[None] * (longest - len(line))] for title, line in lines.items()}

    if not epochs:
        return "<p>No per-epoch metrics.</p>"
    drawn = (
        charts.line_chart(
            f"Validation top-1 (%), {caption}", "epoch", epochs, padded("validation_top1", 100), digits=2, unit=" %"
        ),
        charts.line_chart(f"Training loss (nats), {caption}", "epoch", epochs, padded("train_loss", 1)),
    )
    return f'<div class="charts">{"".join(drawn)}</div>'


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return "<p>None.</p>"
    rows = []
    for c in comparisons:
        d = c.difference
        found = f"[{d.low:.2f}, {d.high:.2f}]" if d.known else "needs 2 or more seeds"
        p = "" if math.isnan(c.p) else f"{c.p:.3g}"
        rows.append([c.axis, c.first, c.second, f"{d.mean:+.2f}", found, p, str(d.n), str(c.pairs), str(c.left_out)])
    header = ["axis", "value", "over", "points", "interval", "p", "seeds", "pairs", "left out"]
    note = (
        "<p>Pairs are the combinations of the other axes; those with a member that has not finished are left out.</p>"
    )
    return f'<div class="compact">{page.table(header, rows)}</div>{note}'


def _members(axes: Axes, rows: Sequence[Row]) -> str:
    options = [option for group in axes.options for option in group]
    seeds = ["seed"] if any("seed" in row.values for row in rows) else []
    named = [*options, *seeds]
    header = [*named, "status", "test top-1", "validation top-1", "test loss", "best epoch", "seconds", "member"]
    body = [[*(_value(row, option) for option in named), Shown(row.status, row.status), *_figures(row),
             Shown(row.member, row.member)] for row in rows]  # fmt: skip
    return data_table.data_table(header, body, range(len(named) + 1))


def _value(row: Row, option: str) -> Shown:
    if option not in row.values:
        return Shown("", None)
    text = label(row.values[option])
    return Shown(text, text)


def _figures(row: Row) -> list[Shown]:
    def number(name: str, text: str, scale: float = 1) -> Shown:
        value: Any = row.figures.get(name)
        return Shown("", None) if value is None else Shown(text.format(scale * value), value)

    return [
        number("test_top1", "{:.2f} %", 100), number("validation_top1", "{:.2f} %", 100), number("test_loss", "{:.4f}"),
        number("best_epoch", "{}"), number("seconds", "{:.1f}"),
    ]  # fmt: skip
