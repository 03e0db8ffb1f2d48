"""Older formats open; newer formats are refused with the version they need."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cnnjax import checkpoint, data
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables, leaves_by_path
from cnnjax.runs import launch, predictor
from cnnjax.runs.folder import RunFolder, read_config
from cnnjax.system import formats
from cnnjax.training.classification import classification_report

GOLDEN = Path(__file__).parent / "golden"
RECORDED = GOLDEN / "run_format_1"
RUNS = {"run_format_1": 2, "run_format_1_adam": 1, "run_format_1_resnet": 1}
"""Runs of format 1 and the number of their complete epochs: LeNet with SGD, killed after an epoch; LeNet with adam and
warmup_cosine, and ResNet-20 with momentum and a step schedule, interrupted within an epoch. ``continued.npz`` holds the
final variables of the code that recorded them (CNNJAX_NATIVE=0)."""


def copy_run(name, folder):
    """Copy a recorded run and the data that all recorded runs share."""
    shutil.copytree(GOLDEN / name, folder, dirs_exist_ok=True)
    shutil.copytree(RECORDED / "data", folder / "data", dirs_exist_ok=True)
    return folder / "run"


@pytest.fixture
def recorded(tmp_path):
    """A run of format 1 that was killed after two of three epochs."""
    return copy_run("run_format_1", tmp_path)


def experiment_of(run):
    name, experiment = read_config(run / "config.json")
    return name, experiment.replace(data=experiment.data.replace(dir=str(run.parent / "data")))


def test_a_run_of_format_1_evaluates_to_its_recorded_metrics(recorded):
    _, experiment = experiment_of(recorded)
    recorded_row = RunFolder(recorded).read_metrics()[1]
    network, validation = predictor.load(recorded), data.load(experiment.data).validation
    report = classification_report(network.logits(validation.images), validation.labels)
    assert report.loss == pytest.approx(recorded_row["validation_loss"], rel=1e-5)
    assert report.top1 == recorded_row["validation_top1"]


@pytest.mark.trains_long
@pytest.mark.parametrize(("recording", "epochs"), RUNS.items())
def test_a_run_of_format_1_resumes_to_the_parameters_of_the_old_code(recording, epochs, tmp_path):
    run = copy_run(recording, tmp_path)
    name, experiment = experiment_of(run)
    before = RunFolder(run).read_metrics()
    results = launch.run(launch.Launch(name, experiment, run), Console())
    rows = RunFolder(run).read_metrics()
    assert rows[:epochs] == before
    assert results["epochs"] == len(rows) == 3
    assert rows[2]["train_loss"] < rows[1]["train_loss"]
    last = checkpoint.open_checkpoint(checkpoint.list_paths(run / "checkpoints")[-1])
    variables = checkpoint.restore(last, "variables", abstract_variables(experiment.model)._asdict())
    with np.load(tmp_path / "continued.npz") as expected:
        for path, leaf in leaves_by_path(variables).items():
            np.testing.assert_allclose(leaf, expected[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_a_run_of_format_1_without_metrics_is_refused(recorded):
    name, experiment = experiment_of(recorded)
    (recorded / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"metrics.jsonl is damaged after epoch 0, and 2 epochs were saved"):
        launch.run(launch.Launch(name, experiment, recorded), Console())


def test_a_newer_run_folder_is_refused_with_the_version_it_needs(recorded):
    config = json.loads((recorded / "config.json").read_text()) | {"format": 3, "cnnjax": "3.4.5"}
    (recorded / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"has format 3, newer than 2; it needs cnnjax 3\.4\.5 or newer, and this is"):
        read_config(recorded / "config.json")


@pytest.mark.parametrize("version", [None, "1", 0, -1, True, 1.5])
def test_an_invalid_format_is_refused(version):
    with pytest.raises(UserError, match="it must be 1 or more"):
        formats.check("it", {"format": version}, known=1)


def test_files_record_the_version_that_wrote_them():
    formats.check("it", formats.written(1), known=1)
    assert formats.written(1) == {"format": 1, "cnnjax": formats.__version__}
