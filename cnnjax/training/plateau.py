"""Reduce the learning rate when a validation metric has stopped improving, as a pure function of the metrics so far.

Nothing has to be saved besides the metrics of each epoch, which every checkpoint holds: a resumed run computes the
same rates from them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnjax.config import Schedule
from cnnjax.optim import Hyperparameters
from cnnjax.training.early_stopping import score_of

Rows = Sequence[Mapping[str, Any]]
"""Metrics of the completed epochs, one row per epoch."""


def at_epoch(config: Schedule, hyperparameters: Hyperparameters, rows: Rows) -> Hyperparameters:
    """Return the hyperparameters of the epoch after ``rows``; only plateau changes them."""
    if config.name != "plateau":
        return hyperparameters
    constants = hyperparameters.schedule._replace(reduction=np.float32(reduction(config, rows)))
    return hyperparameters._replace(schedule=constants)


def reduction(config: Schedule, rows: Rows) -> float:
    """Return the learning rate of the epoch after ``rows`` as a share of the base rate.

    After ``patience`` consecutive epochs without an improvement by more than ``min_delta``, the rate is multiplied by
    ``factor``, down to ``end``. The next ``cooldown`` epochs do not count as epochs without improvement. This is
    torch's ReduceLROnPlateau with an absolute threshold; torch's patience is one less.
    """
    share, best, stale, cooling = 1.0, math.inf, 0, 0
    for row in rows:
        score = score_of(config.metric, {config.metric: row[f"validation_{config.metric}"]})
        if score < best - config.min_delta:
            best, stale = score, 0
        else:
            stale += 1
        if cooling:
            cooling, stale = cooling - 1, 0
        if stale >= config.patience:
            share, stale, cooling = max(share * config.factor, config.end), 0, config.cooldown
    return share


def message(config: Schedule, lr: float, rows: Rows) -> str | None:
    """Return a message if the last epoch reduced the learning rate, else None; ``lr`` is the base learning rate."""
    share = reduction(config, rows) if config.name == "plateau" else 1.0
    if share == 1 or share == reduction(config, rows[:-1]):
        return None
    return f"the learning rate is now {lr * share:.4g}: validation {config.metric} stopped improving"
