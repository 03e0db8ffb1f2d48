"""Evaluate published networks on labeled images, and compare with the published accuracy."""

import csv
import dataclasses
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from cnnjax import data
from cnnjax.config import Data
from cnnjax.data import Source
from cnnjax.data.sources import find_source
from cnnjax.errors import UserError
from cnnjax.hub.class_labels import match_classes
from cnnjax.hub.ground_truth import labelled_photos, require_class_folders
from cnnjax.hub.loading import load_pretrained
from cnnjax.pretrained import Published, list_pretrained, registry
from cnnjax.runs.predictor import Predictor
from cnnjax.system.console import say
from cnnjax.system.files import write_bytes
from cnnjax.training.classification import Report, classification_report
from cnnjax.training.views import Views

COLUMNS = ("name", "images", "classes", "loss", "top1", "top5", "published_top1", "published_top5", "error")


class Labelled(NamedTuple):
    """Images, and the position of each image's class in the network's outputs, int32 [N]."""

    images: Source
    labels: np.ndarray
    place: str
    notices: tuple[str, ...]

    @property
    def classes(self) -> int:
        """Number of classes that occur."""
        return len(np.unique(self.labels))


class Evaluated(NamedTuple):
    """A network's metrics on labeled images; top-1 and top-5 are shares."""

    report: Report
    images: Labelled


def require_images(config: Data, ground_truth: Path | None) -> None:
    """Raise UserError if the images cannot be used with any network, before a network is downloaded."""
    if ground_truth is not None:
        if config.source != "image_folder" or config.dir is None:
            raise UserError("--ground-truth is given without a folder of photos; add --data.source image_folder:DIR")
        if not ground_truth.is_file():
            raise UserError(f"there is no file {ground_truth}; give a text file with a line FILE CLASS for each photo")
    elif config.source == "image_folder" and config.dir is not None:
        require_class_folders(Path(config.dir))


def evaluate(network: Predictor, config: Data, ground_truth: Path | None = None) -> Evaluated:
    """Return the metrics of a network on the test images of a data set.

    A folder without a test split is evaluated as a whole, because the network was not trained on it.

    Args:
        network: the network; images are resized and cropped as it needs them, and its ``views`` of each classify it.
        config: the data set.
        ground_truth: file with the class of each photo, for a flat folder.
    """
    require_images(config, ground_truth)
    network.require_classes()
    images = _load(network, config, ground_truth)
    logits = network.logits_of(images.images)
    return Evaluated(classification_report(logits, images.labels), images)


def _load(network: Predictor, config: Data, ground_truth: Path | None) -> Labelled:
    if ground_truth is not None and config.dir is not None:
        photos = labelled_photos(Path(config.dir), ground_truth, network)
        return Labelled(photos, photos.labels, config.dir, ())
    if config.source != "image_folder":
        dataset = data.load(config, divide=False, like=network.preprocessing)
        classes = match_classes(dataset.classes, network, config.source)
        return Labelled(dataset.test, classes[dataset.test.labels], config.source, dataset.notices)
    loaded = find_source(config.source).load_from(config, network.preprocessing)
    part = next(part for part in ("test", "validation", "train") if part in loaded.parts)
    source, classes = loaded.parts[part], match_classes(loaded.classes, network, str(config.dir))
    return Labelled(source, classes[source.labels], f"{config.dir}, {part}", loaded.notices)


def print_evaluation(
    name: str, evaluated: Evaluated, published: Published | None, console: Console, views: Views = 1
) -> None:
    """Print top-1 and top-5 beside the published figures, which are those of one view of each image."""
    report, images = evaluated
    for notice in images.notices:
        say(console, f"notice: {notice}")
    several = f", {views} views of each" if views > 1 else ""
    say(console, f"{name} on {images.place}: {report.images:,} images, {images.classes:,} classes{several}")
    table = Table()
    rows = {"here": (f"{report.loss:.4f}", f"{100 * report.top1:.2f} %", f"{100 * report.top5:.2f} %")}
    if published is not None:
        figures = (f"{value:.2f} %" if value else "-" for value in (published.top1, published.top5))
        rows[f"published ({published.data})"] = ("-", *figures)  # type: ignore[assignment]
    for heading in ("", "loss", "top-1", "top-5"):
        table.add_column(heading, justify="right" if heading else "left")
    for heading, row in rows.items():
        table.add_row(heading, *row)
    console.print(table)


def evaluate_all(
    pattern: str, config: Data, ground_truth: Path | None, out: Path, console: Console, views: Views = 1
) -> int:
    """Evaluate every published network that matches a pattern; return how many could not be evaluated.

    ``out``, a CSV file, is written again after each network, so an interrupted run keeps its rows.
    """
    names = list_pretrained(pattern)
    if not names:
        raise UserError(f"no published network matches {pattern!r}; python scripts/pretrained.py list shows all")
    require_images(config, ground_truth)
    rows, failures = [], 0
    for name in names:
        entry = registry()[name]
        row: dict[str, object] = {"name": name, "published_top1": entry.top1, "published_top5": entry.top5}
        try:
            network = dataclasses.replace(load_pretrained(name), views=views)
            report, images = evaluate(network, config, ground_truth)
            row |= {"images": report.images, "classes": images.classes, "loss": f"{report.loss:.6f}",
                    "top1": f"{100 * report.top1:.3f}", "top5": f"{100 * report.top5:.3f}"}  # fmt: skip
            say(console, f"{name}: top-1 {100 * report.top1:.2f} %, top-5 {100 * report.top5:.2f} %")
        except UserError as error:
            failures += 1
            row["error"] = str(error)
            say(console, f"{name}: {error}")
        rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_bytes(out, text.getvalue().encode())
    return failures
