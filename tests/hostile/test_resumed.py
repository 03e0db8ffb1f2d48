"""Resuming an untrusted checkpoint with a matching manifest is refused with one error."""

import json

import pytest

from cnnjax.errors import UserError
from tests.hostile.formats import FORMATS, ROW, WITHIN, resume


@pytest.fixture
def info(tmp_path):
    path = tmp_path / WITHIN / "info.json"
    FORMATS["resumed info"].make(path)
    return path


def test_a_valid_checkpoint_is_read(info):
    resume(info)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": None}, "its field 'data' is None"),
        ({"data": {}}, "is not a training checkpoint and cannot be resumed"),
        ({"tally": {"loss": 9.5, "correct": 2**40, "images": 12}}, "its field 'tally' is"),
        ({"tally": {"loss": 9.5, "correct": 13, "images": 12}}, "its field 'tally' is"),
        ({"tally": {"loss": 10**400, "correct": 7, "images": 12}}, "a number is NaN, or larger than"),
        ({"tally": {"loss": 1e39, "correct": 7, "images": 12}}, "its field 'tally' is"),
        ({"tally": {"loss": 9.5, "correct": 0, "images": 0}}, "at step 23 it has processed 12 .* its sums cover 0"),
        ({"tally": {}}, "at step 23 it has processed 12 images .* its sums cover 0"),
        ({"seconds": float("inf")}, "a number is NaN"),
        ({"seconds": 10**400}, "a number is NaN"),
        ({"seconds": 1e200}, "its field 'seconds' is 1e"),
        ({"seconds": -1}, "its field 'seconds' is -1"),
        ({"epoch": 1}, "after 1 epochs of 10 steps it is at step 23"),
        ({"epoch": True}, "its field 'epoch' is True"),
        ({"step": 24}, "its field 'step' is 24"),
        ({"early_stopping": {"best_step": 10, "best_score": float("nan")}}, "a number is NaN"),
        ({"early_stopping": {"best_step": 0}}, "the best step is 0"),
        ({"early_stopping": {"best_step": 10, "stale_epochs": -1}}, "its field 'early_stopping' is"),
        ({"early_stopping": {"best_step": 10, "best_score": "x"}}, "early_stopping.best_score is 'x'"),
        ({"a": "\ud800"}, "surrogates not allowed"),
        ({"a": [[[]]] * 3 + [json.loads("[" * 60 + "]" * 60)]}, "lists and objects are nested more than 50 deep"),
    ],
)
def test_impossible_values_are_refused(info, change, message):
    info.write_text(json.dumps(json.loads(info.read_text()) | change))
    with pytest.raises(UserError, match=message):
        resume(info)


@pytest.mark.parametrize("missing", ["data", "early_stopping", "epoch"])
def test_a_checkpoint_without_training_state_is_refused(info, missing):
    content = json.loads(info.read_text())
    del content[missing]
    info.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is not a training checkpoint and cannot be resumed; give another --out"):
        resume(info)


@pytest.mark.parametrize(
    ("rows", "valid"),
    [
        ([], 0),
        ([{"epoch": 1}], 1),
        ([{"epoch": 1}, {"epoch": 1}], 1),
        ([{"epoch": 2}, {"epoch": 1}], 0),
        ([{"epoch": 1}, {"epoch": 2, "train_loss": float("nan")}], 1),
        ([{"epoch": 1}, {"epoch": 2, "seconds": 10**400}], 1),
        ([{"epoch": 1}, {"epoch": 2, "seconds": 1e250}], 1),
        ([{"epoch": 1}, {"epoch": 2, "step": -1}], 1),
    ],
)
@pytest.mark.parametrize("place", ["the checkpoint's", "the run's"])  # format 1 keeps metrics only in the run folder
def test_metrics_that_do_not_match_the_epochs_are_refused(info, rows, valid, place):
    lines = "".join(json.dumps(ROW | row) + "\n" for row in rows)
    if place == "the run's":
        info.parent.with_name("metrics.jsonl").write_text(lines)
        info.with_name("metrics.jsonl").unlink()
    else:
        info.with_name("metrics.jsonl").write_text(lines)
    with pytest.raises(UserError, match=f"metrics.jsonl is damaged after epoch {valid}, and 2 epochs were saved"):
        resume(info)


def test_metrics_with_an_epoch_of_zero_seconds_are_read(info):
    path = info.with_name("metrics.jsonl")
    path.write_text("".join(json.dumps(ROW | {"epoch": n, "seconds": 0}) + "\n" for n in (1, 2)))
    resume(path)
