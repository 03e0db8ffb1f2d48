"""A trained network on one part of a data set: the tables of ``scripts/evaluate.py``."""

from rich.table import Table

from cnnjax.classification import Report, classification_report
from cnnjax.data import Dataset
from cnnjax.errors import UserError
from cnnjax.trained import Trained


def judge(network: Trained, dataset: Dataset, part: str) -> Report:
    """Return the figures of the network on a part (train, validation or test) of the data."""
    if network.classes != dataset.classes:
        raise UserError(
            f"the run tells apart {', '.join(network.classes)}, and {dataset.name} has {', '.join(dataset.classes)}; "
            "give data of the same classes with --data.source"
        )
    split = dataset.part(part)
    if split.images.shape[1:] != network.arch.image_shape:
        raise UserError(
            f"the images of {dataset.name} are {split.images.shape[1:]} and the run takes {network.arch.image_shape}; "
            "give data of that size with --data.source"
        )
    return classification_report(network.logits(split.images), split.labels)


def tables(network: Trained, dataset: Dataset, part: str) -> list[Table]:
    """Return the table of the whole part and the table of its classes."""
    report = judge(network, dataset, part)
    whole = Table(title=f"{dataset.name}, {part}: {report.images:,} images\n{network.checkpoint}")
    figures = {
        "loss": f"{report.loss:.4f}",
        "top-1": _percent(report.top1),
        "top-5": _percent(report.top5),
        "calibration error": _percent(report.calibration_error),
    }
    for name in figures:
        whole.add_column(name, justify="right")
    whole.add_row(*figures.values())
    classes = Table()
    for name in ("class", "precision", "recall", "F1", "images"):
        classes.add_column(name, justify="left" if name == "class" else "right")
    for name, precision, recall, f1, support in zip(network.classes, *report.per_class, strict=True):
        classes.add_row(name, _percent(precision), _percent(recall), _percent(f1), f"{int(support):,}")
    return [whole, classes]


def _percent(share: float) -> str:
    return "-" if share != share else f"{100 * share:.2f} %"
