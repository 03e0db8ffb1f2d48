"""docs/line.md: one network of each family, trained alike, generated only from the records.

`experiments/records/line.toml` lists the networks in the order of the table, and the text below it:

    text = "What the table shows, with {1} for the test top-1 of the first network."

    [[network]]
    record = "line_lenet"
    label = "LeNet-5"
    year = 1998
"""

import statistics
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax.complexity import complexity
from cnnjax.errors import UserError
from cnnjax.report.scatter import Point, scatter
from cnnjax.runs.records import Record
from cnnjax.runs.results_page import filled, machine, mean_and_spread, top1
from cnnjax.system.files import read_bytes

HEAD = """# One network of each family

Written by `python scripts/report.py --results` from the files in `experiments/records`, which
hold config, environment and metrics of every run. Only the network differs between the experiments.

Values are means over seeds ± the sample standard deviation. Multiply-adds are those of one image. Seconds per epoch
are the wall time of the training steps of the median epoch; other load on the machine increases them. The parameters
are those of the best epoch by validation top-1; the test images are used once, at the end.
"""
COLUMNS = ("network", "year", "parameters", "G multiply-adds", "seeds", "epochs", "seconds per epoch", "test top-1")
PICTURE = "line.svg"


class Line(NamedTuple):
    """The list of networks, and the text."""

    networks: tuple[Mapping[str, Any], ...]
    text: str
    path: Path

    @property
    def names(self) -> list[str]:
        """Names of the records."""
        return [network["record"] for network in self.networks]


def read(path: Path) -> Line:
    """Return the list of networks."""
    content = tomllib.loads(read_bytes(path).decode())
    return Line(tuple(content["network"]), content["text"], path)


def page(line: Line, records: Mapping[str, Sequence[Record]]) -> tuple[str, str] | None:
    """Return the page as Markdown and its picture as SVG, or None if no network is recorded.

    As long as some networks are missing, the page names them, and the text, which describes all, is left out.

    Raises:
        UserError: the records differ in more than the network and the seed.
    """
    networks = [network for network in line.networks if network["record"] in records]
    if not networks:
        return None
    groups = [records[network["record"]] for network in networks]
    check_alike([record for group in groups for record in group])
    rows = [COLUMNS, ("---", *["---:"] * 7), *map(_row, networks, groups)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    missing = [name for name in line.names if name not in records]
    text = f"Not recorded: {', '.join(missing)}." if missing else filled(line.text, groups, str(line.path)).strip()
    machines = "; ".join(dict.fromkeys(machine(record.environment) for group in groups for record in group))
    image = f"![Test top-1 vs. multiply-adds]({PICTURE})"
    return "\n\n".join([HEAD.strip(), table, image, text, f"Run on {machines}.\n"]), picture(networks, groups)


def picture(networks: Sequence[Mapping[str, Any]], groups: Sequence[Sequence[Record]]) -> str:
    """Return the test top-1 over the multiply-adds."""
    points = []
    for network, group in zip(networks, groups, strict=True):
        values = [100 * record.results["test"]["top1"] for record in group]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        millions = complexity(group[0].experiment.model).multiply_adds / 1e6
        points.append(Point(network["label"], millions, statistics.mean(values), spread))
    return scatter("Test top-1 vs. multiply-adds", "million multiply-adds per image", "test top-1, %", points)


def check_alike(records: Sequence[Record]) -> None:
    """Raise UserError if the experiments differ in more than the network and the seed."""
    first = records[0]
    for record in records:
        same = record.experiment.replace(model=first.experiment.model, seed=first.experiment.seed)
        if same != first.experiment:
            raise UserError(
                f"the records {first.name} and {record.name} differ in more than the network; train both alike"
            )


def _row(network: Mapping[str, Any], group: Sequence[Record]) -> tuple[str, ...]:
    cost = complexity(group[0].experiment.model)
    seconds = [statistics.median(row["seconds"] for row in record.rows) for record in group]
    return (
        f"{network['label']} (`{network['record']}`)", str(network["year"]), f"{cost.parameters:,}",
        f"{cost.multiply_adds / 1e9:.4f}", str(len(group)),
        mean_and_spread([record.results["epochs"] for record in group], 0), mean_and_spread(seconds, 0),
        f"{top1(group)} %",
    )  # fmt: skip
