"""The charts of a sweep as PNG and SVG files, drawn with matplotlib."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.axes import Axes as Plot
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from cnnjax.errors import counted
from cnnjax.report import figures as png
from cnnjax.report.value_charts import Mark
from cnnjax.sweep.edf import steps
from cnnjax.system.files import write_bytes

if TYPE_CHECKING:
    from cnnjax.sweep.edf import Edf
    from cnnjax.sweep.page import Heat, Sensitivity

COLORS = ("#8a8a8a", "#1f6feb", "#bf3989", "#1a7f37", "#bc4c00", "#8250df")
"""Colors of the lines, those of the page in its light theme."""


def write(
    folder: Path, bars: Sequence[tuple[str, Mark]], heats: Sequence["Heat"], rates: Sequence["Sensitivity"],
    curves: Mapping[str, Mapping[str, Sequence[float | None]]], spaces: Sequence["Edf"], unit: str,
) -> None:  # fmt: skip
    """Write ranking, curves and, if the sweep has them, heat maps, sensitivity curves and EDFs of design spaces."""
    drawings = {"ranking": _ranking(bars, unit), "curves": _curves(curves)}
    drawings |= {f"heat{_number(i, heats)}": _heat(heat, unit) for i, heat in enumerate(heats)}
    drawings |= {f"sensitivity{_number(i, rates)}": _sensitivity(rate, unit) for i, rate in enumerate(rates)}
    drawings |= {"edf": edf(spaces)} if spaces else {}
    for stem, figure in drawings.items():
        png.save(figure, folder / f"{stem}.png")
        write_bytes(folder / f"{stem}.svg", svg_bytes(figure))


def _number(index: int, drawings: Sequence[object]) -> str:
    return f"-{index + 1}" if len(drawings) > 1 else ""


def svg_bytes(figure: Figure) -> bytes:
    """Return a figure as SVG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "cnnjax"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


def edf(spaces: Sequence["Edf"]) -> Figure:
    """Draw the error EDF of each design space with its band."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    plot = figure.subplots()
    errors = steps(spaces)
    for number, space in enumerate(spaces):
        color, bands = COLORS[(number + 1) % len(COLORS)], [space.band(error) for error in errors]
        low, high = ([100 * end for end in ends] for ends in zip(*bands, strict=True))
        label = f"{space.space}, {counted(len(space.errors), 'network')}"
        plot.fill_between(errors, low, high, step="post", color=color, alpha=0.15, linewidth=0)
        plot.step(errors, [100 * space.share(error) for error in errors], where="post", color=color, label=label)
    plot.set(xlabel="test error (%)", ylabel="networks with at most this error (%)", ylim=(0, 100))
    plot.grid(alpha=0.3)
    plot.legend(fontsize=8, loc="lower right")
    return figure


def _whisker(half: float) -> float:
    return 0.0 if math.isnan(half) else half


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib reads text between two $ as a formula


def _ranking(bars: Sequence[tuple[str, Mark]], unit: str) -> Figure:
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(bars)), layout="constrained")
    plot = figure.subplots()
    places = range(len(bars))
    plot.errorbar([mark.mean for _, mark in bars], places, xerr=[_whisker(mark.half) for _, mark in bars], fmt="o",
                  color=COLORS[1], ecolor="black", capsize=3)  # fmt: skip
    plot.set_yticks(places, [_plain(name) for name, _ in bars])
    plot.invert_yaxis()
    plot.set_xlabel(f"{unit}: mean and 95 % interval over seeds")
    plot.grid(axis="x", alpha=0.3)
    return figure


def _curves(curves: Mapping[str, Mapping[str, Sequence[float | None]]]) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    drawn = (("validation_top1", "validation top-1 (%)", 100), ("train_loss", "training loss (nats)", 1))
    for plot, (name, title, scale) in zip(figure.subplots(1, 2), drawn, strict=True):
        for number, (label, lines) in enumerate(curves.items()):
            values = [math.nan if value is None else scale * value for value in lines[name]]
            plot.plot(range(1, len(values) + 1), values, color=COLORS[number % len(COLORS)], label=_plain(label))
        plot.set(xlabel="epoch", ylabel=title)
        plot.grid(alpha=0.3)
    plot.legend(fontsize=8)
    return figure


def _heat(heat: "Heat", unit: str) -> Figure:
    figure = Figure(figsize=(2.4 + 0.9 * len(heat.x), 1.6 + 0.5 * len(heat.y)), layout="constrained")
    plot: Plot = figure.subplots()
    grid = [[heat.marks[x, y].mean if (x, y) in heat.marks else math.nan for x in heat.x] for y in heat.y]
    plot.imshow(grid, cmap="Blues", aspect="auto")
    means = [mark.mean for mark in heat.marks.values()]
    middle = (min(means) + max(means)) / 2
    for row, values in enumerate(grid):
        for column, value in enumerate(values):
            if not math.isnan(value):
                color = "white" if value > middle else "black"
                plot.text(column, row, f"{value:.1f}", ha="center", va="center", color=color)
    plot.set_xticks(range(len(heat.x)), map(_plain, heat.x), rotation=30, ha="right")
    plot.set_yticks(range(len(heat.y)), map(_plain, heat.y))
    plot.set(xlabel=heat.x_name, ylabel=heat.y_name, title=unit)
    return figure


def _sensitivity(rate: "Sensitivity", unit: str) -> Figure:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    plot = figure.subplots()
    for number, (name, line) in enumerate(rate.series.items()):
        x, marks = zip(*line, strict=True)
        plot.errorbar(x, [mark.mean for mark in marks], yerr=[_whisker(mark.half) for mark in marks], marker="o",
                      color=COLORS[number % len(COLORS)], capsize=3, label=_plain(name))  # fmt: skip
    values = sorted({x for line in rate.series.values() for x, _ in line})
    plot.set_xscale("log")
    plot.set_xticks(values, [f"{value:g}" for value in values], rotation=30, ha="right")
    plot.minorticks_off()
    plot.set(xlabel=rate.option, ylabel=f"{unit}: mean and 95 % interval over seeds")
    plot.grid(alpha=0.3)
    plot.legend(fontsize=8)
    return figure
