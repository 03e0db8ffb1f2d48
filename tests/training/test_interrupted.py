"""Runs interrupted by a signal, at different moments, and resumed."""

import os
import signal

import jax
import numpy as np
import pytest
from conftest import SilentProgress, fit_run, mostly_slow

from cnnjax import checkpoint, create
from cnnjax.config import Augmentation
from cnnjax.errors import Diverged, Interrupted, UserError
from cnnjax.functional import abstract_variables, leaves_by_path
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.predictor import load
from cnnjax.system import signals
from cnnjax.training import loop

CLOCK = ("seconds", "images_per_second")
POLLS = 10 + 2
"""Polls per epoch: its steps and its evaluation batches."""


@pytest.fixture(scope="module")
def experiment(experiment):
    return experiment.replace(train=experiment.train.replace(epochs=2))


def train(experiment, path, progress, interrupted_at=None):
    """Train, and send SIGUSR1 to this process at poll number ``interrupted_at``, counted from 0."""
    folder, polls = RunFolder(path), []
    folder.start("run", experiment)

    def poll():
        if len(polls) == interrupted_at:
            os.kill(os.getpid(), signal.SIGUSR1)
        polls.append(None)
        signals.poll()

    with signals.deferred_signals("stopped"):
        return fit_run(experiment, folder, progress, poll=poll)


def outcome(experiment, path):
    folder = RunFolder(path)
    newest, _ = checkpoint.newest_good(folder.checkpoints)
    last = checkpoint.restore(newest, "variables", abstract_variables(experiment.model)._asdict())["params"]
    rows = [{name: value for name, value in row.items() if name not in CLOCK} for row in folder.read_metrics()]
    return leaves_by_path(last), leaves_by_path(load(path).variables.params), load(path).checkpoint.name, rows


