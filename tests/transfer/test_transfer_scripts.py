"""Transfer learning from the command line: train, resume, predict, probe, and bad input."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import Preprocessing
from cnnjax.functional import leaves_by_path
from cnnjax.runs.folder import RunFolder, read_config
from cnnjax.runs.predictor import load
from tests.script import SCRIPTS, run_script
from tests.transfer.trained import BODY, write_run

TINY = BODY.replace(channels=3, input_size=12)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a trained network, photos of two classes in different colors, and photos of one class."""
    folder = tmp_path_factory.mktemp("place")
    write_run(folder / "runs" / "origin", TINY, Preprocessing(height=12, width=12, mean=(0.5,) * 3, std=(0.3,) * 3))
    rng = np.random.default_rng(0)
    for data, names in (("photos", ("cat", "dog")), ("one", ("cat",))):
        for part, count in (("train", 20), ("test", 6)):
            for number, name in enumerate(names):
                (folder / data / part / name).mkdir(parents=True)
                for index in range(count):
                    pixels = rng.integers(0, 120, (15, 17, 3), np.uint8)
                    pixels[..., 2 * number] += 100  # cats are red, dogs blue
                    Image.fromarray(pixels).save(folder / data / part / name / f"{index}.png")
    return folder


def finetune(place, *options, data="photos"):
    arguments = (
        "--init",
        "run:runs/origin",
        "--data.source",
        f"image_folder:{data}",
        "--train.batch-size",
        4,
        *options,
    )
    return run_script("train.py", "finetune", *arguments, cwd=place)


@pytest.mark.trains_long
def test_finetune_chooses_phases_and_predicts_the_new_classes(place):
    done = finetune(place, "--train.eval-batch-size", 12)
    assert done.returncode == 0, done.stderr
    assert "36 training images in 2 classes, about 18 a class: fewer than 50 would overfit" in done.stdout
    assert "phase 1 of 1, head: 34 parameters are trained" in done.stdout
    (run,) = (place / "runs").glob("finetune*")
    _, experiment = read_config(run / "config.json")
    assert experiment.model == TINY.replace(num_classes=2)
    assert [phase.train for phase in experiment.phases] == ["head"]
    results = RunFolder(run).read_results()
    assert results["test"]["top1"] > 0.9
    page = (run / "report.html").read_text()
    assert "Embeddings of test images" in page
    assert "Grad-CAM of test images" in page
    for expected in ("<h2>Phases</h2>", results["phases"][0]["frozen"]["sha256_before"], "--init run:/"):
        assert expected in page
    again = finetune(place, "--train.eval-batch-size", 12)
    assert "is already finished" in again.stdout
    predicted = run_script("predict.py", run, place / "photos" / "test" / "dog" / "0.png", "--json", cwd=place)
    assert json.loads(predicted.stdout)["classes"][0]["class"] == "dog"
    summary = run_script("summary.py", run, cwd=place)
    assert "classes: cat, dog" in summary.stdout
    assert "[0.5, 0.5, 0.5]) / [0.3, 0.3, 0.3]" in summary.stdout


