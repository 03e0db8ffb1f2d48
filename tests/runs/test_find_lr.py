"""`scripts/train.py --find-lr`: the files it writes, and what it refuses."""

import json

import pytest

from cnnjax.config import Experiment, Optimizer, Train
from cnnjax.models import create
from cnnjax.runs.find_lr import rates_of
from tests.script import run_script


@pytest.fixture
def find(digits, tmp_path):
    """Return a function that runs the script in a temporary folder."""
    options = ("--model", "mlp", "--data.source", "mnist", "--data.dir", digits, "--train.batch-size", "40")

    def find(*arguments):
        return run_script("train.py", "lenet_mini", *options, "--out", "runs/a", *arguments, cwd=tmp_path)

    return find


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_curve_is_written_beside_the_run_folder(find, tmp_path):
    ended = find("--find-lr", "--optimizer.base-batch", "80")
    assert ended.returncode == 0, ended.stderr
    record = json.loads((tmp_path / "runs" / "a-find-lr" / "find_lr.json").read_text())
    assert set(files(tmp_path)) == {"runs/a-find-lr/find_lr.json", "runs/a-find-lr/find_lr.html"}
    assert len(record["rates"]) == len(record["losses"]) and record["rates"][0] == 1e-6
    assert f"Suggestion: --optimizer.lr {record['suggestion']['lr']:.3g}, where" in ended.stdout
    assert record["suggestion"]["lr"] == pytest.approx(2 * record["steepest"])  # which 40 / 80 halves
    page = (tmp_path / "runs" / "a-find-lr" / "find_lr.html").read_text()
    assert "<svg" in page and f"steepest: {record['steepest']:.3g}" in page and "1e-06" in page
    repeated = find("--find-lr", "--optimizer.base-batch", "80")
    assert repeated.returncode == 0
    assert json.loads((tmp_path / "runs" / "a-find-lr" / "find_lr.json").read_text()) == record


@pytest.mark.trains_long
def test_a_run_does_not_change(find, tmp_path):
    assert find("--train.epochs", "1").returncode == 0
    before = files(tmp_path / "runs" / "a")
    assert find("--train.epochs", "1", "--find-lr").returncode == 0
    assert files(tmp_path / "runs" / "a") == before


@pytest.mark.parametrize(
    ("name", "content"), [("notes.txt", "mine"), ("find_lr.json", '{"kind": "another"}'), ("find_lr.json", "[1]")]
)
def test_a_folder_with_other_files_is_refused(find, tmp_path, name, content):
    (tmp_path / "runs" / "a-find-lr").mkdir(parents=True)
    (tmp_path / "runs" / "a-find-lr" / name).write_text(content)
    ended = find("--find-lr")
    assert ended.returncode == 2 and "holds files other than those of --find-lr; move it away" in ended.stderr
    assert set(files(tmp_path)) == {f"runs/a-find-lr/{name}"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--find-lr-steps", "30"], "--find-lr-steps is 30 without --find-lr; add it"),
        (["--find-lr", "--find-lr-steps", "3"], "--find-lr-steps is 3; it must be 20 to 2,147,483,647"),
        (["--find-lr", "--profile", "0:2"], "--profile and --find-lr are both given; give one of them"),
        (["--find-lr", "--train.batch-size", "999"], "train.batch_size is 999 and there are "),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(find, tmp_path, arguments, message):
    ended = find(*arguments)
    assert ended.returncode == 2 and ended.stderr.startswith(f"error: {message}"), ended.stderr
    assert not files(tmp_path)


def test_an_experiment_with_phases_is_refused(tmp_path):
    ended = run_script("train.py", "finetune", "--find-lr", cwd=tmp_path)
    assert ended.returncode == 2 and "--find-lr is given for an experiment with phases" in ended.stderr


def test_the_rate_of_muon_s_adamw_keeps_its_share():
    optimizer = Optimizer(name="muon", lr=0.02, adam_lr=0.001, base_batch=64)
    experiment = Experiment(model=create("mlp"), optimizer=optimizer, train=Train(batch_size=128))
    assert rates_of(experiment, 0.08) == {"lr": pytest.approx(0.04), "adam_lr": pytest.approx(0.002)}
