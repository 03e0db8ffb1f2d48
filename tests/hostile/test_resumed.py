"""A checkpoint of a stranger's making, whose manifest fits: gone on with, it is one sentence."""

import json

import pytest

from cnnjax.errors import UserError
from tests.hostile.formats import FORMATS, ROW, WITHIN, go_on


@pytest.fixture
def info(tmp_path):
    path = tmp_path / WITHIN / "info.json"
    FORMATS["resumed info"].make(path)
    return path


def test_the_real_one_is_read(info):
    go_on(info)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": None}, "its data is None"),
        ({"data": {}}, "is not a training checkpoint and cannot be resumed"),
        ({"tally": {"loss": 9.5, "correct": 2**40, "images": 12}}, "its tally is"),
        ({"tally": {"loss": 9.5, "correct": 13, "images": 12}}, "its tally is"),
        ({"tally": {"loss": 10**400, "correct": 7, "images": 12}}, "a number is NaN, or larger than"),
        ({"tally": {"loss": 1e39, "correct": 7, "images": 12}}, "its tally is"),
        ({"tally": {"loss": 9.5, "correct": 0, "images": 0}}, "at step 23 it has processed 12 .* its sums cover 0"),
        ({"tally": {}}, "at step 23 it has processed 12 images .* its sums cover 0"),
        ({"seconds": float("inf")}, "a number is NaN"),
        ({"seconds": 10**400}, "a number is NaN"),
        ({"seconds": 1e200}, "its seconds is 1e"),
        ({"seconds": -1}, "its seconds is -1"),
        ({"epoch": 1}, "after 1 epochs of 10 steps it is at step 23"),
        ({"epoch": True}, "its epoch is True"),
        ({"step": 24}, "its step is 24"),
        ({"early_stopping": {"best_step": 10, "best_score": float("nan")}}, "a number is NaN"),
        ({"early_stopping": {"best_step": 0}}, "the best step is 0"),
        ({"early_stopping": {"best_step": 10, "stale_epochs": -1}}, "its early_stopping is"),
        ({"early_stopping": {"best_step": 10, "best_score": "x"}}, "early_stopping.best_score is 'x'"),
        ({"a": "\ud800"}, "surrogates not allowed"),
        ({"a": [[[]]] * 3 + [json.loads("[" * 60 + "]" * 60)]}, "lists and objects lie within each other"),
    ],
)
def test_numbers_that_no_training_has_are_refused(info, change, told):
    info.write_text(json.dumps(json.loads(info.read_text()) | change))
    with pytest.raises(UserError, match=told):
        go_on(info)


@pytest.mark.parametrize("missing", ["data", "early_stopping", "epoch"])
def test_what_was_never_trained_is_not_gone_on_from(info, missing):
    held = json.loads(info.read_text())
    del held[missing]
    info.write_text(json.dumps(held))
    with pytest.raises(UserError, match="is not a training checkpoint and cannot be resumed; give another --out"):
        go_on(info)


@pytest.mark.parametrize(
    ("rows", "sound"),
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
@pytest.mark.parametrize("place", ["the checkpoint's", "the run's"])  # as where a first version wrote the checkpoint
def test_rows_that_are_not_those_of_its_epochs_are_refused(info, rows, sound, place):
    lines = "".join(json.dumps(ROW | row) + "\n" for row in rows)
    if place == "the run's":
        info.parent.with_name("metrics.jsonl").write_text(lines)
        info.with_name("metrics.jsonl").unlink()
    else:
        info.with_name("metrics.jsonl").write_text(lines)
    with pytest.raises(UserError, match=f"metrics.jsonl is damaged after epoch {sound}, and 2 epochs were saved"):
        go_on(info)


def test_an_epoch_without_a_measurable_second_has_a_speed(info):
    path = info.with_name("metrics.jsonl")
    path.write_text("".join(json.dumps(ROW | {"epoch": n, "seconds": 0}) + "\n" for n in (1, 2)))
    go_on(path)
