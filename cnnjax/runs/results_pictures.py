"""The pictures of docs/results.md, drawn from the records of a question.

A question with ``picture = "curves"`` shows the training loss and the validation error of its rows over the epochs. One
with ``picture = "images_per_class"`` shows their test top-1 over the number of training images per class, with one line
for each ``series`` of rows. ``image`` is the file, next to the page.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cnnjax.errors import UserError, choose
from cnnjax.report.figures import label
from cnnjax.runs.records import Record

Row = tuple[Mapping[str, str], Sequence[Record]]
"""A row of a question: its entry, and the records of its seeds."""
SIZE = (10, 4)


def draw(question: Mapping[str, Any], groups: Sequence[Sequence[Record]]) -> Figure:
    """Return the picture of a question from the records of each of its rows.

    Raises:
        UserError: its kind is unknown, or its rows lack what the picture shows.
    """
    kind = choose("picture", question["picture"], PICTURES)
    return PICTURES[kind](list(zip(question["rows"], groups, strict=True)), question["title"])


def _curves(rows: Sequence[Row], title: str) -> Figure:
    """Lines are means over the seeds; rows with ``dashed = true`` have dashed lines."""
    figure = Figure(figsize=SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    for row, group in rows:
        style = "--" if row.get("dashed") else "-"
        for axes, value in ((left, _train_loss), (right, _validation_error)):
            lines = np.array([[value(entry) for entry in record.rows] for record in _same_length(group, title)])
            axes.plot(range(1, lines.shape[1] + 1), lines.mean(axis=0), style, marker=".", label=label(row["label"]))
    left.set(xlabel="epoch", ylabel="training loss (nats)")
    right.set(xlabel="epoch", ylabel="validation error (%)")
    left.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def _images_per_class(rows: Sequence[Row], title: str) -> Figure:
    """Points are means over the seeds; vertical lines are sample standard deviations."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row.get("series", "") for row, _ in rows):
        groups = [group for row, group in rows if row.get("series", "") == name]
        counts = [_count(group[0], title) for group in groups]
        scores = [[100 * record.results["test"]["top1"] for record in group] for group in groups]
        spreads = [float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in scores]
        means = [float(np.mean(values)) for values in scores]
        axes.errorbar(counts, means, spreads, marker="o", capsize=3, label=label(name))
    axes.set(xlabel="training images per class", ylabel="test top-1 (%)", xscale="log")
    ticks = sorted({_count(group[0], title) for _, group in rows})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


PICTURES: dict[str, Callable[[Sequence[Row], str], Figure]] = {"curves": _curves, "images_per_class": _images_per_class}


def _train_loss(row: Mapping[str, Any]) -> float:
    return row["train_loss"]


def _validation_error(row: Mapping[str, Any]) -> float:
    return 100 - 100 * row["validation_top1"]


def _same_length(group: Sequence[Record], title: str) -> Sequence[Record]:
    lengths = sorted({len(record.rows) for record in group})
    if len(lengths) > 1:
        raise UserError(
            f"the curves of {title!r} need seeds of equal length; {group[0].name} has runs of {lengths} epochs"
        )
    return group


def _count(record: Record, title: str) -> int:
    count = record.experiment.data.per_class
    if count is None:
        raise UserError(f"the picture of {title!r} needs data.per_class, which {record.name} leaves out")
    return count
