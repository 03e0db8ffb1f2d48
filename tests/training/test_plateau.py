"""Reduction of the learning rate on a plateau: its rule, its epochs, resuming, and members side by side."""

import json

import numpy as np
import pytest
from conftest import SilentProgress, fit_run

from cnnjax import create, data
from cnnjax.config import Optimizer, Schedule, Train
from cnnjax.errors import Interrupted
from cnnjax.functional import leaves_by_path
from cnnjax.runs.folder import RunFolder
from cnnjax.training.loop import fit
from cnnjax.training.plateau import reduction
from cnnjax.training.stacked import StackMember, fit_stacked

EAGER = Schedule(name="plateau", factor=0.5, patience=1, min_delta=100.0, end=0.2)
"""No epoch improves by 100, so every epoch but the first halves the rate, down to a fifth."""


@pytest.fixture
def halving(experiment):
    return experiment.replace(
        model=create("mlp"), schedule=EAGER, optimizer=Optimizer(name="momentum", lr=0.08),
        train=Train(epochs=5, batch_size=32, eval_batch_size=80),
    )  # fmt: skip


def shares(losses, **options):
    """Return the share of the base rate in each epoch, the first included, and after the last."""
    config = Schedule(name="plateau", factor=0.1, **options)
    rows = [{"validation_loss": loss, "validation_top1": 1 - loss} for loss in losses]
    return [round(reduction(config, rows[:epoch]), 6) for epoch in range(len(rows) + 1)]


FLAT = [0.9, 0.9, 0.9, 0.9, 0.9, 0.9]


@pytest.mark.parametrize(
    ("losses", "options", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.6], {"patience": 1}, [1, 1, 1, 1, 1]),
        (FLAT, {"patience": 2}, [1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        (FLAT, {"patience": 2, "end": 0.05}, [1, 1, 1, 0.1, 0.1, 0.05, 0.05]),
        (FLAT, {"patience": 1, "cooldown": 2}, [1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ([0.9, 0.95, 0.85, 0.95, 0.95, 0.95], {"patience": 2}, [1, 1, 1, 1, 1, 0.1, 0.1]),
        ([0.9, 0.85, 0.84, 0.7], {"patience": 1, "min_delta": 0.1}, [1, 1, 0.1, 0.01, 0.01]),
        ([0.9, 0.8, 0.9, 0.9], {"patience": 2, "metric": "top1"}, [1, 1, 1, 1, 0.1]),
    ],
)
def test_the_rate_is_a_function_of_the_metrics(losses, options, expected):
    assert shares(losses, **options) == expected


@pytest.mark.trains_long
def test_each_epoch_trains_at_its_rate(halving):
    """The same training, with the same rates from a step schedule, has the same parameters."""
    dataset, notices = data.load(halving.data), SilentProgress()
    reduced = fit(halving, dataset, hooks=[notices])
    assert [row["lr"] for row in reduced.rows] == [0.08, 0.08, 0.04, 0.02, 0.016]
    assert [notice.partition(":")[0] for notice in notices.notices] == [
        f"the learning rate is now {rate}" for rate in (0.04, 0.02, 0.016)
    ]
    short = {"epochs": 4, "batch_size": 32, "eval_batch_size": 80}
    stepped = fit(
        halving.replace(
            schedule=Schedule(name="step", boundaries=("2ep", "3ep"), factor=0.5), train=Train(**short)
        ), dataset
    )  # fmt: skip
    same = fit(halving.replace(train=Train(**short)), dataset)
    assert_same(same, stepped)


def assert_same(one, other):
    mine, theirs = (leaves_by_path(outcome.snapshot.state.params) for outcome in (one, other))
    assert all(np.array_equal(mine[path], theirs[path]) for path in theirs)


@pytest.mark.trains_long
@pytest.mark.parametrize("at", [2 * 12, 3 * 12 + 5])
def test_a_run_killed_after_a_reduction_resumes_to_the_same_bits(halving, tmp_path, at):
    """12 polls per epoch: 10 steps and 2 evaluation batches. The interrupt is between two epochs, or within one."""
    whole, cut = (RunFolder(tmp_path / name) for name in ("whole", "cut"))
    for folder in (whole, cut):
        folder.start("run", halving)
    expected = fit_run(halving, whole, SilentProgress())
    polls = []

    def poll():
        polls.append(None)
        if len(polls) == at:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        fit_run(halving, cut, SilentProgress(), poll=poll)
    resumed = fit_run(halving, cut, SilentProgress())
    assert_same(resumed.outcome, expected.outcome)
    clock = ("seconds", "images_per_second")
    mine, theirs = ([{k: v for k, v in row.items() if k not in clock} for row in run.rows]
                    for run in (resumed, expected))  # fmt: skip
    assert json.dumps(mine) == json.dumps(theirs)


@pytest.mark.trains_long
def test_members_side_by_side_reduce_their_own_rates(halving):
    dataset = data.load(halving.data)
    patient = halving.replace(schedule=EAGER.replace(patience=3))
    outcomes = dict(fit_stacked([(name, StackMember(member, None, ())) for name, member in
                                 (("eager", halving), ("patient", patient))], dataset))  # fmt: skip
    assert [row["lr"] for row in outcomes["eager"].rows] == [0.08, 0.08, 0.04, 0.02, 0.016]
    assert [row["lr"] for row in outcomes["patient"].rows] == [0.08, 0.08, 0.08, 0.08, 0.04]
    alone = leaves_by_path(fit(halving, dataset).snapshot.state.params)
    for path, leaf in leaves_by_path(outcomes["eager"].snapshot.state.params).items():
        np.testing.assert_allclose(leaf, alone[path], rtol=1e-5, atol=1e-6)
