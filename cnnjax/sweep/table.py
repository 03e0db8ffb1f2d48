"""The table of a sweep: a row for each member, with its options, metrics, seconds and status.

`sweep.csv` and `sweep.parquet` hold the same columns: ``member``, ``status``, ``problem``, every option of the
experiment, then `FIGURES`. Figures of members that have not finished are empty.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax.data.division import PARTS
from cnnjax.errors import UserError
from cnnjax.runs.folder import RunFolder
from cnnjax.sweep import store
from cnnjax.sweep.axes import label
from cnnjax.sweep.store import Description
from cnnjax.system.files import write_bytes

METRICS = tuple(f"{part}_{figure}" for part in ("test", "validation", "train") for figure in ("top1", "loss"))
FIGURES = (*METRICS, "epochs", "best_epoch", "stopped_early", "seconds", "images_per_second")
CLOCK = ("seconds", "images_per_second")
"""Columns that differ from run to run; all others reproduce bit for bit."""


class Row(NamedTuple):
    """A member with its results."""

    member: str
    values: dict[str, Any]
    """The values of its axes by option."""
    options: dict[str, Any]
    status: store.Status
    problem: str
    figures: dict[str, Any]
    """Values of `FIGURES`; empty unless the member has finished."""
    curve: tuple[dict[str, Any], ...]
    """Metrics of each epoch."""

    @property
    def finished(self) -> bool:
        return self.status == "finished"


def read_rows(root: Path, description: Description) -> list[Row]:
    """Return a row for each member, from the files in its folder."""
    return [_row(store.member_folder(root, entry.id), entry) for entry in description.entries]


def _row(folder: Path, entry: store.Entry) -> Row:
    state = store.state(folder)
    run = RunFolder(folder)
    figures: dict[str, Any] = {}
    if state.status == "finished":
        results = run.read_results()
        figures = {f"{part}_{name}": results[part][name] for part in PARTS for name in ("top1", "loss")}
        figures |= {name: results[name] for name in FIGURES if name in results}
    curve = tuple(run.read_metrics()) if state.status != "missing" else ()
    return Row(entry.id, entry.values, entry.options, state.status, state.problem, figures, curve)


def header(rows: Sequence[Row]) -> list[str]:
    """Return the names of the columns."""
    options = dict.fromkeys(option for row in rows for option in row.options)
    return ["member", "status", "problem", *options, *FIGURES]


def cells(row: Row, names: Sequence[str]) -> list[Any]:
    """Return the values of a row's columns; None where the row has no value."""
    values = {
        "member": row.member, "status": row.status, "problem": row.problem or None, **row.options, **row.figures,
    }  # fmt: skip
    return [values.get(name) for name in names]


def csv_bytes(rows: Sequence[Row]) -> bytes:
    """Return the table as CSV; equal rows give equal bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = header(rows)
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if cell is None else label(cell) for cell in cells(row, names)])
    return text.getvalue().encode()


def write(folder: Path, rows: Sequence[Row], *, parquet: bool = False) -> None:
    """Write ``sweep.csv`` and, on request, ``sweep.parquet``."""
    write_bytes(folder / "sweep.csv", csv_bytes(rows))
    if parquet:
        write_bytes(folder / "sweep.parquet", parquet_bytes(rows))


def require_parquet() -> None:
    """Raise UserError if Parquet files cannot be written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UserError("--parquet needs pyarrow; install it with pip install -e .[parquet], or leave it out") from None


def parquet_bytes(rows: Sequence[Row]) -> bytes:
    """Return the table as Parquet. A column of numbers keeps its type; any other column holds text."""
    import pyarrow
    import pyarrow.parquet

    names = header(rows)
    columns = list(zip(*(cells(row, names) for row in rows), strict=True))
    arrays = {name: pyarrow.array(_of_one_type(column)) for name, column in zip(names, columns, strict=True)}
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays), buffer)
    return buffer.getvalue()


def _of_one_type(column: Sequence[Any]) -> list[Any]:
    types = {type(value) for value in column if value is not None}
    if types <= {int} or types <= {bool}:
        return list(column)
    if types <= {int, float}:
        return [None if value is None else float(value) for value in column]
    return [None if value is None else label(value) for value in column]