@pytest.mark.compiles_large
def test_probe_prints_a_table_or_json(place):
    arguments = ("runs/origin", "--data.source", "image_folder:photos", "--shots", 2, "--seeds", 2)
    table = run_script("probe.py", *arguments, cwd=place)
    assert table.returncode == 0, table.stderr
    assert "images per class" in table.stdout
    assert " ± " in table.stdout
    lines = run_script("probe.py", *arguments, "--json", cwd=place)
    two, every = map(json.loads, lines.stdout.splitlines())
    assert (two["per_class"], every["per_class"]) == (2, None)
    assert every["linear"][0] > 0.9
    refused = run_script("probe.py", *arguments, "--shots", 50, cwd=place)
    assert refused.returncode == 2
    assert "--shots is 50 and the smallest class has 20 images; it must be 1 to 20" in refused.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--phases.0.epochs", 0), "phase.epochs is 0; it must be 1 or more"),
        (
            ("--phases.0.train", "stages:9"),
            "the network has 3 stages (stem, stage1, stage2); give stages:1 to stages:3",
        ),
        (("--phases.0.train", "body"), "phase.train is 'body'; it must be head, stages:N"),
        (("--phases", 4), "--phases is '4' and the experiment has 1 phases; give a number from 0 to 1"),
        (("--phases.0.train", "head", "--model.num-classes", 3), "has 2 classes and the network has 3"),
        (
            ("--phases.0.train", "head", "--train.freeze", "head"),
            "leaves no parameter to train",
        ),
        (("--phases.0.train", "head", "--model.input-size", 16, "--data.size", 12), "data.size is 12 and the network"),
        (("--data.per-class", 21), "data.per_class is 21 and image_folder has 20 training images of 'cat'"),
        (("--train.batch-size", 40), "train.batch_size is 40 and there are 36 training images"),
        (("--profile", "1:2", "--phases.0.train", "head"), "--profile is given for an experiment with phases"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(place, options, message):
    before = sorted((place / "runs").iterdir())
    ended = finetune(place, *options)
    assert ended.returncode == 2, ended.stdout
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert sorted((place / "runs").iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--init", "run:nowhere"), "init is 'run:nowhere', which holds no run"),
        (("--init", "nothing"), "unknown pretrained network 'nothing'"),
        ((), "freezes untrained layers; give trained parameters with --init"),
    ],
)
def test_origins_that_do_not_exist_are_refused(place, arguments, message):
    data = ("--data.source", "image_folder:photos", "--data.size", 12, "--model.input-size", 12)
    ended = run_script("train.py", "finetune", *arguments, *data, cwd=place)
    assert ended.returncode == 2
    assert message in ended.stderr


def test_one_class_is_refused(place):
    ended = finetune(place, data="one")
    assert ended.returncode == 2
    assert "image_folder has only the class cat; a classifier needs two classes or more" in ended.stderr


PHASED = """
from cnnjax import create
from cnnjax.config import Data, Experiment, Phase, Train

experiment = Experiment(
    model=create("resnet20_cifar", depths=(1, 1), width=8, input_size=12, num_classes=2),
    data=Data(source="image_folder", dir="photos"),
    train=Train(batch_size=4, eval_batch_size=12),
    phases=(
        Phase(train="head", epochs=3),
        Phase(train="stages:1", epochs=3, lr=1e-4),
        Phase(train="all", epochs=3, lr=1e-5, layer_decay=0.7, norms="train"),
    ),
)
"""
MOMENTS = ("cache/embeddings/*.embeddings", *(f"runs/killed/phases/{n}-*/checkpoints/step-*" for n in (1, 2, 3)))
"""Files whose appearance tells where a run is: its first embeddings, and the first checkpoint of each phase."""


def start_training(place, name, cache):
    script = [sys.executable, str(SCRIPTS / "train.py"), "phased.py", "--init", "run:runs/origin"]
    return subprocess.Popen(
        [*script, "--out", f"runs/{name}"], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "CNNJAX_CACHE": str(place / cache)},
    )  # fmt: skip


@pytest.mark.many_processes
def test_a_run_killed_while_caching_and_in_each_phase_resumes_to_the_same_bits(place):
    (place / "phased.py").write_text(PHASED)
    whole = start_training(place, "whole", "another_cache")
    assert whole.wait() == 0, whole.communicate()[1]
    whole.communicate()
    kills = 0
    for moment in MOMENTS:
        process = start_training(place, "killed", "cache")
        while process.poll() is None and not list(place.glob(moment)):
            time.sleep(0.002)
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 3  # the machine may be too fast for one of them
    last = start_training(place, "killed", "cache")
    assert last.wait() == 0, last.communicate()[1]
    last.communicate()
    a, b = (leaves_by_path(load(place / "runs" / name).variables._asdict()) for name in ("whole", "killed"))
    assert all(np.array_equal(a[path], b[path]) for path in a)
    proofs = [
        [phase["frozen"] for phase in RunFolder(place / "runs" / name).read_results()["phases"]]
        for name in ("whole", "killed")
    ]
    assert proofs[0] == proofs[1]
