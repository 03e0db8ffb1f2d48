"""What happens beside a training: saving, logging, drawing. The loop calls hooks and knows of no folder."""

from typing import Any, NamedTuple

from cnnjax.training.early_stopping import EarlyStoppingState
from cnnjax.training.state import TrainState


class Snapshot(NamedTuple):
    """Where a training stands."""

    state: TrainState
    early_stopping: EarlyStoppingState
    rows: list[dict[str, Any]]
    """The metrics of the epochs that are done; their number is the number of these epochs."""
    seconds: float
    """What the steps of the epoch that is not done have taken."""


class Plan(NamedTuple):
    """The size of a training, and how many steps it has behind it when it starts."""

    epochs: int
    steps_per_epoch: int
    batch_size: int
    steps_done: int


class Hook:
    """Base of the hooks: each method does nothing until a subclass says what to do."""

    def start(self, plan: Plan) -> None:
        """Called once, before the first step."""

    def step(self, epoch: int, step: int, loss: float, top1: float) -> None:
        """Called now and then with the mean figures of the epoch so far; ``step`` is counted within the epoch."""

    def epoch(self, snapshot: Snapshot) -> None:
        """Called after each epoch's evaluation; the next epoch begins when all hooks have returned."""

    def interrupted(self, snapshot: Snapshot) -> None:
        """Called where ``poll`` interrupted the training within an epoch."""

    def notice(self, text: str) -> None:
        """Called with a line for the user."""
