"""`continue_from`: a new run starts from the last state of another one."""

import json
import shutil

import jax
import pytest
from conftest import SilentProgress, fit_run
from rich.console import Console

import cnnjax
from cnnjax import checkpoint, create
from cnnjax.config import Augmentation, EarlyStopping, Optimizer, Phase, Schedule
from cnnjax.errors import UserError
from cnnjax.optim import make_hyperparameters
from cnnjax.runs import continuation
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.saving import read_state
from tests.training.test_loop import figures

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def base(experiment):
    """A run with a constant rate, moments and moving averages, which compiles fast."""
    return experiment.replace(
        model=create("mlp"), train=experiment.train.replace(epochs=1, ema_decay=0.9), seed=3,
        augmentation=Augmentation(flip=True), early_stopping=EarlyStopping(patience=5),
    )  # fmt: skip


@pytest.fixture(scope="module")
def short(base, tmp_path_factory):
    """The run folder of ``base``, unfinished but with its epoch saved."""
    folder = RunFolder(tmp_path_factory.mktemp("short") / "short")
    folder.start("short", base)
    fit_run(base, folder, SilentProgress())
    return folder.path


def longer(experiment, epochs, source=None):
    return experiment.replace(
        train=experiment.train.replace(epochs=epochs), continue_from=None if source is None else str(source)
    )


def train(experiment, path, out=None):
    return cnnjax.train(experiment, path, console=out or Console(quiet=True))


def newest_state(run, experiment):
    saved, _ = checkpoint.newest_good(run.path / "checkpoints")
    return saved.step, jax.tree.leaves(read_state(saved, experiment, make_hyperparameters(experiment, 10)))


@pytest.mark.trains_long
def test_a_continued_run_equals_one_long_run_bit_for_bit(base, short, tmp_path, monkeypatch):
    source = shutil.copytree(short, tmp_path / "short")
    ours, whole = longer(base, 3, source), longer(base, 3)
    with monkeypatch.context() as patch:  # killed after the copies, before the record
        patch.setattr(continuation, "write_json", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(ours, tmp_path / "continued")
    run, long = train(ours, tmp_path / "continued"), train(whole, tmp_path / "long")
    (step, leaves), (wanted_step, wanted) = newest_state(run, ours), newest_state(long, whole)
    assert step == wanted_step == 30
    assert all((a == b).all() for a, b in zip(leaves, wanted, strict=True))
    assert figures(run.metrics) == figures(long.metrics)
    assert [run.results[k] for k in ("epochs", "best_epoch", "test")] == [
        long.results[k] for k in ("epochs", "best_epoch", "test")
    ]
    record = json.loads((run.path / continuation.RECORD).read_text())
    assert record["changed"] == {"train.epochs": {"from": 1, "to": 3}}
    assert (record["epoch"], record["step"], record["name"]) == (1, 10, "short")
    assert record["experiment"] == json.loads((source / "config.json").read_text())["experiment"]
    shutil.rmtree(source)  # the new run no longer needs it
    assert train(ours, run.path).results == run.results


@pytest.mark.trains_long
def test_options_that_no_state_depends_on_may_change(base, short, tmp_path, capsys):
    optimizer = base.optimizer.replace(lr=1e-4, clip_norm=1.0)
    changed = longer(base, 2, short).replace(optimizer=optimizer, schedule=Schedule(name="cosine"))
    run = train(changed, tmp_path / "new", Console(width=500))
    output = capsys.readouterr().out
    assert f"continuing {short} after epoch 1: optimizer.lr was 0.003 and is now 0.0001" in output
    assert run.metrics[0]["lr"] == 0.003
    assert run.metrics[1]["lr"] < 1e-4
    assert len(json.loads((run.path / continuation.RECORD).read_text())["changed"]) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: {"model": create("mlp", activation="tanh")}, r"has model.activation 'relu' and this run has 'tanh'"),
        (lambda e: {"optimizer": Optimizer(name="sgd")}, "has optimizer.name 'adam' and this run has 'sgd'"),
        (lambda e: {"train": e.train.replace(batch_size=16)}, "has train.batch_size 32 and this run has 16"),
        (lambda e: {"train": e.train.replace(ema_decay=None)}, "has train.ema_decay 0.9 and this run has None"),
        (lambda e: {"data": e.data.replace(validation=0.3)}, "has data.validation 0.2 and this run has 0.3"),
        (lambda e: {"phases": (Phase(),)}, "cannot be continued with phases"),
        (lambda e: {"train": e.train.replace(epochs=1)}, "has trained 1 epochs and train.epochs is 1; give 2 or more"),
        (lambda e: {"continue_from": "nowhere"}, "--continue-from is nowhere, which holds no run"),
    ],
)  # fmt: skip
def test_what_cannot_be_continued_is_refused_before_anything_is_written(base, short, tmp_path, change, message):
    experiment = longer(base, 2, short)
    with pytest.raises(UserError, match=message):
        train(experiment.replace(**change(experiment)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_refusals_name_the_option(base, short, tmp_path, capsys):
    with pytest.raises(UserError, match=f"train.epochs was 1 and is now 2; .*, or add --continue-from {short}"):
        train(longer(base, 2), short)
    with pytest.raises(UserError, match="choose another folder with --out$"):
        train(base.replace(optimizer=Optimizer(name="sgd")), short)
    finished = shutil.copytree(short, tmp_path / "finished")
    train(base, finished)
    capsys.readouterr()
    train(base, finished, Console(width=500))
    assert f"or train on with --continue-from {finished} and more --train.epochs" in capsys.readouterr().out


def test_a_run_that_stopped_early_needs_more_patience(base, short, tmp_path, monkeypatch):
    source = shutil.copytree(short, tmp_path / "short")
    [path] = (source / "checkpoints").iterdir()
    impatient = longer(base, 2, source).replace(early_stopping=EarlyStopping(patience=1))
    dataset = cnnjax.data.load(base.data)
    opened = continuation.open_source(impatient, RunFolder(tmp_path / "new"))
    info = continuation._resume_info
    assert continuation.read_continuation(opened, impatient, dataset).checkpoints[-1].path == path

    def stale(*arguments):
        found = info(*arguments)
        return found._replace(early_stopping=found.early_stopping.replace(stale_epochs=1))

    monkeypatch.setattr(continuation, "_resume_info", stale)
    with pytest.raises(UserError, match="patience is 1; increase it"):
        continuation.read_continuation(opened, impatient, dataset)


@pytest.mark.trains_long
def test_a_run_that_began_with_init_keeps_its_preprocessing(base, short, tmp_path, capsys):
    origin = shutil.copytree(short, tmp_path / "origin")
    started = base.replace(init=f"run:{origin}")
    source = train(started, tmp_path / "source")
    shutil.rmtree(origin)
    environment = source.path / "environment.json"
    environment.write_text(environment.read_text().replace('"steps_per_dispatch": ', '"steps_per_dispatch": 9'))
    run = train(longer(started, 2, source.path), tmp_path / "new", Console(width=500))
    assert "notice: resuming with lowering.steps_per_dispatch 1 (previously" in capsys.readouterr().out
    assert run.network.preprocessing == source.network.preprocessing
    assert figures(run.metrics)[:1] == figures(source.metrics)
    with pytest.raises(UserError, match="has init 'run:"):
        train(longer(base, 2, source.path), tmp_path / "other")
