"""`cnnjax.train` and `cnnjax.load`, also with a network, loss and data set from an experiment file."""

import json
import shutil
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import without_figures
from PIL import Image
from rich.console import Console
from script import run_script

import cnnjax
from cnnjax.cli import load_experiment
from cnnjax.config import Data
from cnnjax.errors import UserError
from cnnjax.runs.definitions import COPY

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.new("RGB", (40, 60), "white").save(path)
    return path


@pytest.fixture
def short(experiment):
    return experiment.replace(train=experiment.train.replace(epochs=1))


@pytest.fixture(scope="module")
def plain(experiment, tmp_path_factory):
    """A finished run of one epoch."""
    short = experiment.replace(train=experiment.train.replace(epochs=1))
    with without_figures():
        return cnnjax.train(short, tmp_path_factory.mktemp("plain") / "run", console=QUIET)


def test_a_run_predicts_evaluates_and_has_metrics(plain, short, photo):
    run = plain
    report = run.evaluate("test")
    assert report.top1 == pytest.approx(run.results["test"]["top1"])
    assert report.loss == pytest.approx(run.results["test"]["loss"], rel=1e-5)
    assert [row["epoch"] for row in run.metrics] == [1]
    (answers,) = run.predict([photo], top=2)
    images = run.dataset().test.images[:2]
    assert run.predict(images, top=2) == run.predict([Image.fromarray(image[..., 0]) for image in images], top=2)
    loaded = cnnjax.load(run.path)
    assert loaded.predict([str(photo)], top=2) == [answers]
    assert loaded.evaluate("validation").images == 80
    assert loaded.evaluate(data=Data(source="mnist", dir=short.data.dir)).images == 130
    assert json.loads((run.path / "config.json").read_text())["name"] == "run"
    assert not (run.path / COPY).exists()


def test_invalid_calls_are_refused(plain, photo):
    run = plain
    with pytest.raises(UserError, match="no image is given; give one or more files, Pillow images or arrays"):
        run.predict([])
    with pytest.raises(UserError, match="top is 0; it must be 1 or more"):
        run.predict([photo], top=0)
    with pytest.raises(UserError, match="nowhere is not a run folder"):
        cnnjax.load("nowhere")
    with pytest.raises(UserError, match="holds no experiment.py to trust"):
        cnnjax.load(run.path, trust_code=True)


