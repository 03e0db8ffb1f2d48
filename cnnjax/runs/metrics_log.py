"""Writing metrics.jsonl during training. A failed write does not stop the training."""

from collections.abc import Callable
from typing import Any

from cnnjax.runs.folder import RunFolder
from cnnjax.training.hooks import Hook, Snapshot


class MetricsLog(Hook):
    """Appends a line per epoch, or rewrites the file if it has changed. The checkpoints hold every row too."""

    def __init__(self, folder: RunFolder, rows: list[dict[str, Any]], say: Callable[[str], None]):
        self.folder, self.say = folder, say
        self.path = folder.path / "metrics.jsonl"
        self.problem: str | None = None
        self.last_mark: tuple[int, ...] | None = None
        """Identity and size of the file after the last write; None if that failed."""
        self._attempt(lambda: folder.write_metrics(rows))

    def epoch(self, snapshot: Snapshot) -> None:
        """Append the last row, or rewrite the file if it has changed."""
        rows = snapshot.rows
        if self.last_mark and self.last_mark == self._mark():
            self._attempt(lambda: self.folder.append_metrics(rows[-1]))
        else:
            self._attempt(lambda: self.folder.write_metrics(rows))

    def _attempt(self, write: Callable[[], None]) -> None:
        before, self.problem, self.last_mark = self.problem, None, None
        try:
            write()
            self.last_mark = self._mark()
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
