import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SilentProgress, fit_run

import cnnjax
from cnnjax import checkpoint, create, data
from cnnjax.data import normalize
from cnnjax.errors import UserError
from cnnjax.functional import Variables, abstract_variables, leaves_by_path
from cnnjax.runs import averaging, predictor
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.saving import description
from cnnjax.training.loop import training_order
from tests.script import run_script


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    """A run that keeps three epochs, with moving averages."""
    train = experiment.train.replace(keep=3, ema_decay=0.9)
    experiment = experiment.replace(model=create("mlp"), train=train)
    folder = RunFolder(tmp_path_factory.mktemp("averaged") / "run")
    folder.start("run", experiment)
    fit_run(experiment, folder, SilentProgress())
    return folder.path


def stored(run, name, arch):
    saved = checkpoint.open_checkpoint(run / "checkpoints" / name)
    return Variables(**checkpoint.restore(saved, "variables", abstract_variables(arch)._asdict()))


def test_the_parameters_are_the_mean_of_those_of_the_checkpoints(run, tmp_path):
    out = tmp_path / "out"
    done = run_script("average.py", run, "--epochs", 1, 3, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}: the mean of epochs 1, 3 of {run}\n"
    loaded = cnnjax.load(out)
    parts = [
        leaves_by_path(stored(run, name, loaded.network.arch).params) for name in ("step-00000010", "step-00000030")
    ]
    for path, leaf in leaves_by_path(loaded.network.variables.params).items():
        expected = np.mean([np.asarray(part[path], np.float64) for part in parts], 0).astype(np.float32)
        np.testing.assert_array_equal(leaf, expected)
    record = checkpoint.best(out / "checkpoints").info["averaged"]
    assert record == {
        "run": str(run),
        "epochs": [1, 3],
        "parameters": "moving averages of the parameters",
        "statistics": None,
    }
    assert loaded.evaluate("test").images == 130
    raw = run_script("average.py", run, "--last", 2, "--out", tmp_path / "raw", "--parameters", "raw")
    assert raw.returncode == 0, raw.stderr
    assert checkpoint.best(tmp_path / "raw" / "checkpoints").info["averaged"]["parameters"] == "raw parameters"
    assert predictor.load(tmp_path / "raw", parameters="raw").averaged is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--last", 4], "keeps 3 checkpoints (epochs 1, 2, 3), not the last 4; give others, or train with a larger"),
        (["--epochs", 1, 7], "keeps 3 checkpoints (epochs 1, 2, 3), not epoch 7"),
        (["--last", 1], "--last is 1; it must be 2 or more"),
        (["--epochs", 2, 2], "the number of epochs to average is 1; it must be 2 or more"),
        ([], "give either --last N or --epochs with the epochs to average"),
        (["--last", 2, "--out", "."], "exists and is not an empty folder"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(run, tmp_path, options, message):
    (tmp_path / "file").touch()
    done = run_script("average.py", run, *options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert not run.with_name("run-average").exists()


@pytest.fixture(scope="module")
def normed(experiment):
    """A network with batch norms, and a mean of two of its states."""
    arch = create("resnet20_cifar", depths=(1,), width=8, channels=1, input_size=28, num_classes=10)
    experiment = experiment.replace(model=arch, train=experiment.train.replace(batch_size=100))
    variables = cnnjax.init(arch, jax.random.key(0))
    return averaging.Average(None, "a", experiment, arch, variables, (), None)


def test_statistics_are_recomputed_over_the_training_images(normed):
    dataset = data.load(normed.experiment.data)
    stats = leaves_by_path(averaging.recomputed_statistics(normed, dataset))
    # The first norm sees the first convolution of the images.
    order = training_order(normed.experiment, dataset.train.labels, 0)
    params, means, variances = normed.variables.params, [], []
    [kernel] = [leaf for path, leaf in leaves_by_path(params).items() if path.startswith("stem") and leaf.ndim == 4]
    for start in range(0, 300, 100):  # 320 images: three whole batches
        pixels = normalize(dataset.preprocessing, dataset.train.read(order[start : start + 100]), "float32")
        x = jax.lax.conv_general_dilated(
            pixels, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )  # fmt: skip
        means.append(jnp.mean(x, (0, 1, 2)))
        variances.append(jnp.var(x, (0, 1, 2)))
    mean, var = (next(v for k, v in stats.items() if k.startswith("stem") and k.endswith(n)) for n in ("mean", "var"))
    np.testing.assert_allclose(mean, np.mean(means, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(var, np.mean(variances, 0), rtol=1e-4, atol=1e-5)


def test_frozen_modules_keep_their_statistics(normed):
    frozen = normed._replace(experiment=normed.experiment.replace(train=normed.experiment.train.replace(freeze=("*",))))
    dataset = data.load(normed.experiment.data)
    before = leaves_by_path(normed.variables.batch_stats)
    for path, leaf in leaves_by_path(averaging.recomputed_statistics(frozen, dataset)).items():
        np.testing.assert_array_equal(leaf, before[path])


def test_a_network_without_momentum_is_refused(normed):
    with pytest.raises(UserError, match="has no option momentum.*--statistics averaged"):
        averaging.recomputed_statistics(normed._replace(arch=create("mlp")), None)


def test_a_folder_without_config_is_refused(run, tmp_path):
    shutil.copytree(run / "checkpoints", tmp_path / "run" / "checkpoints")
    done = run_script("average.py", tmp_path / "run", "--last", 2)
    assert done.returncode == 2
    assert "holds no config.json of a run" in done.stderr


def test_without_the_training_images_the_statistics_are_averaged(normed, tmp_path):
    folder, dataset = RunFolder(tmp_path / "run"), data.load(normed.experiment.data)
    folder.start("run", normed.experiment)
    rng, states = np.random.default_rng(0), []
    for epoch in (1, 2):
        states.append(jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape, np.float32)), normed.variables))
        info = {"epoch": epoch, **description(normed.experiment, dataset)}
        checkpoint.save(folder.checkpoints, epoch, {"variables": states[-1]._asdict()}, info)
    arguments = ("average.py", folder.path, "--last", 2, "--data-dir", tmp_path / "nowhere")
    refused = run_script(*arguments, "--statistics", "recomputed")
    assert (refused.returncode, (tmp_path / "run-average").exists()) == (2, False)
    done = run_script(*arguments)
    assert done.returncode == 0, done.stderr
    assert "notice: the batch statistics are averaged, because" in done.stdout
    averaged = cnnjax.load(tmp_path / "run-average").network.variables.batch_stats
    for path, leaf in leaves_by_path(averaged).items():
        parts = [np.asarray(leaves_by_path(state.batch_stats)[path], np.float64) for state in states]
        np.testing.assert_array_equal(leaf, np.mean(parts, 0).astype(np.float32))
    again = run_script("average.py", folder.path, "--last", 2, "--out", tmp_path / "recomputed")
    assert "batch statistics recomputed" in again.stdout
