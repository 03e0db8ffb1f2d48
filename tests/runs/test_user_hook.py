"""A function of an experiment file that is called after each epoch."""

import random
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import SilentProgress, fit_run

from cnnjax import cli, create
from cnnjax.errors import UserError
from cnnjax.optim import make_hyperparameters
from cnnjax.runs.definitions import BUILT_IN, COPY, run_file
from cnnjax.runs.folder import RunFolder
from cnnjax.training.state import init_state
from tests.script import run_script
from tests.training.test_loop import figures, last_params, same

FILE = """
import cnnjax
from cnnjax.config import Data, Experiment, Train

experiment = Experiment(
    model=cnnjax.create("mlp"), data=Data(source="mnist", dir={folder!r}), train=Train(epochs=2, batch_size=32)
)

def after_epoch(state, metrics):
    {body}
"""


@pytest.fixture(scope="module")
def small(experiment):
    return experiment.replace(model=create("mlp"), train=experiment.train.replace(epochs=2))


def train(experiment, path, after_epoch=None):
    folder = RunFolder(path, BUILT_IN._replace(after_epoch=after_epoch))
    folder.start("run", experiment)
    return fit_run(experiment, folder, SilentProgress()), folder


@pytest.mark.trains_long
def test_the_function_sees_each_epoch_and_cannot_change_the_training(small, tmp_path):
    seen, states = [], []

    def meddling(state, metrics):
        seen.append(dict(metrics))
        states.append((int(state.step), np.asarray(jax.tree.leaves(state.params)[0])))
        metrics.clear()
        random.seed(0)
        np.random.seed(0)
        for leaf in jax.tree.leaves(state):
            leaf.delete()
        return 1

    plain, plain_folder = train(small, tmp_path / "plain")
    hooked, folder = train(small, tmp_path / "hooked", meddling)
    assert seen == hooked.rows
    assert figures(hooked.rows) == figures(plain.rows)
    assert same(last_params(folder, small), last_params(plain_folder, small))
    assert [step for step, _ in states] == [10, 20]
    assert not np.array_equal(states[0][1], states[1][1])


@pytest.mark.trains_long
def test_an_exception_ends_the_run_and_the_epoch_is_saved(small, tmp_path):
    def failing(state, metrics):
        raise ValueError("no such\nplot")

    with pytest.raises(UserError, match=r"failed after epoch 1: ValueError: no such plot .* the epoch is saved"):
        train(small, tmp_path / "run", failing)
    seen = []
    resumed, folder = train(small, tmp_path / "run", lambda state, metrics: seen.append(metrics["epoch"]))
    assert seen == [2]
    plain, plain_folder = train(small, tmp_path / "plain")
    assert same(last_params(folder, small), last_params(plain_folder, small))


def test_a_file_with_the_function_is_copied_to_the_run(digits, tmp_path):
    path = tmp_path / "own.py"
    body = "print('EPOCH', metrics['epoch'], int(state.step)); 1 / (2 - metrics['epoch'])"
    path.write_text(FILE.format(folder=str(digits), body=body))
    done = run_script("train.py", path, "--out", tmp_path / "run", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "after_epoch of the experiment file failed after epoch 2: ZeroDivisionError" in done.stderr
    assert "EPOCH 1 11" in done.stdout
    assert (tmp_path / "run" / COPY).read_bytes() == path.read_bytes()
    assert cli.load_experiment(str(tmp_path / "run")).definitions.after_epoch is None  # code is run only if trusted
    trusted = cli.load_experiment(str(tmp_path / "run"), None, True)
    assert trusted.definitions.after_epoch.__name__ == "after_epoch"


@pytest.mark.parametrize("value", ["3", "lambda state: None", "lambda a, b, c: None"])
def test_what_cannot_be_called_with_two_arguments_is_refused(tmp_path, value):
    path = tmp_path / "own.py"
    path.write_text(f"after_epoch = {value}")
    with pytest.raises(UserError, match=r"after_epoch must be a function of two arguments"):
        run_file(path)


@pytest.mark.trains_long
def test_the_example_in_the_documentation_runs(tmp_path, capsys):
    text = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
    path = tmp_path / "example.py"
    path.write_text(text.partition("```python\n")[2].partition("```")[0])
    loaded = run_file(path)
    state = init_state(loaded.experiment, make_hyperparameters(loaded.experiment, 10))
    loaded.definitions.after_epoch(state, {"epoch": 1, "validation_top1": 0.5})
    assert capsys.readouterr().out.startswith("epoch 1: 0.500, |conv1| ")
