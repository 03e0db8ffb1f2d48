"""HTML page that compares runs: their results, the options that differ, and their learning curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnnjax.config import flatten
from cnnjax.errors import UserError
from cnnjax.report import charts, page
from cnnjax.runs.folder import RunFolder
from cnnjax.system.files import read_json

CURVES = {
    "validation_top1": ("Validation top-1 (%)", 100, 2, " %"), "validation_loss": ("Validation loss (nats)", 1, 4, ""),
    "train_top1": ("Training top-1 (%)", 100, 2, " %"), "train_loss": ("Training loss (nats)", 1, 4, ""),
    "gradient_norm": ("Gradient norm (mean of the epoch)", 1, 4, ""), "lr": ("Learning rate", 1, 6, ""),
}  # fmt: skip


def write(runs: Sequence[Path], out: Path) -> None:
    """Write the page that compares ``runs`` to the file ``out``.

    Raises:
        UserError: fewer than two runs are given, or a folder holds no finished run.
    """
    if len(runs) < 2:
        raise UserError("one run is given; give two or more to compare")
    configs, results, rows = [], [], []
    for run in runs:
        folder = RunFolder(run)
        if not folder.finished:
            raise UserError(f"{run} holds no finished run; finish it with scripts/train.py, or leave it out")
        configs.append(flatten(_experiment(run)))
        results.append(folder.read_results())
        rows.append(folder.read_metrics())
    names = _names(runs)
    differing = [key for key in dict.fromkeys(k for config in configs for k in config)
                 if len({repr(config.get(key)) for config in configs}) > 1 and key != "data.dir"]  # fmt: skip
    table = [
        [name, f"{100 * r['test']['top1']:.2f} %", f"{r['test']['loss']:.4f}", f"{r['best_epoch']} of {r['epochs']}",
         f"{r['seconds']:.1f}"]
        for name, r in zip(names, results, strict=True)
    ]  # fmt: skip
    options = [[key, *(str(config.get(key)) for config in configs)] for key in differing]
    body = [
        f"<h1>{len(runs)} runs</h1>",
        page.table(["run", "test top-1", "test loss", "best epoch", "seconds"], table),
        "<h2>Options that differ</h2>",
        page.table(["option", *names], options) if options else "<p>None.</p>",
        "<h2>Curves</h2>",
        f'<div class="charts">{"".join(_chart(metric, names, rows) for metric in CURVES)}</div>',
    ]
    page.write_page(out, "comparison of runs", body)


def _experiment(run: Path) -> dict[str, Any]:
    """Return the config of a run as plain data; the code that it may refer to is not needed."""
    config = read_json(run / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("experiment"), dict):
        raise UserError(f"{run / 'config.json'} is not the config of a run; give a run folder")
    return config["experiment"]


def _names(runs: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many parent folders as needed to tell them apart."""
    for depth in range(1, 4):
        names = ["/".join(run.resolve().parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [str(run) for run in runs]


def _chart(metric: str, names: Sequence[str], rows: Sequence[list[dict[str, Any]]]) -> str:
    title, scale, digits, unit = CURVES[metric]
    longest = max(map(len, rows))
    series = {
        name: [None if i >= len(run) or metric not in run[i] else scale * run[i][metric] for i in range(longest)]
        for name, run in zip(names, rows, strict=True)
    }
    return charts.line_chart(title, "epoch", list(range(1, longest + 1)), series, digits=digits, unit=unit)
