"""Evaluation of a trained network on one split of a data set, with the tables of ``scripts/evaluate.py``."""

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cnnjax.data import Dataset
from cnnjax.data.division import require_images
from cnnjax.errors import UserError, listed, printable
from cnnjax.runs.predictor import Predictor
from cnnjax.system.console import say
from cnnjax.training.classification import Report, classification_report


def evaluate(network: Predictor, dataset: Dataset, part: str) -> Report:
    """Return the metrics of the network on one split (train, validation or test) of the data."""
    network.require_classes()
    if sorted(network.classes) != sorted(dataset.classes):
        raise UserError(
            f"the run has the classes {listed(network.classes)}, and {dataset.name} has {listed(dataset.classes)}; "
            "give data of the same classes with --data.source"
        )
    compare(network, dataset, part)
    split = dataset.part(part)
    require_images(part, split, dataset.name)
    if split.image_shape != network.arch.image_shape:
        raise UserError(
            f"the images of {dataset.name} are {split.image_shape} and the network expects {network.arch.image_shape}; "
            "give data of that size with --data.source"
        )
    return classification_report(network.logits_of(split), mapped_labels(network, dataset, split.labels))


def compare(network: Predictor, dataset: Dataset, part: str) -> str | None:
    """Compare the contents of one split with those that the run recorded; return a notice if they may differ.

    Raises:
        UserError: they differ, and images that the run trained on may be among them.
    """
    run = network.data
    expected, given = run.get(f"{part}_hash"), dataset.part_hashes.get(part)
    if not run or (expected is not None and expected == given):
        return None
    same_data = run["content_hash"] == dataset.content_hash
    if part != "test" and same_data and run["split_hash"] != dataset.split_hash:
        raise UserError(
            f"the run used a different split, so these {part} images may overlap with its other splits; set "
            "data.validation and data.split_seed as in the run"
        )
    where = f"the {part} images of {dataset.name}"
    if expected is None or given is None:  # an older version recorded only the fingerprint of the whole data set
        if same_data:
            return None
        if part not in dataset.drawn:
            return f"{where} were not compared with those of the run, which recorded only a sha256 of all images"
        where, expected, given = f"the images of {dataset.name}", run["content_hash"], dataset.content_hash
    if part in dataset.incomplete:
        return f"{where} were not compared with those of the run, because some are missing"
    differ = f"{where} are not those of the run (sha256 {given[:12]}, in the run {expected[:12]})"
    if part == "test" and part not in dataset.drawn:
        return differ
    raise UserError(
        f"{differ}, so the run may have trained on some of them; give the data of the run with --data.dir, or other "
        "images in a folder test, with --split test"
    )


def mapped_labels(network: Predictor, dataset: Dataset, labels: np.ndarray) -> np.ndarray:
    """Return the labels of a data set in the order of the network's classes, which have the same names."""
    if network.classes == dataset.classes:
        return labels
    return np.array([network.classes.index(name) for name in dataset.classes], labels.dtype)[labels]


def print_report(report: Report, network: Predictor, dataset: Dataset, part: str, console: Console) -> None:
    """Print the metrics of the whole split and of each class."""
    say(console, f"{dataset.name}, {part}: {report.images:,} images; {network.origin}")
    if network.views > 1:
        say(console, f"mean logits of {network.views} views of each image")
    whole = Table()
    figures = {
        "loss": f"{report.loss:.4f}",
        "top-1": _percent(report.top1),
        "top-5": _percent(report.top5),
        "calibration error": _percent(report.calibration_error),
    }
    for name in figures:
        whole.add_column(name, justify="right")
    whole.add_row(*figures.values())
    console.print(whole)
    classes = Table()
    for name in ("class", "precision", "recall", "F1", "images"):
        classes.add_column(name, justify="left" if name == "class" else "right")
    for name, precision, recall, f1, support in zip(network.classes, *report.per_class, strict=True):
        shares = map(_percent, (precision, recall, f1))
        classes.add_row(Text(printable(name)), *shares, f"{int(support):,}")
    console.print(classes)


def _percent(share: float) -> str:
    return "-" if share != share else f"{100 * share:.2f} %"
