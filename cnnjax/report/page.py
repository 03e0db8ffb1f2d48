"""`report.html`: a self-contained page that loads no other file and needs no network."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnjax.config import Experiment, flatten
from cnnjax.report import charts
from cnnjax.system.files import write_bytes
from cnnjax.training.classification import Report

STYLE = (
    """
:root { color-scheme: light dark; --fg: #1f2328; --bg: #fff; --dim: #59636e; --line: #d8dee4;
        --s0: #8a8a8a; --s1: #1f6feb; --s2: #bf3989; --s3: #1a7f37; --s4: #bc4c00; --s5: #8250df; }
@media (prefers-color-scheme: dark) {
  :root { --fg: #e6edf3; --bg: #0d1117; --dim: #9198a1; --line: #30363d;
          --s0: #a3a3a3; --s1: #4493f8; --s2: #db61a2; --s3: #3fb950; --s4: #f0883e; --s5: #ab7df8; }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem;
       color: var(--fg); background: var(--bg); }
h1 { overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid var(--line); text-align: right; overflow-wrap: anywhere; }
th:first-child, td:first-child { text-align: left; }
table.texts td { text-align: left; }
table.texts td:first-child { overflow-wrap: normal; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
code { font-size: .9em; }
details { margin: 1rem 0; }
"""
    + charts.STYLE
)
CAPTIONS = {
    "confusion.png": "Confusion matrix",
    "mistakes.png": "Most confident mistakes",
    "filters.png": "First kernels and feature maps",
    "stages.png": "Feature maps of every stage",
    "examples.png": "Training images as the network sees them",
}


def write(
    folder: Path,
    name: str,
    experiment: Experiment,
    environment: dict[str, Any],
    results: dict[str, Any],
    rows: list[dict[str, Any]],
    report: Report,
    classes: Sequence[str],
) -> None:
    """Write the page from the metrics of the run and the pictures in its folder."""
    figures = [
        [part, f"{results[part]['loss']:.4f}", f"{100 * results[part]['top1']:.2f} %", f"{results[part]['images']:,}"]
        for part in ("train", "validation", "test")
    ]
    options = [[option, str(value)] for option, value in flatten(experiment.to_dict()).items()]
    early = ", stopped early" if results["stopped_early"] else ""
    body = [
        f"<h1>{html.escape(name)}</h1>",
        f"<p>Best epoch: {results['best_epoch']} of {results['epochs']}{early}. "
        f"{results['seconds']:.1f} s of training, {results['images_per_second']:,.0f} images/s.</p>",
        table(["", "loss", "top-1", "images"], figures),
        "<h2>Run</h2>",
        table(["", ""], provenance(name, environment), texts=True),
        "<h2>Curves</h2>",
        curves(rows, results["best_epoch"], experiment.early_stopping.metric),
        _picture(folder / "confusion.png"),
        "<h2>Classes</h2>",
        table(["class", "precision", "recall", "F1", "images"], class_rows(report, classes)),
        "<h2>Calibration</h2>",
        f"<p>Expected calibration error on the test images: {100 * report.calibration_error:.2f} %.</p>",
        f'<div class="charts">{charts.reliability_chart("Confidence and accuracy", *report.reliability)}</div>',
        *(_picture(folder / image) for image in CAPTIONS if image != "confusion.png" and (folder / image).exists()),
        "<h2>Details</h2>",
        details("Epochs", epochs_table(rows)),
        details("Config", table(["option", "value"], options)),
    ]
    write_page(folder / "report.html", name, body)


def write_page(path: Path, title: str, body: Sequence[str]) -> None:
    """Write a complete HTML page with its style and script inline."""
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(body)
        + f"\n<script>{charts.SCRIPT}</script></body></html>\n"
    )
    write_bytes(path, text.encode(errors="replace"))  # a path need not be UTF-8


def provenance(name: str, environment: dict[str, Any]) -> list[list[str]]:
    """Return the command, commit, device, versions, kernels and data, one row each."""
    commit = environment.get("commit") or "not from a git checkout"
    packages = environment.get("packages", {})
    first, *options = name.split(",")
    data = environment.get("data", {})
    command = " ".join([f"python scripts/train.py {first}", *(_option(option) for option in options)])
    if not all("=" in option for option in options):  # a long name is cut and ends with a hash
        command = "python scripts/train.py config.json (in the run folder)"
    return [
        ["command", command],
        ["commit", f"{commit}{' with uncommitted changes' if environment.get('dirty') else ''}"],
        ["device", f"{environment.get('device')} ({environment.get('backend')}), {environment.get('cpus')} CPUs"],
        ["versions", ", ".join([f"Python {environment.get('python')}", *(f"{k} {v}" for k, v in packages.items())])],
        ["kernels", ", ".join(f"{k}: {v}" for k, v in environment.get("lowering", {}).items())],
        ["data", f"{data.get('name')}, {data.get('content_hash')}"],
        *([f"{kind} files", data[kind]] for kind in ("damaged", "unused") if kind in data),
    ]


def _option(named: str) -> str:
    """Return a part of a run's name as a command-line option: ``"seed=1"`` gives ``"--seed 1"``."""
    option, _, value = named.partition("=")
    return f"--{option} {value.replace('+', ' ')}"


def curves(rows: Sequence[dict[str, Any]], best_epoch: int, metric: str) -> str:
    """Return the charts of a training: loss, top-1, learning rate and gradient norm per epoch."""
    epochs = [row["epoch"] for row in rows]
    mark = ("validation", best_epoch - 1)

    def both(figure: str, scale: float = 1) -> dict[str, list[float]]:
        return {part: [scale * row[f"{part}_{figure}"] for row in rows] for part in ("train", "validation")}

    drawn = [
        charts.line_chart("Loss (nats)", "epoch", epochs, both("loss"), best=mark if metric == "loss" else None),
        charts.line_chart(
            "Top-1 (%)",
            "epoch",
            epochs,
            both("top1", 100),
            digits=2,
            unit=" %",
            best=mark if metric == "top1" else None,
        ),
        charts.line_chart("Learning rate", "epoch", epochs, {"rate": [row["lr"] for row in rows]}, digits=6),
    ]
    if any("gradient_norm" in row for row in rows):
        norms = [row.get("gradient_norm") for row in rows]
        drawn.append(charts.line_chart("Gradient norm (mean of the epoch)", "epoch", epochs, {"norm": norms}))
    return f'<div class="charts">{"".join(drawn)}</div>'


def class_rows(report: Report, classes: Sequence[str]) -> list[list[str]]:
    """Return precision, recall, F1 and number of images of each class, as text."""

    def percent(share: float) -> str:
        return "-" if share != share else f"{100 * share:.2f} %"

    return [
        [name, percent(precision), percent(recall), percent(f1), f"{int(support):,}"]
        for name, precision, recall, f1, support in zip(classes, *report.per_class, strict=True)
    ]


def epochs_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of all epochs."""
    cells = [
        [str(row["epoch"]), f"{row['lr']:.3g}", f"{row['train_loss']:.4f}", f"{100 * row['train_top1']:.2f} %",
         f"{row['validation_loss']:.4f}", f"{100 * row['validation_top1']:.2f} %", f"{row['seconds']:.1f}"]
        for row in rows
    ]  # fmt: skip
    header = ["epoch", "lr", "train loss", "train top-1", "validation loss", "validation top-1", "seconds"]
    return table(header, cells)


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    caption = CAPTIONS[path.name]
    return f'<h2>{caption}</h2><img alt="{caption}" src="data:image/png;base64,{data}">'


def details(title: str, content: str) -> str:
    """Return collapsible content, collapsed at first."""
    return f"<details><summary>{title}</summary>{content}</details>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: bool = False) -> str:
    """Return a table with escaped cells. Cells are right-aligned, or left-aligned with ``texts``."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header) if any(header) else ""
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="texts"' if texts else ""
    return f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