@pytest.fixture(scope="module")
def uninterrupted(experiment, tmp_path_factory):
    """Outcome of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(experiment, folder, SilentProgress())
    return outcome(experiment, folder)


def assert_same(actual, uninterrupted):
    for mine, theirs in zip(actual[:2], uninterrupted[:2], strict=True):
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[path], theirs[path]) for path in theirs)
    assert actual[2:] == uninterrupted[2:]


@pytest.mark.trains_long
@pytest.mark.parametrize(
    ("model", "chunk"), [("mlp", 4), *(pytest.param("lenet", chunk, marks=pytest.mark.trains_long) for chunk in (1, 4))]
)
def test_a_run_interrupted_in_steps_and_evaluations_resumes_to_the_same_bits(
    experiment, tmp_path, progress, monkeypatch, model, chunk
):
    experiment = experiment.replace(model=create(model, activation="relu"))
    monkeypatch.setattr(loop, "steps_per_dispatch", lambda backend, steps: chunk)
    train(experiment, tmp_path / "uninterrupted", progress)
    for at in (0, 0, 1):
        with pytest.raises(Interrupted, match="stopped"):
            train(experiment, tmp_path / "run", progress, at)
    saved = [notice for notice in progress.notices if notice.startswith("saved")]
    expected = {1: (1, 2, 4), 4: (4, 8, 10)}[chunk]  # 10 is during the evaluation
    assert saved == [f"saved step {step}, within epoch 1" for step in expected]
    train(experiment, tmp_path / "run", progress)
    assert_same(outcome(experiment, tmp_path / "run"), outcome(experiment, tmp_path / "uninterrupted"))


@pytest.mark.trains_long
def test_a_run_with_all_augmentation_resumes_to_the_same_bits(experiment, tmp_path, progress):
    everything = Augmentation(
        crop_area=0.5, flip=True, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, auto_augment="randaugment",
        erase=0.25, erase_fill="noise", mixup=0.2, cutmix=1.0, mix_probability=0.9,
    )  # fmt: skip
    options = {"label_smoothing": 0.1, "accumulate": 2, "balance": "weights", "ema_decay": 0.9}
    experiment = experiment.replace(
        model=create("mlp", activation="relu"), augmentation=everything, train=experiment.train.replace(**options)
    )
    train(experiment, tmp_path / "uninterrupted", progress)
    with pytest.raises(Interrupted, match="stopped"):
        train(experiment, tmp_path / "run", progress, 4)
    train(experiment, tmp_path / "run", progress)
    assert_same(outcome(experiment, tmp_path / "run"), outcome(experiment, tmp_path / "uninterrupted"))


@pytest.mark.trains_long
def test_a_float64_run_resumes_to_the_same_bits(experiment, tmp_path, progress, monkeypatch):
    monkeypatch.setattr(loop, "steps_per_dispatch", lambda backend, steps: 5)
    wide = experiment.replace(model=experiment.model.replace(dtype="float64"), train=experiment.train.replace(epochs=1))
    with jax.enable_x64(True):
        train(wide, tmp_path / "uninterrupted", progress)
        with pytest.raises(Interrupted, match="stopped"):
            train(wide, tmp_path / "run", progress, 0)
        train(wide, tmp_path / "run", progress)
        actual, uninterrupted = (outcome(wide, tmp_path / name) for name in ("run", "uninterrupted"))
    assert_same(actual, uninterrupted)
    assert {str(leaf.dtype) for leaf in actual[0].values()} == {"float64"}


@pytest.mark.parametrize("at", mostly_slow([10, POLLS + 10, 9, 11, POLLS + 4], 1, pytest.mark.trains_long))
def test_a_run_interrupted_between_epochs_resumes_to_the_same_bits(experiment, tmp_path, progress, uninterrupted, at):
    with pytest.raises(Interrupted):
        train(experiment, tmp_path / "run", progress, at)
    step = 10 if at < POLLS else min(10 + at - POLLS + 1, 20)
    assert progress.notices[-1] == f"saved step {step}, within epoch {1 + (at >= POLLS)}"
    train(experiment, tmp_path / "run", progress)
    assert_same(outcome(experiment, tmp_path / "run"), uninterrupted)
    names = [path.name for path in checkpoint.list_paths(tmp_path / "run" / "checkpoints")]
    assert names == ["step-00000010", "step-00000020"]


def test_the_best_checkpoint_exists_after_the_first_epoch_and_survives_interrupts(experiment, tmp_path, progress):
    with pytest.raises(Interrupted):
        train(experiment, tmp_path / "run", progress, 4)
    with pytest.raises(UserError, match="within-00000005 was saved within the first epoch"):
        load(tmp_path / "run")
    assert RunFolder(tmp_path / "run").read_metrics() == []
    with pytest.raises(Interrupted):
        train(experiment, tmp_path / "run", progress, POLLS + 2)
    assert load(tmp_path / "run").checkpoint.name == "step-00000010"
    assert len(RunFolder(tmp_path / "run").read_metrics()) == 1


@pytest.mark.trains_long
def test_the_seconds_of_an_interrupted_epoch_are_summed(experiment, tmp_path, progress):
    with pytest.raises(Interrupted):
        train(experiment, tmp_path / "run", progress, 4)
    spent = checkpoint.newest_good(tmp_path / "run" / "checkpoints")[0].info["seconds"]
    assert spent > 0
    train(experiment, tmp_path / "run", progress)
    first, second = RunFolder(tmp_path / "run").read_metrics()
    assert first["seconds"] > spent
    assert second["seconds"] < spent  # the interrupted part included the compilation


def test_nothing_is_saved_if_no_step_was_done(experiment, tmp_path, progress):
    for _ in range(2):  # the second interrupt is in the same evaluation
        with pytest.raises(Interrupted):
            train(experiment, tmp_path / "run", progress, 10 if not progress.notices else 0)
    assert [notice for notice in progress.notices if notice.startswith("saved")] == ["saved step 10, within epoch 1"]


def test_a_diverged_state_is_not_saved(experiment, tmp_path, progress):
    wild = experiment.replace(optimizer=experiment.optimizer.replace(name="sgd", lr=1e30))
    with pytest.raises(Diverged, match="not finite at step"):
        train(wild, tmp_path / "run", progress, 8)
    assert checkpoint.list_paths(tmp_path / "run" / "checkpoints") == []


def test_signals_are_polled_while_an_image_folder_is_read(tmp_path):
    from PIL import Image

    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("L", (4, 4), 7).save(tmp_path / part / name / "1.png")
    from cnnjax.data.image_folder import load_image_folder

    with signals.deferred_signals("stopped"):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            load_image_folder(tmp_path)


def test_signals_are_polled_while_idx_files_are_read(digits):
    from cnnjax.data.sources import read_parts

    with signals.deferred_signals("stopped"):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            read_parts(digits)
