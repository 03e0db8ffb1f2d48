"""The run's metrics.jsonl while it trains: what cannot be written stops nothing."""

from collections.abc import Callable
from typing import Any

from cnnjax.run_folder import RunFolder


class MetricsLog:
    """Writes a line an epoch; after a failure, all of them with the next one. The checkpoints hold every row too."""

    def __init__(self, folder: RunFolder, rows: list[dict[str, Any]], notice: Callable[[str], None]):
        self.folder, self.notice = folder, notice
        self.problem: str | None = None
        self._attempt(lambda: folder.write_metrics(rows))

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write the last of the rows, or all that are missing."""
        if self.problem is None:
            self._attempt(lambda: self.folder.append_metrics(rows[-1]))
        else:
            self._attempt(lambda: self.folder.write_metrics(rows))

    def _attempt(self, write: Callable[[], None]) -> None:
        before = self.problem
        try:
            write()
            self.problem = None
        except OSError as error:
            self.problem = f"{self.folder.path / 'metrics.jsonl'} cannot be written ({error.strerror or error})"
        if self.problem and not before:
            self.notice(f"notice: {self.problem}; the training goes on, and its checkpoints keep the rows")
