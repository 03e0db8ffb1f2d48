"""`report.html`: a self-contained page that loads no other file and needs no network."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
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
    "projection.png": "Embeddings of test images",
    "gradcam.png": "Grad-CAM of test images",
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
        table(["", ""], provenance(name, environment, experiment.init, experiment.continue_from), texts=True),
        *phases_section(results),
        "<h2>Curves</h2>",
        curves(rows, results["best_epoch"], experiment.early_stopping.metric, borders(rows, results)),
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


def write_page(path: Path, title: str, body: Sequence[str], *, style: str = "", script: str = "") -> None:
    """Write a complete HTML page with its style and script inline; ``style`` and ``script`` are added to them."""
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head><body>\n"
        + "\n".join(body)
        + f"\n<script>{charts.SCRIPT}{script}</script></body></html>\n"
    )
    write_bytes(path, text.encode(errors="replace"))  # a path need not be UTF-8


def provenance(
    name: str, environment: dict[str, Any], init: str | None = None, continued: str | None = None
) -> list[list[str]]:
    """Return the command, commit, device, versions, kernels and data, one row each.

    The name of a run holds only the last part of the path of its origin; ``init`` and ``continued``
    are the whole paths.
    """
    commit = environment.get("commit") or "not from a git checkout"
    packages = environment.get("packages", {})
    first, *options = name.split(",")
    options = [f"init={init}" if init and option.startswith("init=") else option for option in options]
    whole = f"continue-from={continued}"
    options = [whole if continued and option.startswith("continue-from=") else option for option in options]
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
        *(
            [["base learning rate", ", ".join(f"{rate:.4g}" for rate in rates)]]
            if (rates := _rates(environment))
            else []
        ),
        *([f"{kind} files", data[kind]] for kind in ("damaged", "unused") if kind in data),
    ]


def _rates(environment: dict[str, Any]) -> list[float]:
    """Return the base learning rates after linear scaling, one per phase; empty if the run does not scale them."""
    rates = environment.get("base_rates")
    return [rate for rate in rates if isinstance(rate, int | float)] if isinstance(rates, list) else []


def _option(named: str) -> str:
    """Return a part of a run's name as a command-line option: ``"seed=1"`` gives ``"--seed 1"``."""
    option, _, value = named.partition("=")
    return f"--{option} {value.replace('+', ' ')}"


def phases_section(results: dict[str, Any]) -> list[str]:
    """Return what each phase of transfer learning trained and froze, and how good it was; empty without phases."""
    if "phases" not in results:
        return []
    rows = []
    for phase in results["phases"]:
        frozen = phase["frozen"]
        source = "embeddings" if phase["on_embeddings"] else "images"
        rows.append([
            f"{phase['phase']}: {phase['trains']}", source, f"{phase['trained_parameters']:,}",
            f"{frozen['parameters']:,}", f"{frozen['statistics']:,}",
            f"{phase['best_epoch']} of {phase['epochs']}", f"{phase['validation']['loss']:.4f}",
            *(f"{100 * phase[part]['top1']:.2f} %" for part in ("validation", "test")),
        ])  # fmt: skip
    header = ["phase", "trained on", "trained", "frozen", "frozen statistics", "best epoch", "validation loss",
              "validation top-1", "test top-1"]  # fmt: skip
    digests = [
        [f"{phase['phase']}: {phase['trains']}", phase["frozen"]["sha256_before"], phase["frozen"]["sha256_after"]]
        for phase in results["phases"]
    ]
    return [
        "<h2>Phases</h2>",
        f"<p>Each phase starts from the best parameters of the one before it. The parameters of this run are those of "
        f"phase {results['best_phase']}, the best by early_stopping.metric.</p>",
        table(header, rows),
        details("sha256 of the frozen values", table(["phase", "before", "after"], digests)),
    ]


def borders(rows: Sequence[dict[str, Any]], results: dict[str, Any]) -> dict[float, str]:
    """Return the name of each phase by the epoch at which it begins, for the charts; empty without phases."""
    names = {phase["phase"]: phase["trains"] for phase in results.get("phases", ())}
    first: dict[float, str] = {}
    for row in rows:
        if (name := names.pop(row.get("phase"), None)) is not None:
            first[row["epoch"] - 0.5] = name
    return first


def curves(
    rows: Sequence[dict[str, Any]], best_epoch: int, metric: str, borders: Mapping[float, str] = MappingProxyType({})
) -> str:
    """Return the charts of a training: loss, top-1, learning rate and gradient norm per epoch."""
    epochs = [row["epoch"] for row in rows]
    mark = ("validation", best_epoch - 1)

    def both(figure: str, scale: float = 1) -> dict[str, list[float]]:
        return {part: [scale * row[f"{part}_{figure}"] for row in rows] for part in ("train", "validation")}

    drawn = [
        charts.line_chart(
            "Loss (nats)", "epoch", epochs, both("loss"), best=mark if metric == "loss" else None, borders=borders
        ),
        charts.line_chart(
            "Top-1 (%)",
            "epoch",
            epochs,
            both("top1", 100),
            digits=2,
            unit=" %",
            best=mark if metric == "top1" else None,
            borders=borders,
        ),
        charts.line_chart(
            "Learning rate", "epoch", epochs, {"rate": [row["lr"] for row in rows]}, digits=6, borders=borders
        ),
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
