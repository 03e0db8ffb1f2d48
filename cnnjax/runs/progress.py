"""Training progress: a progress bar on a terminal, one line per epoch elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cnnjax.system.console import say
from cnnjax.training.hooks import Hook, Plan, Snapshot


class TerminalProgress(Hook):
    """Shows epoch, step, loss, accuracy, images/s and the remaining time of a run."""

    def __init__(self, console: Console):
        self.console = console
        self.bar = Progress(  # fits into 80 columns
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=8),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def start(self, plan: Plan) -> None:
        """Start the progress bar."""
        self.epochs, self.steps_per_epoch, self.batch_size, self.first_step, _ = plan
        self.started = time.perf_counter()
        self.task = self.bar.add_task(
            "",
            total=self.epochs * self.steps_per_epoch,
            completed=self.first_step,
            epoch=f"{self.first_step // self.steps_per_epoch + 1}/{self.epochs}",
            figures="",
        )
        self.bar.start()

    def step(self, epoch: int, step: int, loss: float, top1: float) -> None:
        """Show the mean metrics of the epoch so far."""
        done = (epoch - 1) * self.steps_per_epoch + step
        speed = (done - self.first_step) * self.batch_size / (time.perf_counter() - self.started)
        figures = f"loss {loss:.3f} top-1 {100 * top1:.1f}% {speed:,.0f} images/s"
        self.bar.update(self.task, completed=done, epoch=f"{epoch}/{self.epochs}", figures=figures)

    def epoch(self, snapshot: Snapshot) -> None:
        """Print the line of a finished epoch. Called once the epoch's checkpoint is complete and on disk."""
        row = snapshot.rows[-1]
        self.bar.update(self.task, completed=row["epoch"] * self.steps_per_epoch)
        say(
            self.console,
            f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  "
            f"train loss {row['train_loss']:.4f} top-1 {100 * row['train_top1']:.2f} %  "
            f"validation loss {row['validation_loss']:.4f} top-1 {100 * row['validation_top1']:.2f} %  "
            f"{row['images_per_second']:,.0f} images/s  saved",
        )

    def notice(self, text: str) -> None:
        """Print a message."""
        say(self.console, text)

    def close(self) -> None:
        """Remove the progress bar."""
        self.bar.stop()
