"""The page of a learning-rate range test."""

import html
from pathlib import Path

import numpy as np

from cnnjax.config import Experiment, flatten
from cnnjax.report import charts, page
from cnnjax.training.range_test import HIGHEST, LOWEST, Curve, Suggestion, smoothed

HIGHEST_DRAWN = 1.5
"""Highest loss in the chart, as a multiple of the first one."""


def write(
    path: Path, name: str, experiment: Experiment, curve: Curve, suggested: Suggestion | None, options: str
) -> None:
    """Write the page: the loss over the learning rate, the suggestion as command-line ``options``, and the config."""
    top = HIGHEST_DRAWN * curve.losses[0]
    averaged = smoothed(curve)
    series = {part: [loss if loss <= top else None for loss in losses]
              for part, losses in (("loss", curve.losses), ("smoothed", averaged.tolist()))}  # fmt: skip
    marks, best = {}, None
    if suggested is not None:
        marks = {float(np.log10(suggested.steepest)): f"steepest: {suggested.steepest:.3g}"}
        best = ("smoothed", curve.rates.index(suggested.lowest))
    chart = charts.line_chart(
        "Training loss (nats)", "learning rate", np.log10(curve.rates).tolist(), series, best=best, borders=marks,
        powers=True,
    )  # fmt: skip
    ending = "ended early, because the loss grew" if curve.diverged else f"reached {HIGHEST:g}"
    rows = [[f"{rate:.3g}", f"{loss:.4f}", f"{mean:.4f}"]
            for rate, loss, mean in zip(curve.rates, curve.losses, averaged, strict=True)]  # fmt: skip
    body = [
        f"<h1>Learning-rate range test of {html.escape(name)}</h1>",
        f"<p>The rate grew from {LOWEST:g} over {len(curve.rates):,} steps and {ending}. "
        f"{html.escape(options)} The circle marks the lowest smoothed loss.</p>",
        f'<div class="charts">{chart}</div>',
        page.details("Steps", page.table(["learning rate", "loss", "smoothed"], rows)),
        page.details(
            "Config", page.table(["option", "value"], [[k, str(v)] for k, v in flatten(experiment.to_dict()).items()])
        ),
    ]
    page.write_page(path, f"learning rates of {name}", body)
