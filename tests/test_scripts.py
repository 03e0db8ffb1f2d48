"""The scripts as a user runs them: output, exit codes and files.

`run_script` runs a script in this process; `call` starts a process where the test needs one.
"""

import csv
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import mostly_slow, write_digits
from PIL import Image

from cnnjax import checkpoint, create
from cnnjax.functional import leaves_by_path
from cnnjax.optim import make_hyperparameters
from cnnjax.runs.folder import RunFolder, read_config
from cnnjax.runs.predictor import load
from cnnjax.runs.saving import read_state
from cnnjax.system.signals import SIGNALS
from tests.script import SCRIPTS, run_script

KEPT = {}
"""Environment of the scripts that `call` starts: the folder of their compilation cache."""
AS_HERE = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "CNNJAX_CACHE": "0"}
"""Environment in which a process compiles as the tests do, so that it computes the same bits as `run_script`."""


def command(*arguments):
    return [sys.executable, str(SCRIPTS / arguments[0]), *map(str, arguments[1:])]


def call(*arguments, cwd, **environment):
    return subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=240,
        env={**os.environ, **KEPT, **environment},
    )  # fmt: skip


def same_parameters(a, b):
    a, b = leaves_by_path(a), leaves_by_path(b)
    return a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    KEPT["CNNJAX_CACHE"] = str(tmp_path_factory.mktemp("programs"))
    return Path(KEPT["CNNJAX_CACHE"]) / "compiled"


