"""Which epoch was the best and whether to stop: a pure function of the validation figures so far."""

import math
from typing import Annotated

from pydantic import Field

from cnnjax.config import EarlyStopping
from cnnjax.schema import AS_GIVEN, Schema

Score = Annotated[float, Field(allow_inf_nan=True), AS_GIVEN]
"""A validation figure, which may be infinite or NaN."""


class EarlyStoppingState(Schema):
    """What early stopping remembers; stored with every checkpoint. Scores are such that lower is better."""

    best_step: int = 0
    """The step of the best parameters so far, by any improvement at all; 0 before the first epoch."""
    best_score: Score | None = None
    reference_score: Score | None = None
    """The score that must be beaten by more than min_delta for the patience to start anew."""
    stale_epochs: int = 0
    """Epochs in a row that did not beat it."""


def update(
    config: EarlyStopping, standing: EarlyStoppingState, step: int, metrics: dict[str, float]
) -> EarlyStoppingState:
    """Return the standing after an epoch whose validation gave ``metrics`` (``loss``, ``top1``). NaN never wins."""
    score = metrics["loss"] if config.metric == "loss" else -metrics["top1"]
    if math.isnan(score):
        return standing.replace(stale_epochs=standing.stale_epochs + 1)
    if standing.best_score is None or score < standing.best_score:
        standing = standing.replace(best_step=step, best_score=score)
    if standing.reference_score is None or score < standing.reference_score - config.min_delta:
        return standing.replace(reference_score=score, stale_epochs=0)
    return standing.replace(stale_epochs=standing.stale_epochs + 1)


def should_stop(config: EarlyStopping, standing: EarlyStoppingState) -> bool:
    """Return whether the patience is spent."""
    return config.patience is not None and standing.stale_epochs >= max(config.patience, 1)
