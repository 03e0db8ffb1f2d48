"""The report on a data set, and the problems found in it: `scripts/data.py check`."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cnnjax.data.examination import CORRELATION, MOST_COMPARED, Duplicates, Examined, Pair
from cnnjax.data.image_files import MOST_VALUE, low_bits
from cnnjax.errors import counted, listed
from cnnjax.report import figures, page
from cnnjax.system.files import write_bytes

IMBALANCE = 3
"""Minimum ratio of the largest to the smallest class at which an imbalance is reported."""
SHOWN_CLASSES, SHOWN_PER_CLASS, SHOWN_PAIRS = 12, 8, 16


class Finding(NamedTuple):
    """A sentence about a data set; ``wrong`` if it should be fixed before training."""

    text: str
    wrong: bool


def findings(examined: Examined, duplicates: Duplicates) -> list[Finding]:
    """Return the findings about a data set, problems first."""
    found = [*_files(examined), *_alike(examined, duplicates), *_images(examined)]
    return sorted(found, key=lambda finding: not finding.wrong)


def _files(examined: Examined) -> list[Finding]:
    found = []
    if damaged := examined.damaged:
        name, reason = next(iter(damaged.items()))
        found.append(Finding(f"{counted(len(damaged), 'damaged file')}: {listed(damaged)} ({name}: {reason})", True))
    if left_out := examined.left_out:
        found.append(Finding(f"{counted(len(left_out), 'file')} not used: {listed(left_out)}", False))
    return found


def _alike(examined: Examined, duplicates: Duplicates) -> list[Finding]:
    found = []
    kinds = {
        "exact duplicates": [pair for pair in duplicates.pairs if pair.likeness == 1],
        f"near duplicates (correlation of thumbnails {CORRELATION} or more)": [
            pair for pair in duplicates.pairs if pair.likeness < 1
        ],
    }
    for kind, pairs in kinds.items():
        across = [p for p in pairs if examined.parts[p.first] != examined.parts[p.second]]
        classes = [p for p in pairs if examined.labels[p.first] != examined.labels[p.second]]
        within = len(pairs) - len(across)
        if across:
            found.append(Finding(f"{kind} in two splits, {_pairs(examined, across)}", True))
        if classes:
            found.append(Finding(f"{kind} in two classes, {_pairs(examined, classes)}", True))
        if within:
            pairs = [p for p in pairs if examined.parts[p.first] == examined.parts[p.second]]
            found.append(Finding(f"{kind} within a split, {_pairs(examined, pairs)}", False))
    if not duplicates.compared:
        found.append(
            Finding(f"the search for near duplicates was skipped: there are more than {MOST_COMPARED:,} images", False)
        )
    return found


def _pairs(examined: Examined, pairs: Sequence[Pair]) -> str:
    names = (f"{examined.names[pair.first]} and {examined.names[pair.second]}" for pair in pairs)
    return f"{counted(len(pairs), 'pair')}: {listed(names, 5)}"


def _images(examined: Examined) -> list[Finding]:
    found = []
    if examined.largest is not None and (bits := low_bits(examined.largest, MOST_VALUE)):
        found.append(
            Finding(
                f"images with more than 8 bits have values up to {examined.largest:,} of {MOST_VALUE:,}; if they have "
                f"{bits} bits, train with --data.max-value {2**bits - 1}",
                False,
            )
        )
    if uniform := [examined.names[index] for index in np.flatnonzero(examined.uniform)]:
        found.append(Finding(f"{counted(len(uniform), 'image')} of one uniform color: {listed(uniform)}", True))
    for part in dict.fromkeys(examined.parts.tolist()):
        counts = np.bincount(examined.labels[examined.parts == part], minlength=len(examined.classes))
        if counts.min() == 0:
            empty = [name for name, count in zip(examined.classes, counts, strict=True) if not count]
            found.append(Finding(f"{part} has no image of {listed(empty)}", True))
        elif counts.max() >= IMBALANCE * counts.min():
            largest, smallest = examined.classes[counts.argmax()], examined.classes[counts.argmin()]
            found.append(
                Finding(f"{part}: {counts.max():,} images of {largest}, {counts.min():,} of {smallest}", False)
            )
    return found


def counts_table(examined: Examined) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the number of images by class and split."""
    parts = list(dict.fromkeys(examined.parts.tolist()))
    rows = []
    for label, name in enumerate(examined.classes):
        counts = [int(((examined.labels == label) & (examined.parts == part)).sum()) for part in parts]
        rows.append([name, *(f"{count:,}" for count in counts), f"{sum(counts):,}"])
    totals = [int((examined.parts == part).sum()) for part in parts]
    rows.append(["all", *(f"{total:,}" for total in totals), f"{sum(totals):,}"])
    return ["class", *parts, "all"], rows


