"""docs/results.md: the page of all published results, generated only from the records.

`experiments/records/questions.toml` lists the records that answer each question:

    [[question]]
    title = "Does ReLU train LeNet-5 better than the sigmoid?"
    text = "With the sigmoid it reaches {1}."
    rows = [{record = "lenet_fashion", label = "LeNet-5, sigmoid", claimed = "89.6", source = "the course"}]
    picture = "curves"  # see results_pictures.py
    image = "images/sigmoid.png"

`record` may also be a list of records whose configs differ only in how their images were drawn. In `text`, {1} stands
for the mean and spread of the first row's test top-1, {2} for those of the second row.
"""

import statistics
import string
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from cnnjax.complexity import complexity
from cnnjax.errors import UserError, listed
from cnnjax.runs.records import Record
from cnnjax.runs.results_pictures import draw
from cnnjax.system.files import read_bytes

HEAD = """# Results

Written by `python scripts/report.py --results` from the files in `experiments/records`, which
hold config, environment and metrics of every run. `python scripts/report.py --check NAME` repeats one of them.

Each value is the mean over seeds ± the sample standard deviation. The parameters of a run are those of its best epoch
by validation loss, or by validation top-1 if the config says so; test images are used once, at the end. Seconds are
the wall time of one seed's training, including evaluation between epochs, on the device named below each table; other
load on the machine increases them.
"""
COLUMNS = ("network", "parameters", "seeds", "epochs", "best epoch", "seconds", "test top-1", "claimed", "source")


class Page(NamedTuple):
    """The page, and the pictures that it shows, by their paths relative to it."""

    text: str
    pictures: dict[str, Figure]


def page(records: Mapping[str, Sequence[Record]], questions: Path, elsewhere: Sequence[str] = ()) -> Page:
    """Return the page as Markdown, with its pictures; ``elsewhere`` names the records of other pages.

    Raises:
        UserError: the questions name a record that does not exist, or a record belongs to no question.
    """
    entries = tomllib.loads(read_bytes(questions).decode())["question"]
    named = [name for question in entries for row in question["rows"] for name in names(row)]
    if missing := sorted(set(named) - records.keys()):
        raise UserError(
            f"{questions} names records that do not exist: {listed(missing)}; record those runs with --record RUN"
        )
    if unused := sorted(records.keys() - {*named, *elsewhere}):
        raise UserError(f"no question of {questions} has a row for the records {listed(unused)}; add one for each")
    pictures = {
        question["image"]: draw(question, _groups(question, records)) for question in entries if "picture" in question
    }
    return Page("\n".join([HEAD, *(_section(question, records) for question in entries)]), pictures)


def filled(text: str, groups: Sequence[Sequence[Record]], title: str) -> str:
    """Return a text with the test top-1 of the first group in place of {1}, and so on."""
    figures = [f"{top1(group)} %" for group in groups]
    try:
        return string.Formatter().vformat(text, ["", *figures], {})
    except (KeyError, IndexError, ValueError):
        raise UserError(f"the text of {title} may contain only {{1}} to {{{len(figures)}}}, one for each row") from None


def mean_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """Return ``"91.02 ± 0.13"``, or only the value if there is just one."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def names(row: Mapping[str, Any]) -> list[str]:
    """Return the names of a row's records: one, or several whose configs differ only in how images were drawn."""
    return [row["record"]] if isinstance(row["record"], str) else row["record"]


def _groups(question: Mapping[str, Any], records: Mapping[str, Sequence[Record]]) -> list[list[Record]]:
    return [[record for name in names(row) for record in records[name]] for row in question["rows"]]


def _section(question: Mapping[str, Any], records: Mapping[str, Sequence[Record]]) -> str:
    groups = _groups(question, records)
    text = filled(question["text"], groups, repr(question["title"]))
    lines = [COLUMNS, ["---", *["---:"] * 6, "---:", "---"]]
    lines += [_row(row, group) for row, group in zip(question["rows"], groups, strict=True)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    machines = dict.fromkeys(machine(record.environment) for group in groups for record in group)
    validation = "\n".join(
        f"- {names(row)[0]}: validation top-1 {_at_best_loss(group)} % at the epoch with the lowest validation loss, "
        f"{_at_best_top1(group)} % at the best epoch"
        for row, group in zip(question["rows"], groups, strict=True)
    )
    picture = f"\n\n![{question['title']}]({question['image']})" if "picture" in question else ""
    return f"## {question['title']}\n\n{text}\n\n{table}{picture}\n\n{validation}\n\nRun on {'; '.join(machines)}.\n"


def _row(row: Mapping[str, Any], group: Sequence[Record]) -> list[str]:
    results = [record.results for record in group]
    return [
        f"{row['label']} (`{names(row)[0]}`)", f"{complexity(group[0].experiment.model).parameters:,}",
        str(len(group)), mean_and_spread([r["epochs"] for r in results], 0),
        mean_and_spread([r["best_epoch"] for r in results], 0), mean_and_spread([r["seconds"] for r in results], 0),
        f"{top1(group)} %", row.get("claimed", "") and f"{row['claimed']} %", row.get("source", ""),
    ]  # fmt: skip


def top1(group: Sequence[Record]) -> str:
    """Return the mean and spread of the test top-1 in percent."""
    return mean_and_spread([100 * record.results["test"]["top1"] for record in group])


def _at_best_loss(group: Sequence[Record]) -> str:
    best = [min(record.rows, key=lambda row: row["validation_loss"]) for record in group]
    return mean_and_spread([100 * row["validation_top1"] for row in best])


def _at_best_top1(group: Sequence[Record]) -> str:
    return mean_and_spread([100 * max(row["validation_top1"] for row in record.rows) for record in group])


def machine(entry: Mapping[str, Any]) -> str:
    """Return the device and the versions in an entry of environment.json."""
    packages = entry["packages"]
    return (
        f"{entry['device']} ({entry['cpus']} CPUs), Python {entry['python']}, cnnjax {packages['cnnjax']}, "
        f"jax {packages['jax']}, convolution by {entry['lowering']['convolution']}"
    )