OWN = '''
"""An experiment with its own network, loss and data set."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from cnnjax.config import Data, Experiment, Train
from cnnjax.data import Loaded, SourceEntry, Split
from cnnjax.losses import Loss
from cnnjax.models.layers import Arch, Dense, Network, Outputs

print("the code has run")


class Linear(Arch):
    family: ClassVar[str] = "linear"

    def build(self, rngs):
        return LinearNetwork(self, rngs)


class LinearNetwork(Network):
    def __init__(self, arch, rngs):
        self.head = Dense(arch.input_size**2 * arch.channels, arch.num_classes, dtype=arch.dtype, rngs=rngs)

    def features(self, images, rngs=None):
        return {"pixels": images}

    def classify(self, features, rngs=None):
        return Outputs(self.head(features["pixels"].reshape(len(features["pixels"]), -1)))


class Squared(Loss):
    kind: ClassVar[str] = "squared"
    scale: float = 1.0

    def __call__(self, outputs, batch, hyperparameters):
        error = outputs.logits - batch.soft_targets(outputs.logits.shape[-1], outputs.logits.dtype)
        return jnp.float32(self.scale) * (error**2).mean(axis=1)


def stripes(folder):
    images = np.zeros((60, 8, 8, 1), np.uint8)
    labels = np.arange(60, dtype=np.int32) % 3
    for image, label in zip(images, labels):
        image[:, label::3] = 200
    return Loaded({"train": Split(images, labels), "test": Split(images, labels)}, ("a", "b", "c"), (0.3,), (0.4,))


SOURCES = {"stripes": SourceEntry(stripes)}
experiment = Experiment(
    model=Linear(num_classes=3, input_size=8, channels=1), loss=Squared(scale=2.0),
    data=Data(source="stripes", validation=0.2), train=Train(epochs=2, batch_size=8),
)
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """An experiment file that defines its own network, loss and data set, and its run."""
    folder = tmp_path_factory.mktemp("own")
    file = folder / "mine.py"
    file.write_text(textwrap.dedent(OWN))
    name, experiment, definitions = load_experiment(str(file))
    with without_figures():
        cnnjax.train(experiment, folder / "run", name=name, definitions=definitions, console=QUIET)
    return file, folder / "run"


def test_an_experiment_file_may_define_network_loss_and_data(own):
    file, run = own
    config = json.loads((run / "config.json").read_text())["experiment"]
    assert config["model"]["family"] == "linear"
    assert config["loss"] == {"kind": "squared", "scale": 2.0}
    assert (run / COPY).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("options", [{"code": True}, {"trust_code": True}])
def test_the_run_opens_if_the_code_is_named_or_trusted(own, options, photo, capsys):
    file, run = own
    loaded = cnnjax.load(run, **{"code": file} if "code" in options else options)
    assert loaded.evaluate("test").images == 60
    assert len(loaded.predict([photo])[0]) == 3
    assert "the code has run" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["evaluate.py", "summary.py"])
def test_a_script_executes_trusted_code_once(own, script):
    _, run = own
    refused = run_script(script, run)
    assert refused.returncode == 2
    assert refused.stderr.endswith("give your copy of that file with --code, or run it with --trust-code\n")
    ended = run_script(script, run, "--trust-code")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("the code has run") == 1


def test_code_in_a_run_folder_is_not_executed_by_default(own, capsys):
    _, run = own
    for use in (lambda: cnnjax.load(run), lambda: load_experiment(str(run))):
        with pytest.raises(UserError, match="unknown model family 'linear'; .* --code, or run it with --trust"):
            use()
    assert "the code has run" not in capsys.readouterr().out


@pytest.mark.trains_long
def test_a_run_resumes_from_its_folder_with_trusted_code(own, tmp_path):
    _, run = own
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "results.json").unlink()
    shutil.rmtree(sorted((copy / "checkpoints").glob("step-*"))[-1])
    name, experiment, definitions = load_experiment(str(copy), trust_code=True)
    resumed = cnnjax.train(experiment, copy, name=name, definitions=definitions, console=QUIET)
    first, second = (cnnjax.load(path, trust_code=True).network.variables for path in (run, copy))
    assert np.array_equal(first.params["head"]["kernel"], second.params["head"]["kernel"])
    assert [row["epoch"] for row in resumed.metrics] == [1, 2]


def test_a_changed_experiment_file_is_reported(own, tmp_path):
    file, run = own
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    changed = tmp_path / "mine.py"
    changed.write_text(file.read_text() + "\n# another line\n")
    name, experiment, definitions = load_experiment(str(changed))
    console = Console(record=True, quiet=False, width=200)
    cnnjax.train(experiment, copy, name=name, definitions=definitions, console=console)
    assert "experiment.py differs from the experiment file in use" in console.export_text()
    assert (copy / COPY).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('SOURCES = {"mnist": SourceEntry(stripes)}', "defines the data source 'mnist', which cnnjax already has"),
        ("SOURCES = [1]", "SOURCES must be a dictionary of SourceEntry by name"),
        ('Linear.family = "lenet"', "defines the family 'lenet', which cnnjax already has"),
        ('Squared.kind = "cross_entropy"', "defines the loss 'cross_entropy', which cnnjax already has"),
        ("del Squared", "is not defined in this file with a"),
    ],
)
def test_invalid_definitions_are_refused(tmp_path, line, message):
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(OWN) + f"\n{line}\n")
    with pytest.raises(UserError, match=message):
        load_experiment(str(file))


def test_code_options_are_refused_for_experiments():
    with pytest.raises(UserError, match="--code and --trust-code apply to run folders, and lenet_mini is not one"):
        load_experiment("lenet_mini", trust_code=True)


@pytest.mark.trains_long
def test_custom_classes_train_from_python_without_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(OWN))
    _, experiment, definitions = load_experiment(str(file))
    only_data = cnnjax.runs.definitions.BUILT_IN._replace(sources=definitions.sources)
    run = cnnjax.train(experiment, tmp_path / "run", definitions=only_data, console=QUIET)
    assert run.evaluate().images == 60
