"""Rows of metrics.jsonl: one per epoch, in order."""

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cnnjax.config import MOST_EPOCHS, MOST_SECONDS, MOST_STEPS
from cnnjax.errors import UserError
from cnnjax.system.files import open_plain, parse_json

LONGEST_ROW, MOST_FIGURES = 4096, 32
"""Maximum bytes and values in a line of metrics.jsonl; cnnjax writes about 230 and 10."""
ROW = (
    "epoch", "step", "lr", "train_loss", "train_top1", "validation_loss", "validation_top1", "seconds",
    "images_per_second",
)  # fmt: skip
"""Required keys of each line of metrics.jsonl."""


def metrics_line(row: dict[str, Any]) -> bytes:
    """Return the line of metrics.jsonl for one epoch."""
    return json.dumps(row, allow_nan=False).encode() + b"\n"


def read_rows(path: Path, most: int = MOST_EPOCHS) -> list[dict[str, Any]]:
    """Return up to ``most`` rows of a metrics.jsonl, stopping at the first line that is not the next epoch's."""
    try:
        with open_plain(path) as file:
            return _rows(iter(functools.partial(file.readline, LONGEST_ROW), b""), most)
    except FileNotFoundError:
        return []


def _rows(lines: Iterator[bytes], most: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for line in itertools.islice(lines, most):
        try:
            row = parse_json(line)
        except (ValueError, RecursionError):
            break
        if not has_numbers(row, ROW) or row["epoch"] != len(rows) + 1:
            break
        if len(row) > MOST_FIGURES or not has_numbers(row, list(row)):
            break
        if not (0 <= row["step"] <= MOST_STEPS and 0 <= row["seconds"] <= MOST_SECONDS):
            break
        rows.append(row)
    return rows


def saved_rows(path: Path, epochs: int) -> list[dict[str, Any]]:
    """Return the rows of the first ``epochs`` epochs, or raise UserError if the file does not hold all of them."""
    rows = read_rows(path, epochs)
    if len(rows) < epochs:
        raise UserError(
            f"{path} is damaged after epoch {len(rows)}, and {epochs} epochs were saved; "
            "restore it from a backup, or train again with another --out"
        )
    return rows


def has_numbers(data: Any, names: Sequence[str]) -> bool:
    """Return whether ``data`` is a dictionary with a number under each of the names."""
    return isinstance(data, dict) and all(isinstance(data.get(name), int | float) for name in names)
