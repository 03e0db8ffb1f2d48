"""Early stopping: track the best epoch and decide when to stop, as pure functions of the validation metrics."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from cnnjax.config import EarlyStopping
from cnnjax.schema import AS_GIVEN, Schema

Score = Annotated[float, Field(allow_inf_nan=True), AS_GIVEN]
"""A validation score, which may be infinite or NaN."""


class EarlyStoppingState(Schema):
    """State of early stopping, stored with every checkpoint. Lower scores are better."""

    best_step: int = 0
    """Step of the best parameters so far, counting any improvement, however small; 0 before the first epoch."""
    best_score: Score | None = None
    reference_score: Score | None = None
    """Score that must be beaten by more than min_delta to reset the patience."""
    stale_epochs: int = 0
    """Consecutive epochs that did not beat the reference score."""
    raw_best_step: int = 0
    """Step of the best raw parameters, if the other fields follow moving averages (`Train.ema_decay`); else 0."""
    raw_best_score: Score | None = None

    @property
    def best_steps(self) -> set[int]:
        """The steps of the best averages and of the best raw parameters, or the one best step; empty at the start."""
        return {self.best_step, self.raw_best_step} - {0}


def update(
    config: EarlyStopping, state: EarlyStoppingState, step: int, metrics: dict[str, float],
    raw: dict[str, float] | None = None,
) -> EarlyStoppingState:  # fmt: skip
    """Return the state after an epoch with the validation ``metrics`` (``loss``, ``top1``). NaN is never the best.

    ``raw`` are the metrics of the raw parameters, if ``metrics`` are those of moving averages. They decide only which
    raw parameters are the best.
    """
    if raw is not None:
        score = score_of(config.metric, raw, step)
        if not math.isnan(score) and (state.raw_best_score is None or score < state.raw_best_score):
            state = state.replace(raw_best_step=step, raw_best_score=score)
    score = score_of(config.metric, metrics, step)
    if math.isnan(score):
        return state.replace(stale_epochs=state.stale_epochs + 1)
    if state.best_score is None or score < state.best_score:
        state = state.replace(best_step=step, best_score=score)
    if state.reference_score is None or score < state.reference_score - config.min_delta:
        return state.replace(reference_score=score, stale_epochs=0)
    return state.replace(stale_epochs=state.stale_epochs + 1)


def score_of(metric: Literal["loss", "top1", "last"], metrics: Mapping[str, Any], position: int = 0) -> float:
    """Return the score by which epochs or phases are compared, lower is better; ``position`` decides for ``last``."""
    if metric == "last":
        return -position
    return metrics["loss"] if metric == "loss" else -metrics["top1"]


def should_stop(config: EarlyStopping, state: EarlyStoppingState) -> bool:
    """Return whether the patience is exhausted."""
    return config.patience is not None and state.stale_epochs >= max(config.patience, 1)
