"""Moving averages and raw parameters are evaluated, saved and loaded apart from each other.

Other projects picked the best checkpoint by the averages and saved the raw parameters (ultralytics 9426), or lost the
counter of the averages on resume (rf-detr 969).
"""

import jax
import numpy as np
import pytest
from conftest import SilentProgress, fit_run

from cnnjax import checkpoint, create, data
from cnnjax.errors import Diverged, UserError
from cnnjax.export.source import open_source
from cnnjax.runs import predictor
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.saving import description
from cnnjax.training import loop
from cnnjax.training.early_stopping import EarlyStoppingState, update
from cnnjax.training.state import init_state


class Copies(SilentProgress):
    """Copies the state after each epoch; stops after epoch ``last``."""

    def __init__(self, last=None):
        super().__init__()
        self.states, self.last = [], last

    def epoch(self, snapshot):
        super().epoch(snapshot)
        self.states.append(jax.tree.map(np.array, snapshot.state))
        if len(snapshot.rows) == self.last:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def averaged(experiment):
    train = experiment.train.replace(ema_decay=0.99, keep=1)
    return experiment.replace(model=create("mlp"), train=train)


def start(experiment, path, last=None):
    folder, copies = RunFolder(path), Copies(last)
    folder.start("run", experiment)
    if last is None:
        fit_run(experiment, folder, copies)
    else:
        with pytest.raises(KeyboardInterrupt):
            fit_run(experiment, folder, copies)
    return copies


def equal(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.fixture
def figures(monkeypatch):
    """Averages that get better in each epoch, and raw parameters that get worse; the real evaluation runs too."""
    real, calls = loop.evaluate, []

    def evaluate(*arguments):
        calls.append(real(*arguments))
        epoch, is_raw = divmod(len(calls) - 1, 2)
        return {**calls[-1], "loss": 1.0 + epoch if is_raw else 3.0 - epoch}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    return calls


@pytest.mark.trains_long
def test_the_best_averages_and_the_best_raw_parameters_are_kept_apart(averaged, tmp_path, figures):
    copies = start(averaged, tmp_path / "run")
    best, raw = (predictor.load(tmp_path / "run", parameters=name) for name in ("auto", "raw"))
    assert [best.checkpoint.name, raw.checkpoint.name] == ["step-00000030", "step-00000010"]
    assert equal(best.variables, copies.states[2].evaluated)
    assert equal(raw.variables, copies.states[0].variables)
    assert not equal(raw.variables, copies.states[0].evaluated)
    assert equal(predictor.load(tmp_path / "run", parameters="ema").variables, best.variables)
    assert best.origin.startswith("moving averages of the parameters of ")
    assert raw.origin.startswith("raw parameters of ")
    assert equal(open_source(str(tmp_path / "run"), parameters="raw").network.variables, raw.variables)
    assert [row["raw_validation_loss"] for row in copies.rows] == [1.0, 2.0, 3.0]
    tops = [(row["validation_top1"], row["raw_validation_top1"]) for row in copies.rows]
    assert tops == [(a["top1"], b["top1"]) for a, b in zip(figures[::2], figures[1::2], strict=True)]
    assert figures[0]["loss"] != figures[1]["loss"]


@pytest.mark.trains_long
def test_resumed_averages_keep_their_counter(averaged, tmp_path, figures):
    copies = start(averaged, tmp_path / "whole")
    figures.clear()
    start(averaged, tmp_path / "resumed", last=1)
    again = start(averaged, tmp_path / "resumed")
    assert equal(again.states[-1], copies.states[-1])
    assert int(again.states[-1].ema.updates) == 30
    assert predictor.load(tmp_path / "resumed", parameters="raw").checkpoint.name == "step-00000010"


@pytest.mark.trains_long
def test_without_averages_there_is_one_set_of_parameters(trained_run, tmp_path):
    auto, raw = (predictor.load(trained_run, parameters=name) for name in ("auto", "raw"))
    assert equal(auto.variables, raw.variables)
    assert auto.averaged is raw.averaged is None
    assert auto.origin == f"parameters of {auto.checkpoint}"
    with pytest.raises(UserError, match="keeps no moving averages; train with --train.ema-decay"):
        predictor.load(trained_run, parameters="ema")
    with pytest.raises(UserError, match="--parameters applies to run folders, and lenet.fashion_mnist is not one"):
        open_source("lenet.fashion_mnist", parameters="raw")


def test_averages_are_not_mistaken_for_missing_raw_parameters(averaged, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.start("run", averaged)
    dataset = data.load(averaged.data)
    variables = init_state(averaged, loop.plan(averaged, dataset)[1]).variables
    info = {"epoch": 3, **description(averaged, dataset)}
    checkpoint.save(folder.checkpoints, 30, {"variables": variables._asdict()}, info)
    assert predictor.load(folder.path).averaged is None
    with pytest.raises(UserError, match="holds moving averages without the raw parameters"):
        predictor.load(folder.path, parameters="raw")


def test_raw_parameters_that_diverge_end_the_run(averaged, tmp_path, monkeypatch):
    real = loop.evaluate
    values = iter([1.0, float("nan")])
    monkeypatch.setattr(loop, "evaluate", lambda *arguments: {**real(*arguments), "loss": next(values)})
    with pytest.raises(Diverged, match="the validation loss was not finite"):
        start(averaged, tmp_path / "run")


def test_nan_never_becomes_the_best_raw_loss(averaged):
    config, state = averaged.early_stopping, EarlyStoppingState()
    for step, raw in ((1, float("nan")), (2, 5.0), (3, 6.0)):
        state = update(config, state, step, {"loss": -step}, {"loss": raw})
    assert (state.best_step, state.raw_best_step, state.best_steps) == (3, 2, {2, 3})