@pytest.fixture(scope="module")
def workplace(digits, tmp_path_factory):
    """A folder with a short finished run, two photos and a text file named text.png."""
    folder = tmp_path_factory.mktemp("workplace")
    done = run_script(
        "train.py", "lenet_mini", "--data.source", "mnist", "--data.dir", digits, "--train.epochs", 2,
        "--out", "runs/done",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    exported = run_script("data.py", "export", "fashion_mnist_mini", "photos", "--count", 2, cwd=folder)
    assert exported.returncode == 0, exported.stderr
    (folder / "text.png").write_text("not an image")
    return folder


def test_listing_the_experiments_does_not_import_jax():
    script = SCRIPTS / "train.py"
    code = f"import runpy, sys; runpy.run_path({str(script)!r})['train'](['--help']); print('jax' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "lenet_mini" in ended.stdout
    assert ended.stdout.endswith("\nFalse\n")


def test_train_prints_epochs_table_and_folder(digits, tmp_path):
    done = run_script(
        "train.py", "lenet_mini", "--data.source", "mnist", "--data.dir", digits, "--train.epochs", 1,
        "--platform", "cpu", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "epoch 1/1  train loss" in done.stdout
    for expected in ("test", "validation", "images/s", "runs/lenet_mini,data.source=mnist,train.epochs=1/"):
        assert expected in done.stdout
    assert (tmp_path / "runs" / "lenet_mini,data.source=mnist,train.epochs=1" / "report.html").exists()


def test_evaluate_prints_every_metric(workplace):
    done = run_script("evaluate.py", "runs/done", cwd=workplace)
    assert done.returncode == 0, done.stderr
    for expected in ("loss", "top-1", "top-5", "calibration error", "precision", "recall", "F1"):
        assert expected in done.stdout
    results = json.loads((workplace / "runs" / "done" / "results.json").read_text())
    assert f"{results['test']['loss']:.4f}" in done.stdout
    assert f"{100 * results['test']['top1']:.2f} %" in done.stdout
    validation = run_script("evaluate.py", "runs/done", "--split", "validation", cwd=workplace)
    assert f"{results['validation']['loss']:.4f}" in validation.stdout


def test_summary_of_a_run_prints_classes_and_preprocessing(workplace):
    done = run_script("summary.py", "runs/done", cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert "61,706" in done.stdout
    assert "classes: 0, 1, 2" in done.stdout
    assert "preprocessing: resize to 28x28 (bilinear), grayscale, " in done.stdout


def test_predict_prints_the_top_3_with_percentages(workplace):
    photos = sorted((workplace / "photos").iterdir())
    done = run_script("predict.py", "runs/done", *photos, cwd=workplace)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{photos[0]}: ")
    assert lines[0].count("%") == 3


def test_predict_reads_folders_prints_json_or_csv_and_reports_unreadable_files(workplace, tmp_path):
    folder = shutil.copytree(workplace / "photos", tmp_path / "photos")
    (folder / "deeper").mkdir()
    (folder / "deeper" / "damaged.png").write_text("text")
    count = len(list((workplace / "photos").iterdir()))
    done = run_script("predict.py", "runs/done", folder, "--json", cwd=workplace)
    assert done.returncode == 1
    assert f"1 of {count + 1} images could not be read" in done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == count
    assert len(answers[0]["classes"]) == 3
    assert 0 < answers[0]["classes"][0]["probability"] <= 1
    (folder / "deeper" / "damaged.png").unlink()
    done = run_script("predict.py", "runs/done", folder, "--csv", "--top", 2, cwd=workplace)
    assert done.returncode == 0, done.stderr
    rows = list(csv.reader(done.stdout.splitlines()))
    assert rows[0] == ["file", "rank", "class", "probability"]
    assert len(rows) == 1 + 2 * count
    assert run_script("predict.py", "runs/done", folder / "deeper", cwd=workplace).returncode == 2


def test_predict_leaves_out_what_training_leaves_out(workplace, tmp_path):
    folder = shutil.copytree(workplace / "photos", tmp_path / "photos")
    photo = next(path for path in folder.iterdir())
    photo.rename(photo.with_suffix(""))
    (folder / "readme.txt").write_text("text")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX/0.png").write_text("text")
    done = run_script("predict.py", "runs/done", folder, "--json", cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list((workplace / "photos").iterdir()))
    assert done.stderr == f"notice: 1 file not used (not images): {folder}/readme.txt\n"
    done = run_script("predict.py", "runs/done", folder / "readme.txt", cwd=workplace)
    assert done.returncode == 2


def test_predict_reports_images_that_seem_dark(workplace, tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (28, 28), np.uint16)
    values[0, 0] = 4095
    Image.fromarray(values).save(tmp_path / "dark.png")
    Image.fromarray(values * 16).save(tmp_path / "bright.png")
    done = run_script("predict.py", "runs/done", tmp_path / "dark.png", tmp_path / "bright.png", cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        f"notice: {tmp_path}/dark.png has values up to 4,095, and 65,535 becomes white; if it has 12 bits, train with "
        "--data.max-value 4095, or convert it to 8 bits\n"
    )


def test_predict_names_a_folder_that_it_cannot_open(workplace, tmp_path, monkeypatch):
    folder = shutil.copytree(workplace / "photos", tmp_path / "photos")
    shutil.copytree(workplace / "photos", folder / "closed")
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    done = run_script("predict.py", "runs/done", folder, "--json", cwd=workplace)
    assert done.returncode == 1
    assert f"error: the folder {folder}/closed cannot be opened (Permission denied)" in done.stderr
    assert len(done.stdout.splitlines()) == len(list((workplace / "photos").iterdir()))
    done = run_script("predict.py", "runs/done", folder / "closed", cwd=workplace)
    assert done.returncode == 2


def test_export_takes_the_options_of_the_data_set(tmp_path):
    for name, size in (("cat", (30, 20)), ("dog", (16, 24))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 256, size, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    export = ["data.py", "export", "image_folder:photos", "out"]
    done = run_script(*export, cwd=tmp_path)
    assert (done.returncode, "give --data.size PIXELS" in done.stderr) == (2, True)
    done = run_script(*export, "--data.size", 12, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "notice: image_folder has no test images; 2 of 20 training images" in done.stderr
    assert done.stdout.splitlines() == ["out/00000-cat.png", "out/00001-dog.png"]
    with Image.open(tmp_path / "out/00000-cat.png") as image:
        assert image.size == (12, 12)


@pytest.mark.parametrize(
    "arguments", [["check", "nowhere", "--out", "out/deeper"], ["export", "nowhere", "out"], ["embed", "out"]]
)
def test_the_output_folder_is_checked_before_the_data_are_read(tmp_path, monkeypatch, arguments):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "out")
    done = run_script("data.py", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: the folder {tmp_path}/out is not writable; choose another output folder")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("")
    done = run_script("data.py", *arguments, cwd=tmp_path)
    assert done.stderr.startswith(f"error: {tmp_path}/out is a file, and the output needs a folder of that name")


def test_summary_prints_the_published_counts(workplace):
    done = run_script("summary.py", "lenet", cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert "61,706" in done.stdout
    assert "416,520" in done.stdout
    larger = run_script("summary.py", "lenet", "--input-size", 32, cwd=workplace)
    assert "576" in larger.stdout


def test_summary_draws_the_network(workplace):
    done = run_script("summary.py", "lenet", "--diagram", "lenet.svg", cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert "diagram: lenet.svg" in done.stdout
    assert "5×5 conv, 16" in (workplace / "lenet.svg").read_text(encoding="utf-8")


@pytest.mark.trains_long
def test_a_config_reproduces_its_run(workplace):
    repeated = run_script("train.py", "runs/done/config.json", "--out", "runs/again", cwd=workplace)
    assert repeated.returncode == 0, repeated.stderr
    assert same_parameters(*(load(workplace / "runs" / name).variables.params for name in ("done", "again")))


@pytest.mark.many_processes
def test_cached_and_fresh_programs_give_the_same_bits(workplace, programs):
    def train(name, **environment):
        done = call("train.py", "runs/done/config.json", "--out", f"runs/{name}", cwd=workplace, **environment)
        assert done.returncode == 0, done.stderr
        return load(workplace / "runs" / name).variables.params

    first = train("compiled")
    before = sorted(programs.iterdir())
    kept = train("kept")
    assert sorted(programs.iterdir()) == before  # all were cached
    assert same_parameters(first, kept)
    assert same_parameters(first, train("fresh", CNNJAX_CACHE="0"))


@pytest.mark.trains_long
def test_a_user_experiment_file(workplace, digits):
    (workplace / "mine.py").write_text(
        "from cnnjax import create\nfrom cnnjax.config import Data, Experiment, Train\n"
        "experiment = Experiment(model=create('mlp', activation='tanh'), "
        f"data=Data(source='mnist', dir={str(digits)!r}), train=Train(epochs=1))\n"
    )
    done = run_script("train.py", "mine.py", "--seed", 4, cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert (workplace / "runs" / "mine,seed=4" / "results.json").exists()


@pytest.mark.trains_long
def test_the_run_name_includes_a_changed_model(workplace, digits):
    done = run_script(
        "train.py", "lenet_mini", "--model", "mlp", "--model.activation", "tanh", "--data.source", "mnist",
        "--data.dir", digits, "--train.epochs", 1, cwd=workplace,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    name = "lenet_mini,data.source=mnist,model=mlp,model.activation=tanh,train.epochs=1"
    assert load(workplace / "runs" / name).arch == create("mlp", activation="tanh")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train.py", "--help"], ["lenet_mini", "lenet_fashion", "usage: python scripts/train.py EXPERIMENT"]),
        (
            ["train.py", "lenet_fashion", "--help"],
            [
                "--optimizer.lr FLOAT",
                "--model.activation",
                "(default: 0.001)",
                "--platform",
                "--train.epochs INT",
                "--profile",
                "--model",
            ],
        ),
        (["evaluate.py", "--help"], ["RUN", "--split"]),
        (["predict.py", "--help"], ["IMAGE", "--top INT"]),
        (["summary.py", "--help"], ["MODEL", "lenet, lenet_1998, mlp, plain18"]),
        (["data.py", "--help"], ["export", "embed"]),
        (["data.py", "list"], ["fashion_mnist_mini", "Ankle boot"]),
        (["data.py", "export", "--help"], ["--count INT"]),
    ],
)
def test_help(arguments, expected, tmp_path):
    done = run_script(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in expected:
        assert text.lower() in done.stdout.lower()
    assert list(tmp_path.iterdir()) == []


BAD = [
    (["train.py", "lenet_fashin"], "unknown experiment 'lenet_fashin'; did you mean 'lenet_fashion'"),
    (["train.py", "--seed", "3", "lenet_mini"], "the first argument is '--seed'; give the experiment first"),
    (["evaluate.py", "--split", "test", "runs/done"], "the first argument is '--split'; give the run folder first"),
    (["summary.py", "--input-size", "30", "lenet"], "the first argument is '--input-size'; give the model first"),
    (["train.py", "lenet_mini", "--data.dir", "nowhere"], "leave out --data.dir"),
    (["train.py", "lenet_mini", "--schedule.warmup", "9" * 400 + "ep"], "at most 2,147,483,647 steps"),
    (["train.py", "lenet_mini", "--train.epochs", "99999999999"], "train.epochs is 99999999999"),
    (["train.py", "leaves.py"], "leaves.py does not run: SystemExit"),
    (["train.py", "lines.py"], "lines.py does not run: ValueError: one two"),
    (["train.py", "class.py"], "model is <class 'int'>; it must be a definition, such as create('lenet')"),
    (["train.py", "foreign.py"], "create the model with create(...)"),
    (["evaluate.py", "runs/done", "--split", "validation", "--data.split-seed", "1"], "used a different split"),
    (["train.py", "lenet_fashion", "--data.dir", "nowhere"], "fashion_mnist was not found: none of nowhere"),
    (["train.py", "lenet_mini", "--model", "lenett"], "unknown model 'lenett'; did you mean 'lenet'"),
    (["train.py", "lenet_mini", "--model.activation", "rulu"], "unknown value 'rulu'; did you mean 'relu'"),
    (["train.py", "lenet_mini", "--optimizer.name", "adma"], "unknown value 'adma'; did you mean 'adam'"),
    (["train.py", "lenet_mini", "--optimizer.nme", "adam"], "did you mean --optimizer.name?"),
    (["train.py", "lenet_mini", "--optimizer.lr", "0"], "optimizer.lr is 0.0; it must be"),
    (["train.py", "lenet_mini", "--optimizer.lr", "fast"], "--optimizer.lr"),
    (["train.py", "lenet_mini", "--optimizer.lr", "9x" * 5000], "could not convert string to float"),
    (["train.py", "lenet_mini", *(f"a{n}" for n in range(2000))], "a8, a9 and 1,990 more (see scripts/train.py"),
    (["train.py", "x" * 30_000], "x...x"),
    (["train.py", "lenet_mini", "--early-stopping.patience", "-1"], "early_stopping.patience is -1; it must be"),
    (["train.py", "lenet_mini", "--train.batch-size", "9001"], "train.batch_size is 9001 and there are 9000"),
    (["train.py", "lenet_mini", "--data.validation", "1"], "data.validation is 1.0; it must be less than 1"),
    (["train.py", "lenet_mini", "--data.source", "fashion_mnst"], "unknown data source 'fashion_mnst'; did you mean"),
    (["train.py", "lenet_mini", "--model.input-size", "32"], "are 28x28x1 and the network expects 32x32x1"),
    (["train.py", "lenet_mini", "--schedule.name", "warmup_cosine", "--schedule.warmup", "30ep"], "it must be shorter"),
    (["train.py", "lenet_mini", "--seed"], "--seed"),
    (["train.py", "lenet_mini", "--platform", "cdua"], "unknown value 'cdua'; did you mean 'cuda'"),
    (["train.py", "lenet_mini", "--profile", "20:10"], "--profile is '20:10'; it must be two increasing steps"),
    (["train.py", "lenet_mini", "--profile=-1:5"], "--profile is '-1:5'; it must be two increasing steps"),
    (["train.py", "lenet_mini", "--profile", "5"], "--profile is '5'; it must be two increasing steps"),
    (["train.py", "lenet_mini", "--profile", "10:99999"], "--profile is 10:99999 and "),
    (["train.py", "runs/done", "--out", "runs/done", "--profile", "0:1"], "0 steps are left to train"),
    (["train.py", "lenet_mini", "--out", "text.png"], "text.png"),
    (["train.py", "lenet_mini", "--out", "runs/done"], "holds a run with another config: data.source was 'mnist'"),
    (["train.py", "lenet_mini", "--out", "photos"], "is not empty and holds no config.json"),
    (["train.py", "missing.py"], "there is no experiment file missing.py"),
    (["train.py", "broken.py"], "broken.py does not run: ZeroDivisionError"),
    (["train.py", "empty.py"], "empty.py defines no experiment"),
    (["train.py", "missing.json"], "there is no file missing.json"),
    (["evaluate.py", "runs/nowhere"], "runs/nowhere is not a run folder"),
    (["evaluate.py", "runs/done", "--split", "tets"], "unknown value 'tets'; did you mean 'test'"),
    (["evaluate.py", "runs/done", "--data.source", "fashion_mnist_mini"], "give data of the same classes"),
    (["predict.py", "runs/done", "text.png"], "text.png cannot be read as an image"),
    (["predict.py", "runs/done", "missing.png"], "there is no image file missing.png"),
    (["predict.py", "runs/done"], "no IMAGE is given"),
    (["predict.py", "runs/nowhere", "text.png"], "runs/nowhere is not a run folder"),
    (["predict.py", "runs/done", "text.png", "--top", "0"], "--top is 0; it must be 1 or more"),
    (["summary.py", "lenett"], "unknown model 'lenett'; did you mean 'lenet'"),
    (["summary.py", "lenet", "--input-size", "3"], "model.input_size is 3"),
    (["data.py", "exprt"], "unknown command 'exprt'; did you mean 'export'"),
    (["data.py", "export", "mnst", "out"], "unknown data source 'mnst'; did you mean 'mnist'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments)[:80] for arguments, _ in BAD])
def test_invalid_input_is_refused_with_exit_code_2(workplace, arguments, message, capfd):
    (workplace / "broken.py").write_text("1 / 0\n")
    (workplace / "empty.py").write_text("experiment = 3\n")
    (workplace / "leaves.py").write_text("raise SystemExit(0)\n")
    (workplace / "lines.py").write_text("raise ValueError('one\\ntwo')\n")
    made = "from cnnjax.config import Experiment, Train\nexperiment = Experiment(model={})\n"
    (workplace / "class.py").write_text(made.format("int"))
    (workplace / "foreign.py").write_text(made.format("Train()"))
    before = sorted(workplace.rglob("*"))
    ended = run_script(*arguments, cwd=workplace)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert message in ended.stderr
    assert len(ended.stderr) < 400
    assert capfd.readouterr().err == ""  # no library wrote past sys.stderr
    assert sorted(workplace.rglob("*")) == before


@pytest.mark.many_processes
def test_a_float64_network_is_trained_and_evaluated_in_float64(digits, tmp_path):
    options = ("lenet_mini", "--data.source", "mnist", "--data.dir", digits, "--model.dtype", "float64")
    refused = call("train.py", *options, "--out", "run", cwd=tmp_path, JAX_ENABLE_X64="0")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: model.dtype is 'float64' and JAX is limited to 32 bits; choose")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    done = call("train.py", *options, "--train.epochs", 1, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    saved, _ = checkpoint.newest_good(tmp_path / "run/checkpoints")
    assert all(leaf.startswith("float64") for leaf in saved.info["items"]["variables"].values())
    evaluated = call("evaluate.py", "run", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    loss = RunFolder(tmp_path / "run").read_results()["test"]["loss"]
    assert f"{loss:.4f}" in evaluated.stdout


@pytest.mark.many_processes
def test_a_missing_platform_is_refused_with_exit_code_2(tmp_path):
    done = call("train.py", "lenet_mini", "--platform", "tpu", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: --platform tpu is not available here")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_debug_prints_the_traceback(workplace):
    done = run_script("train.py", "lenet_mini", "--optimizer.lr", "0", "--debug", cwd=workplace)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: optimizer.lr is 0.0")


@pytest.fixture(params=["full disk", "broken pipe"])
def failing_output(request):
    """A file descriptor that cannot be written, and the system's error message."""
    if request.param == "full disk":
        output, reason = os.open("/dev/full", os.O_WRONLY), "No space left on device"
    else:
        (reader, output), reason = os.pipe(), "Broken pipe"
        os.close(reader)
    yield output, reason
    os.close(output)


def call_with_output(output, *arguments, cwd):
    return subprocess.run(
        command(*arguments), cwd=cwd, stdout=output, stderr=subprocess.PIPE, text=True, timeout=240,
        env={**os.environ, **AS_HERE, "PYTHONUNBUFFERED": ""},  # as for users: buffered output may fail only at the end
    )  # fmt: skip


@pytest.mark.many_processes
def test_training_continues_if_its_output_fails(workplace, failing_output, tmp_path):
    output, reason = failing_output
    done = call_with_output(output, "train.py", workplace / "runs" / "done", "--out", tmp_path / "run", cwd=workplace)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: training finished, but some of its output could not be written ({reason}")
    assert done.stderr.count("\n") == 1
    assert figures(tmp_path / "run") == figures(workplace / "runs" / "done")
    assert RunFolder(tmp_path / "run").finished


def call_without(stream, *arguments, cwd, **environment):
    """Call a script whose standard output (1) or error (2) is closed."""
    started = ["sh", "-c", f'exec "$@" {stream}>&-', "sh", *command(*arguments)]
    return subprocess.run(
        started, cwd=cwd, capture_output=True, text=True, timeout=240, env={**os.environ, **AS_HERE, **environment}
    )  # fmt: skip


@pytest.mark.many_processes
@pytest.mark.parametrize("restarted", [True, False])
def test_training_continues_without_standard_output_and_no_file_takes_its_descriptor(
    restarted, workplace, digits, tmp_path
):  # fmt: skip
    environment = {"GLIBC_TUNABLES": ""} if restarted else {}
    done = call_without(
        1, "train.py", "lenet_mini", "--data.source", "mnist", "--data.dir", digits, "--train.epochs", 2,
        "--out", "run", cwd=tmp_path, **environment,
    )  # fmt: skip
    message = "error: training finished, but some of its output could not be written (Bad file descriptor)"
    assert (done.returncode, done.stdout, done.stderr[: len(message)]) == (1, "", message)
    assert figures(tmp_path / "run") == figures(workplace / "runs" / "done")
    assert RunFolder(tmp_path / "run").finished


def test_without_standard_error_the_exit_code_reports_the_error(tmp_path):
    done = call_without(2, "train.py", "lenet_mini", "--train.epochs", 0, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.parametrize(
    "arguments",
    mostly_slow(
        [["data.py", "list"], ["train.py", "--help"], ["train.py", "lenet_mini", "--help"]],
        1,
        pytest.mark.many_processes,
    ),
)
def test_a_short_script_whose_output_fails_prints_no_traceback(arguments, failing_output, tmp_path):
    output, reason = failing_output
    done = call_with_output(output, *arguments, cwd=tmp_path)
    message = (
        "" if reason == "Broken pipe" else f"error: {reason}; check the path, its permissions and the space left\n"
    )
    assert (done.returncode, done.stderr) == (2 if message else 0, message)


def test_divergence_has_exit_code_3_and_reports_step_and_learning_rate(workplace, digits):
    done = run_script(
        "train.py", "mlp_fashion", "--data.source", "mnist", "--data.dir", digits, "--optimizer.name", "sgd",
        "--optimizer.lr", "1e30", "--train.batch-size", 32, "--out", "runs/wild", cwd=workplace,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "not finite at step" in done.stderr
    assert "learning rate 1e+30" in done.stderr
    assert done.stderr.count("\n") == 1


# Killing -------------------------------------------------------------------------------------------------------------

EPOCHS = 8
LONG = (
    "lenet_mini", "--train.epochs", EPOCHS, "--train.batch-size", 16, "--train.ema-decay", 0.9,
    "--data.source", "mnist",
)  # fmt: skip


def figures(folder):
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "images_per_second")}
        for row in RunFolder(folder).read_metrics()
    ]


def newest_state(folder):
    """Return the newest checkpoint's step, its info without timings, and every array, including optimizer state."""
    saved, _ = checkpoint.newest_good(folder / "checkpoints")
    _, experiment = read_config(folder / "config.json")
    state = read_state(saved, experiment, make_hyperparameters(experiment, 100))
    info = {name: value for name, value in saved.info.items() if name != "metrics"}
    return saved.step, info, [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def lines(folder) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.many_processes
def test_a_run_killed_at_random_steps_and_restarted_ends_with_the_same_bits(tmp_path):
    digits = write_digits(tmp_path / "digits", train=3000)
    arguments = ("train.py", *LONG, "--data.dir", digits, "--early-stopping.patience", "None")
    assert call(*arguments, "--out", "whole", cwd=tmp_path).returncode == 0
    rng = random.Random(os.getpid())
    kills = 0
    for epochs in (0, 2, 5):  # kill at a random moment after that many epochs
        process = subprocess.Popen(command(*arguments, "--out", "killed"), cwd=tmp_path, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while lines(tmp_path / "killed") < epochs and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        delay = rng.uniform(0, 0.4) if epochs else rng.uniform(0.5, 2.5)
        print(f"killed {delay:.3f} s after {epochs} epochs")  # shown if the test fails
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 2  # a fast machine may finish before the last kill
    done = call(*arguments, "--out", "killed", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resuming after epoch" in done.stdout or kills < 3
    assert figures(tmp_path / "whole") == figures(tmp_path / "killed")
    assert [row["epoch"] for row in figures(tmp_path / "killed")] == list(range(1, EPOCHS + 1))
    (step, info, arrays), (step_killed, info_killed, arrays_killed) = map(
        newest_state, (tmp_path / "whole", tmp_path / "killed")
    )
    assert (step, info) == (step_killed, info_killed)
    # 10 parameters with two adam moments and an average each, three counts, the step, and five epoch sums
    assert len(arrays) == len(arrays_killed) == 48
    assert all(np.array_equal(a, b) for a, b in zip(arrays, arrays_killed, strict=True))
    assert same_parameters(*(load(tmp_path / name).variables.params for name in ("whole", "killed")))


@pytest.mark.parametrize(
    "signal_number",
    [pytest.param(number, marks=pytest.mark.many_processes) for number in SIGNALS],
)
def test_an_interrupt_prints_the_resume_command_with_exit_code_1(tmp_path, signal_number):
    digits = write_digits(tmp_path / "digits", train=1000)
    arguments = ("train.py", *LONG, "--train.epochs", 5000, "--data.dir", digits, "--early-stopping.patience", "None")
    started = command(*arguments, "--out", "the run")
    process = subprocess.Popen(
        started, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **AS_HERE}
    )
    try:
        while lines(tmp_path / "the run") < 1:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal_number)
        output, message = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert message.startswith("error: interrupted; to resume: ")
    assert shlex.split(message.partition("to resume: ")[2]) == ["cd", str(tmp_path), "&&", *started]
    saved = int(re.search(r"^saved step (\d+), within epoch", output, re.MULTILINE)[1])
    assert checkpoint.newest_step(tmp_path / "the run" / "checkpoints") == saved


@pytest.mark.many_processes
def test_an_interrupt_before_the_first_epoch_exits_cleanly(tmp_path):
    process = subprocess.Popen(
        command("train.py", "lenet_mini", "--train.epochs", 2, "--out", "run"),
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while not (tmp_path / "run" / "environment.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.5)  # until the compilation has started
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert message.count("\n") == 1
    assert message.startswith("error: interrupted")


@pytest.mark.many_processes
def test_a_second_process_in_the_same_folder_is_refused(workplace):
    folder = RunFolder(workplace / "runs" / "done")
    with folder.locked():
        done = call("train.py", "runs/done", "--out", "runs/done", cwd=workplace, **AS_HERE)
    assert done.returncode == 2, done.stderr
    holder = f"pid {os.getpid()} on host {socket.gethostname()}"
    assert (
        done.stderr
        == f"error: another process ({holder}) is training in runs/done; wait for it, or choose another --out\n"
    )
    assert run_script("train.py", "runs/done", "--out", "runs/done", cwd=workplace).returncode == 0


@pytest.mark.many_processes
@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_text_that_the_terminal_cannot_encode_is_escaped(workplace, digits, tmp_path, environment):
    folder = tmp_path / "café"
    folder.mkdir()
    done = call("train.py", folder / "absent.py", cwd=workplace, **environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no experiment file")
    done = call("evaluate.py", folder, cwd=workplace, **environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.many_processes
def test_a_user_without_a_writable_home_gets_no_warning(workplace):
    photo = next((workplace / "photos").iterdir())
    homeless = {"HOME": "/dev/null", "XDG_CACHE_HOME": "", "XDG_CONFIG_HOME": "", "MPLCONFIGDIR": ""}
    done = call("predict.py", "runs/done", photo, cwd=workplace, **homeless)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.many_processes
def test_paths_that_are_not_utf8_are_used(tmp_path):
    """A folder, an image and a text file whose names are not UTF-8, in every script that reads images."""
    photos = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 2)):
        for name in ("cat", "dog"):
            (photos / part / name).mkdir(parents=True)
            for number in range(count):
                file = os.fsdecode(f"{number}".encode() + b"\xe9.png")
                Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(photos / part / name / file)
    (photos / "train/dog" / os.fsdecode(b"\xe9.txt")).write_text("a note")
    options = ["--model", "mlp", "--model.num-classes", 2, "--train.epochs", 1, "--train.batch-size", 4]
    source = ["--data.source", "image_folder", "--data.dir", photos, "--data.validation", 0.25]
    done = call("train.py", "lenet_mini", *options, *source, "--out", tmp_path / "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run/report.html").exists()
    done = call("train.py", "lenet_mini", *options, *source, "--out", tmp_path / "run", cwd=tmp_path)
    assert "is already finished" in done.stdout
    done = call("evaluate.py", tmp_path / "run", "--split", "validation", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "image_folder, validation: 4 images" in done.stdout
    done = call("predict.py", tmp_path / "run", photos / "test", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(Path(json.loads(line)["file"]).is_file() for line in done.stdout.splitlines())
    (photos / "test/cat" / os.fsdecode(b"\xff.png")).write_bytes(b"damaged")
    for part in ("train", "test"):
        (photos / part / "dog").rename(photos / part / os.fsdecode(b"\xe9$\\frac"))
    done = call("data.py", "check", f"image_folder:{photos}", "--out", tmp_path / "check", cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "1 damaged file" in (tmp_path / "check/data.html").read_text()


@pytest.mark.many_processes
def test_a_folder_name_that_is_not_utf8_prints_no_traceback(workplace, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    done = call("train.py", "lenet_mini", "--out", folder, "--train.epochs", "1", cwd=workplace)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 2)
    done = call(
        "train.py", "lenet_mini", "--data.source", "image_folder", "--data.dir", folder, "--out", tmp_path / "run",
        cwd=workplace,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
