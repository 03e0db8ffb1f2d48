"""Records of sweeps: their small files, kept under version control, and the sections of docs/results.md.

experiments/records/sweeps/NAME/sweep.json  sweep.csv  machines.json

A sweep of design spaces has a picture in docs/images instead of a row for each network.
"""

import csv
import io
from pathlib import Path

from cnnjax.errors import UserError, counted
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.results_page import machine
from cnnjax.sweep import figures, store, table
from cnnjax.sweep.edf import EDF_HEADER, edf_rows, edfs
from cnnjax.sweep.sentences import sentences
from cnnjax.sweep.statistics import Cell, axes_of, cells, shown
from cnnjax.sweep.store import Description
from cnnjax.sweep.table import FIGURES, Row
from cnnjax.system.files import make_folder, read_bytes, read_json, write_bytes, write_json

FOLDER, MACHINES = "sweeps", "machines.json"


def record(folder: Path, records: Path) -> Path:
    """Copy the description and the table of a sweep to the records; return the record's folder.

    Raises:
        UserError: a member has neither finished nor diverged.
    """
    description = store.read_description(folder)
    rows = table.read_rows(folder.parent, description)
    if open_rows := [row for row in rows if row.status not in ("finished", "diverged")]:
        raise UserError(
            f"{folder} has {counted(len(open_rows), 'member')} that neither finished nor diverged; run "
            f"scripts/sweep.py {description.name} again, then record it"
        )
    finished = [RunFolder(store.member_folder(folder.parent, row.member)) for row in rows if row.finished]
    target = records / FOLDER / description.name
    make_folder(target)
    write_json(target / MACHINES, list(dict.fromkeys(machine(run.read_environment()) for run in finished)))
    write_bytes(target / store.DESCRIPTION, read_bytes(folder / store.DESCRIPTION))
    write_bytes(target / "sweep.csv", table.csv_bytes(rows))
    return target


def sections(records: Path) -> list[str]:
    """Return a section of docs/results.md for each recorded sweep, in the order of their names."""
    return [_section(path.parent) for path in sorted((records / FOLDER).glob(f"*/{store.DESCRIPTION}"))]


def pictures(records: Path) -> dict[str, bytes]:
    """Return the pictures of the sections by the path at which `sections` refers to them."""
    drawn = {}
    for path in sorted((records / FOLDER).glob(f"*/{store.DESCRIPTION}")):
        description, rows = read_record(path.parent)
        if spaces := edfs(axes_of(description), rows):
            drawn[_picture(description)] = figures.svg_bytes(figures.edf(spaces))
    return drawn


def _picture(description: Description) -> str:
    return f"images/{description.name}_edf.svg"


def read_record(folder: Path) -> tuple[Description, list[Row]]:
    """Return the description of a recorded sweep and a row for each member, without curves."""
    description = store.read_description(folder)
    lines = {line["member"]: line for line in csv.DictReader(io.StringIO(read_bytes(folder / "sweep.csv").decode()))}
    try:
        rows = [_row(entry, lines[entry.id]) for entry in description.entries]
    except (KeyError, ValueError):
        raise UserError(
            f"{folder / 'sweep.csv'} does not fit its {store.DESCRIPTION}; record the sweep again"
        ) from None
    return description, rows


def _row(entry: store.Entry, line: dict[str, str]) -> Row:
    numbers = [name for name in FIGURES if name != "stopped_early"]
    finished = line["status"] == "finished"
    figures = {name: float(line[name]) for name in numbers} if finished else {}
    return Row(
        entry.id, entry.values, entry.options, "finished" if finished else "diverged", line["problem"], figures, ()
    )


def _section(folder: Path) -> str:
    description, rows = read_record(folder)
    axes = axes_of(description)
    diverged = [row for row in rows if not row.finished]
    members = f"{counted(len(rows), 'member')} (`scripts/sweep.py {description.name}`), {len(diverged)} diverged."
    if spaces := edfs(axes, rows):
        table_lines = [EDF_HEADER, ("---", *["---:"] * (len(EDF_HEADER) - 1)), *edf_rows(spaces)]
        explained = (
            f"Error EDF of each design space, with bands that hold jointly with 95 % probability; {members}\n\n"
            f"![Share of networks with at most each test error]({_picture(description)})"
        )
    else:
        table_lines = [(*axes.names, "seeds", "test top-1", "seconds"), ("---",) * len(axes.names) + ("---:",) * 3]
        table_lines += [_line(cell) for cell in cells(axes, rows)]
        explained = (
            f"Mean and 95 % interval over seeds; {members} Differences are averaged over the other axes, paired by "
            "seed, and corrected for all comparisons of the sweep."
        )
    return "\n\n".join([
        f"## {description.title.rstrip('.')}",
        "\n".join(f"- {text}" for text in sentences(axes, rows)),
        explained,
        "\n".join(f"| {' | '.join(line)} |" for line in table_lines),
        f"Run on {'; '.join(map(str, read_json(folder / MACHINES)))}.\n",
    ])  # fmt: skip


def _line(cell: Cell) -> tuple[str, ...]:
    seconds = sum(row.figures["seconds"] for row in cell.rows) / len(cell.rows)
    return (*cell.values, str(cell.top1.n), shown(cell.top1), f"{seconds:.0f}")
