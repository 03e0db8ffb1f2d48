"""Training hooks for saving, logging and drawing. The loop only calls hooks and does not know the run folder."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cnnjax.training.early_stopping import EarlyStoppingState
from cnnjax.training.state import TrainState


class Snapshot(NamedTuple):
    """Position within a run, from which training can resume."""

    state: TrainState
    early_stopping: EarlyStoppingState
    rows: list[dict[str, Any]]
    """Metrics of the completed epochs, one row per epoch."""
    seconds: float
    """Time spent on the steps of the current epoch so far."""


class Plan(NamedTuple):
    """The length of a run, and the steps and epochs done before this process started."""

    epochs: int
    steps_per_epoch: int
    batch_size: int
    steps_done: int
    rows: Sequence[dict[str, Any]] = ()
    """Metrics of the epochs done."""


class Hook:
    """Base class of the hooks. Every method does nothing by default."""

    def start(self, plan: Plan) -> None:
        """Called once, before the first step."""

    def step(self, epoch: int, step: int, loss: float, top1: float) -> None:
        """Called occasionally with the mean metrics of the epoch so far; ``step`` counts within the epoch."""

    def epoch(self, snapshot: Snapshot) -> None:
        """Called after each epoch's evaluation; the next epoch begins when all hooks have returned."""

    def interrupted(self, snapshot: Snapshot) -> None:
        """Called when ``poll`` interrupts the training within an epoch."""

    def notice(self, text: str) -> None:
        """Called with a message for the user."""

    def close(self) -> None:
        """Called when the training has ended, even after an error."""


class AllHooks(Hook):
    """All hooks of a training run, combined into one."""

    def __init__(self, hooks: Sequence[Hook]):
        self.hooks = hooks

    def start(self, plan: Plan) -> None:
        for hook in self.hooks:
            hook.start(plan)

    def step(self, epoch: int, step: int, loss: float, top1: float) -> None:
        for hook in self.hooks:
            hook.step(epoch, step, loss, top1)

    def epoch(self, snapshot: Snapshot) -> None:
        for hook in self.hooks:
            hook.epoch(snapshot)

    def interrupted(self, snapshot: Snapshot) -> None:
        for hook in self.hooks:
            hook.interrupted(snapshot)

    def notice(self, text: str) -> None:
        for hook in self.hooks:
            hook.notice(text)

    def close(self) -> None:
        for hook in self.hooks:
            hook.close()
