"""`report.html`: one page that needs no other file and no network."""

import base64
import html
from pathlib import Path
from typing import Any

from cnnjax.config import Experiment, flatten
from cnnjax.system.files import write_bytes

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; }
details { margin: 1rem 0; }
"""
CAPTIONS = {
    "curves.png": "Loss and top-1 over the epochs",
    "confusion.png": "Which class is taken for which",
    "mistakes.png": "The most confident wrong answers",
    "filters.png": "The first kernels, and what the first stage (with activation and pooling) makes of one image",
    "examples.png": "What the network sees",
}


def write(
    folder: Path,
    name: str,
    experiment: Experiment,
    results: dict[str, Any],
    rows: list[dict[str, Any]],
    images: list[str],
) -> None:
    """Write the page from the run's figures and the pictures in its folder."""
    figures = [
        [part, f"{results[part]['loss']:.4f}", f"{100 * results[part]['top1']:.2f} %", f"{results[part]['images']:,}"]
        for part in ("train", "validation", "test")
    ]
    options = [[option, str(value)] for option, value in flatten(experiment.to_dict()).items()]
    epochs = [
        [str(row["epoch"]), f"{row['lr']:.3g}", f"{row['train_loss']:.4f}", f"{100 * row['train_top1']:.2f} %",
         f"{row['validation_loss']:.4f}", f"{100 * row['validation_top1']:.2f} %", f"{row['seconds']:.1f}"]
        for row in rows
    ]  # fmt: skip
    early = ", stopped early" if results["stopped_early"] else ""
    body = [
        f"<h1>{html.escape(name)}</h1>",
        f"<p>The best of {results['epochs']} epochs is epoch {results['best_epoch']}{early}. "
        f"{results['seconds']:.1f} s of training, {results['images_per_second']:,.0f} images/s.</p>",
        _table(["", "loss", "top-1", "images"], figures),
        *(_picture(folder / image) for image in images),
        _details("Epochs", _table(["epoch", "lr", "train loss", "train top-1", "validation loss", "validation top-1",
                                   "seconds"], epochs)),
        _details("Config", _table(["option", "value"], options)),
    ]  # fmt: skip
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(name)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
    write_bytes(folder / "report.html", page.encode())


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    caption = CAPTIONS[path.name]
    return f'<h2>{caption}</h2><img alt="{caption}" src="data:image/png;base64,{data}">'


def _details(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def _table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
