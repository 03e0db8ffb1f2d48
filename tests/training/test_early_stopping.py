import pytest

from cnnjax.config import EarlyStopping
from cnnjax.errors import UserError
from cnnjax.training.early_stopping import EarlyStoppingState, should_stop, update


def follow(config, losses, metric="loss"):
    """Return the state after each epoch and the first epoch that stops."""
    standing, stopped_after = EarlyStoppingState(), None
    for epoch, value in enumerate(losses, start=1):
        standing = update(config, standing, step=10 * epoch, metrics={metric: value})
        if stopped_after is None and should_stop(config, standing):
            stopped_after = epoch
    return standing, stopped_after


@pytest.mark.parametrize(("patience", "expected"), [(None, None), (0, 4), (1, 4), (2, 5), (3, None)])
def test_patience_counts_epochs_without_improvement(patience, expected):
    assert follow(EarlyStopping(patience=patience), [5, 4, 3, 3.5, 3.2, 2])[1] == expected


def test_the_best_epoch_is_kept():
    standing, _ = follow(EarlyStopping(patience=None), [5, 3, 4, 3, 6])
    assert (standing.best_step, standing.best_score) == (20, 3)


def test_top1_is_better_when_higher():
    standing, stopped = follow(EarlyStopping(metric="top1", patience=2), [0.5, 0.7, 0.6, 0.65], metric="top1")
    assert (standing.best_step, stopped) == (20, 4)


def test_the_last_epoch_is_the_best_if_no_metric_decides():
    standing, stopped = follow(EarlyStopping(metric="last"), [3, 1, 2])
    assert (standing.best_step, stopped) == (30, None)
    with pytest.raises(UserError, match="patience is 2; it must be None with early_stopping.metric last"):
        EarlyStopping(metric="last", patience=2)


def test_small_improvements_become_the_best_but_do_not_reset_the_patience():
    standing, stopped = follow(EarlyStopping(patience=3, min_delta=0.5), [5.0, 4.9, 4.8, 4.7])
    assert (standing.best_step, standing.reference_score, stopped) == (40, 5.0, 4)


def test_many_small_improvements_add_up():
    standing, stopped = follow(EarlyStopping(patience=3, min_delta=0.15), [5.0, 4.9, 4.8, 4.7, 4.6])
    assert (standing.reference_score, stopped) == (4.6, None)


def test_nan_is_never_the_best():
    standing, _ = follow(EarlyStopping(patience=None), [float("nan"), 3, float("nan")])
    assert (standing.best_step, standing.best_score, standing.stale_epochs) == (20, 3, 1)


def test_the_state_round_trips_through_plain_data():
    standing, _ = follow(EarlyStopping(), [3, 2])
    assert EarlyStoppingState.from_dict(standing.to_dict()) == standing
