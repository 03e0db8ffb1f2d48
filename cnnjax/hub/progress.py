"""Progress of a download: a bar on a terminal, one line elsewhere. Everything goes to standard error."""

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from cnnjax.errors import printable
from cnnjax.hub.download import Report


def notice(text: str) -> None:
    """Print a notice."""
    print(f"notice: {printable(text)}", file=sys.stderr)


@contextlib.contextmanager
def download_bar(address: str) -> Iterator[Report]:
    """Yield a function that shows the progress of a download."""
    console = Console(stderr=True)
    notice(f"downloading {address}")
    columns = (BarColumn(bar_width=20), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(
        TextColumn(""), *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
