"""The run's metrics.jsonl while it trains: what cannot be written stops nothing."""

from collections.abc import Callable
from typing import Any

from cnnjax.runs.folder import RunFolder
from cnnjax.training.hooks import Hook, Snapshot


class MetricsLog(Hook):
    """Writes a line an epoch; all of them where the file is not as it left it. The checkpoints hold every row too."""

    def __init__(self, folder: RunFolder, rows: list[dict[str, Any]], say: Callable[[str], None]):
        self.folder, self.say = folder, say
        self.path = folder.path / "metrics.jsonl"
        self.problem: str | None = None
        self.left: tuple[int, ...] | None = None
        """What tells the file with the rows so far from another one; None where there is none."""
        self._attempt(lambda: folder.write_metrics(rows))

    def epoch(self, snapshot: Snapshot) -> None:
        """Write the last of the rows, or all where others are missing."""
        rows = snapshot.rows
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
            self.say(f"notice: {self.problem}; training continues, and the checkpoints keep the rows")

    def _mark(self) -> tuple[int, ...] | None:
        try:
            status = self.path.lstat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_size
