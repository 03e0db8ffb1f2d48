"""Progress of a sweep: one bar over all members on a terminal, and a line for each member as it ends."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cnnjax.sweep.members import Member
from cnnjax.system.console import say
from cnnjax.training.hooks import Hook, Plan, Snapshot

QUIET = Console(quiet=True)
"""Console for the output of single runs, which is discarded: a sweep prints a line for each member instead."""


class SweepProgress:
    """Shows how many members have ended, the steps of all members, and the remaining time."""

    def __init__(self, console: Console, members: int, steps: int):
        self.console, self.members, self.ended = console, members, 0
        self.bar = Progress(
            TextColumn("{task.fields[ended]} members"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("steps  {task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=steps, ended=f"0/{members}", figures="")
        self.bar.start()

    def member(self, member: Member) -> "MemberProgress":
        """Return the hook that follows one member."""
        return MemberProgress(self, member)

    def end(self, member: Member, outcome: str, steps: int = 0) -> None:
        """Print the line of a member that has ended; ``steps`` are those of its plan that it did not need."""
        self.ended += 1
        self.bar.update(self.task, advance=steps, ended=f"{self.ended}/{self.members}")
        say(self.console, f"{self.ended}/{self.members}  {member.title}: {outcome}")

    def close(self) -> None:
        """Remove the bar."""
        self.bar.stop()


class MemberProgress(Hook):
    """Reports the steps of one member to the bar of its sweep."""

    def __init__(self, progress: SweepProgress, member: Member):
        self.progress, self.title, self.done, self.total = progress, member.title, 0, 0

    def start(self, plan: Plan) -> None:
        self.steps_per_epoch, self.total = plan.steps_per_epoch, plan.epochs * plan.steps_per_epoch
        self._reach(plan.steps_done)

    def step(self, epoch: int, step: int, loss: float, top1: float) -> None:
        self._reach((epoch - 1) * self.steps_per_epoch + step, f"loss {loss:.3f} top-1 {100 * top1:.1f}%")

    def epoch(self, snapshot: Snapshot) -> None:
        row = snapshot.rows[-1]
        figures = f"loss {row['train_loss']:.3f} top-1 {100 * row['train_top1']:.1f}%"
        self._reach(row["epoch"] * self.steps_per_epoch, figures)

    def notice(self, text: str) -> None:
        say(self.progress.console, f"{self.title}: {text}")

    @property
    def left(self) -> int:
        """Steps of the plan that have not been done."""
        return self.total - self.done

    def _reach(self, done: int, figures: str = "") -> None:
        self.progress.bar.update(self.progress.task, advance=done - self.done, figures=figures)
        self.done = done
