"""The pictures of docs/results.md, drawn from the records of a question.

What a question's ``picture`` shows of its rows; ``image`` is the file, relative to the page:
    curves            the training loss and the validation error over the epochs
    overfitting       loss and error over the epochs, each of training and of validation
    images_per_class  the test top-1 over the number of training images per class, one line for each ``series`` of rows
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cnnjax.errors import UserError, choose
from cnnjax.report.figures import label
from cnnjax.runs.records import Record

Row = tuple[Mapping[str, str], Sequence[Record]]
"""A row of a question: its entry, and the records of its seeds."""
Value = Callable[[Mapping[str, Any]], float]
"""A value of the metrics of an epoch."""
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
    figure, left, right = _panels("training loss (nats)", "validation error (%)")
    for row, group in rows:
        style = "--" if row.get("dashed") else "-"
        for axes, value in ((left, _loss("train")), (right, _error("validation"))):
            axes.plot(*_mean(group, title, value), style, marker=".", label=label(row["label"]))
    left.legend()
    return figure


def _overfitting(rows: Sequence[Row], title: str) -> Figure:
    """Lines are means over the seeds, for each row a solid one for training and a dashed one for validation."""
    figure, left, right = _panels("loss (nats)", "error (%)")
    for number, (row, group) in enumerate(rows):
        for split, name, style in (("train", "training", "-"), ("validation", "validation", "--")):
            for axes, value in ((left, _loss(split)), (right, _error(split))):
                text = label(f"{row['label']}, {name}")
                axes.plot(*_mean(group, title, value), style, color=f"C{number}", marker=".", label=text)
    left.legend()
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


PICTURES: dict[str, Callable[[Sequence[Row], str], Figure]] = {
    "curves": _curves, "overfitting": _overfitting, "images_per_class": _images_per_class,
}  # fmt: skip


def _panels(left: str, right: str) -> tuple[Figure, Axes, Axes]:
    """Return a figure with two axes over the epochs, and these axes; the arguments are the labels of their values."""
    figure = Figure(figsize=SIZE, layout="constrained")
    both = figure.subplots(1, 2)
    for axes, name in zip(both, (left, right), strict=True):
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
    return figure, *both


def _loss(split: str) -> Value:
    return lambda row: row[f"{split}_loss"]


def _error(split: str) -> Value:
    return lambda row: 100 - 100 * row[f"{split}_top1"]


def _mean(group: Sequence[Record], title: str, value: Value) -> tuple[range, np.ndarray]:
    """Return the epochs, and the mean of a value over the seeds at each of them."""
    lengths = sorted({len(record.rows) for record in group})
    if len(lengths) > 1:
        raise UserError(
            f"the curves of {title!r} need seeds of equal length; {group[0].name} has runs of {lengths} epochs"
        )
    return range(1, lengths[0] + 1), np.mean([[value(row) for row in record.rows] for record in group], axis=0)


def _count(record: Record, title: str) -> int:
    count = record.experiment.data.per_class
    if count is None:
        raise UserError(f"the picture of {title!r} needs data.per_class, which {record.name} leaves out")
    return count
