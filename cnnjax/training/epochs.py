"""The figures of an epoch: its learning rate, its row of metrics, and the errors for a loss that is not finite."""

import math
from typing import Any

import numpy as np

from cnnjax.errors import Diverged
from cnnjax.optim import Hyperparameters, learning_rate
from cnnjax.training.state import EpochMetrics


class Rate:
    """The learning rate at a step, as a Python number."""

    def __init__(self, schedule: str, hyperparameters: Hyperparameters):
        self.schedule, self.hyperparameters = schedule, hyperparameters

    def __call__(self, step: int) -> float:
        rate = learning_rate(self.schedule, np.int32(step), self.hyperparameters)
        return float(str(np.float32(rate)))  # the shortest decimal that rounds to this float32


def check_finite(metrics: EpochMetrics, epoch: int, rate: Rate) -> None:
    """Raise Diverged if the loss or the norm of the gradient was not finite in any step of the epoch."""
    bad_step = int(metrics.bad_step)
    if bad_step >= 0:
        what = "norm of the gradient" if math.isfinite(metrics.loss) else "training loss"
        raise _diverged(f"the {what} was not finite at step {bad_step}", epoch, bad_step, rate)


def check_validation(
    figures: dict[str, float], raw: dict[str, float] | None, epoch: int, step: int, rate: Rate
) -> None:
    """Raise Diverged if the validation loss, or that of the raw parameters if averages are kept, is not finite."""
    if not all(math.isfinite(f["loss"]) for f in (figures, raw) if f is not None):
        raise _diverged(f"the validation loss was not finite at step {step}", epoch, step, rate)


def _diverged(problem: str, epoch: int, step: int, rate: Rate) -> Diverged:
    kept = f"the checkpoint of epoch {epoch - 1} is kept" if epoch > 1 else "no epoch has been saved yet"
    return Diverged(
        f"{problem} (learning rate {rate(step - 1):.4g}); {kept}; "
        "try a lower --optimizer.lr, --schedule.name warmup_cosine or --optimizer.clip-norm 1"
    )


def epoch_row(
    epoch: int, step: int, lr: float, metrics: EpochMetrics, validation: dict[str, float],
    raw: dict[str, float] | None, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """Return the row of metrics.jsonl for an epoch; ``raw``: metrics of the raw parameters, if averages are kept."""
    images = int(metrics.images)
    return {
        "epoch": epoch,
        "step": step,
        "lr": lr,
        "train_loss": float(metrics.loss) / images,
        "train_top1": int(metrics.correct) / images,
        "gradient_norm": float(metrics.gradient_norm) / images,
        **{f"validation_{name}": value for name, value in validation.items()},
        **{f"raw_validation_{name}": value for name, value in (raw or {}).items()},
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 1),
    }