def properties(examined: Examined) -> list[list[str]]:
    """Return sizes, pixel formats and value ranges, one row each."""
    heights, widths = examined.sizes.T
    modes, counts = np.unique(examined.modes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        ["width in pixels", _spread(widths)],
        ["height in pixels", _spread(heights)],
        ["width / height", _spread(widths / heights, 2)],
        ["pixel format", ", ".join(f"{modes[i]} ({counts[i]:,})" for i in order)],
        ["smallest value", _spread(examined.ranges[:, 0])],
        ["largest value", _spread(examined.ranges[:, 1])],
    ]


def _spread(values: np.ndarray, digits: int = 0) -> str:
    low, middle, high = (f"{value:,.{digits}f}" for value in np.quantile(values, (0, 0.5, 1)))
    return low if low == high else f"{low} to {high}, median {middle}"


def write(
    folder: Path, name: str, examined: Examined, found: Sequence[Finding], duplicates: Duplicates
) -> tuple[Path, Path]:  # fmt: skip
    """Write ``examples.png`` and ``data.html``; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = _png(_examples(examined))
    write_bytes(folder / "examples.png", picture)
    header, rows = counts_table(examined)
    wrong = "".join(f"<li>{html.escape(f.text)}</li>" for f in found if f.wrong)
    notes = "".join(f"<li>{html.escape(f.text)}</li>" for f in found if not f.wrong)
    body = [
        f"<h1>{html.escape(name)}</h1>",
        f"<p>{counted(len(examined.names), 'image')} in {counted(len(examined.classes), 'class')}.</p>",
        "<h2>Problems</h2>", f"<ul>{wrong}</ul>" if wrong else "<p>None.</p>",
        "<h2>Notes</h2>", f"<ul>{notes}</ul>" if notes else "<p>None.</p>",
        "<h2>Images by class</h2>", page.table(header, rows),
        "<h2>Sizes and values</h2>", page.table(["", ""], properties(examined), texts=True),
        "<h2>Examples</h2>", _embedded(picture, "Thumbnails of the first images of each class"),
    ]  # fmt: skip
    if duplicates.pairs:
        body += ["<h2>Duplicates</h2>", _embedded(_png(_pair_figure(examined, duplicates)), "The most alike images")]
    page.write_page(folder / "data.html", name, body)
    return folder / "examples.png", folder / "data.html"


def _embedded(picture: bytes, caption: str) -> str:
    return f'<img alt="{caption}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def _examples(examined: Examined) -> Figure:
    """Draw thumbnails of the first images of each class."""
    shown = range(min(len(examined.classes), SHOWN_CLASSES))
    figure = Figure(figsize=(1.1 * SHOWN_PER_CLASS + 1.6, 1.1 * len(shown) + 0.4), layout="constrained")
    axes = figure.subplots(len(shown), SHOWN_PER_CLASS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for label in shown:
        axes[label, 0].text(-0.1, 0.5, figures.label(examined.classes[label][:20]), ha="right", va="center",
                            transform=axes[label, 0].transAxes)  # fmt: skip
        for axis, index in zip(axes[label], np.flatnonzero(examined.labels == label), strict=False):
            axis.imshow(examined.read(int(index)))
    return figure


def _pair_figure(examined: Examined, duplicates: Duplicates) -> Figure:
    """Draw the most alike pairs, one above the other."""
    pairs = duplicates.pairs[:SHOWN_PAIRS]
    figure = Figure(figsize=(1.1 * max(len(pairs), 4), 2.8), layout="constrained")
    axes = figure.subplots(2, max(len(pairs), 4), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for column, pair in enumerate(pairs):
        for row, index in enumerate(pair[:2]):
            axes[row, column].imshow(examined.read(index))
            axes[row, column].set_title(figures.label(examined.names[index][-14:]), fontsize=6)
    return figure
