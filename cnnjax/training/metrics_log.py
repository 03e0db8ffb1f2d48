"""The run's metrics.jsonl while it trains: what cannot be written stops nothing."""

from collections.abc import Callable
from typing import Any

from cnnjax.runs.folder import RunFolder


class MetricsLog:
    """Writes a line an epoch; all of them where the file is not as it left it. The checkpoints hold every row too."""

    def __init__(self, folder: RunFolder, rows: list[dict[str, Any]], notice: Callable[[str], None]):
        self.folder, self.notice = folder, notice
        self.path = folder.path / "metrics.jsonl"
        self.problem: str | None = None
        self.left: tuple[int, ...] | None = None
        """What tells the file with the rows so far from another one; None where there is none."""
        self._attempt(lambda: folder.write_metrics(rows))

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write the last of the rows, or all where others are missing."""
        if self.left and self.left == self._mark():
            self._attempt(lambda: self.folder.append_metrics(rows[-1]))
        else:
            self._attempt(lambda: self.folder.write_metrics(rows))

    def _attempt(self, write: Callable[[], None]) -> None:
        before, self.problem, self.left = self.problem, None, None
        try:
            write()
            self.left = self._mark()
        except OSError as error:
            self.problem = f"{self.path} cannot be written ({error.strerror or error})"
        if self.problem and not before:
            self.notice(f"notice: {self.problem}; the training goes on, and its checkpoints keep the rows")

    def _mark(self) -> tuple[int, ...] | None:
        try:
            status = self.path.lstat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_size
