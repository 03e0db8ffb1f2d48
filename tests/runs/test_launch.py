import dataclasses
import io
import json

import jax
import pytest
from rich.console import Console

from cnnjax import create, data
from cnnjax.config import Optimizer, Train
from cnnjax.runs import evaluation, launch, predictor
from cnnjax.runs.progress import TerminalProgress
from cnnjax.system.compilation import DETERMINISTIC


@pytest.fixture
def start(experiment, tmp_path, monkeypatch, capsys):
    """Return a function that starts the run with another lowering, stops it and returns its output."""
    usual = launch.lowering

    def start(lowering=None, stop="epoch", jax=None):
        def stopped(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(launch, "lowering", lambda *arguments: usual(*arguments) | (lowering or {}))
            if jax is not None:
                environment = launch.environment
                patch.setattr(launch, "environment", lambda *a: environment(*a) | {"packages": {"jax": jax}})
            patch.setattr(TerminalProgress, stop, stopped)
            with pytest.raises(KeyboardInterrupt):
                launch.run(launch.Launch("a", experiment, tmp_path / "run"), Console())
        return capsys.readouterr().out

    return start


@pytest.mark.trains_long
def test_resuming_with_the_same_lowering_prints_no_notice(start):
    assert "notice: resuming with" not in start() + start()


def test_resuming_with_another_lowering_prints_one_notice_per_change(start, tmp_path):
    assert "notice: resuming with" not in start({"convolution": "one"})
    other = {"convolution": "another", "steps_per_dispatch": 7}
    assert [line for line in start(other, stop="start").splitlines() if line.startswith("notice: resuming with")] == [
        "notice: resuming with lowering.steps_per_dispatch 7, lowering.convolution another (previously "
        "lowering.steps_per_dispatch 1, lowering.convolution one), so the result will not be bit-identical"
    ]
    assert "notice: resuming with" not in start(other, stop="start")
    assert "notice: resuming with packages.jax 0.0.1 (previously packages.jax " in start(
        other, stop="start", jax="0.0.1"
    )
    assert len(json.loads((tmp_path / "run" / "environment.json").read_text())) == 4


def test_before_the_first_save_no_notice_is_printed(start):
    assert "notice: resuming with" not in start(stop="start") + start({"convolution": "another"}, stop="start")


@pytest.mark.parametrize("deterministic", [True, False])
def test_determinism_is_recorded_on_an_accelerator(experiment, monkeypatch, deterministic):
    dataset = data.load(experiment.data)
    assert "deterministic" not in launch.lowering(experiment, dataset, 10)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", DETERMINISTIC if deterministic else "")
    assert launch.lowering(experiment, dataset, 10)["deterministic"] is deterministic


@pytest.mark.trains_long
def test_linear_scaling_is_printed_recorded_and_reported(experiment, tmp_path):
    optimizer, train = Optimizer(name="sgd", lr=0.01, base_batch=64), Train(epochs=1, batch_size=32, eval_batch_size=80)
    scaled = experiment.replace(model=create("mlp"), optimizer=optimizer, train=train)
    console = Console(file=io.StringIO(), width=200)
    results = launch.run(launch.Launch("a", scaled, tmp_path / "run"), console)
    printed = console.file.getvalue()
    assert "base learning rate 0.005: 0.01 for a batch of 64, scaled linearly to 32\n" in printed
    assert "base learning rate: 0.005, scaled with the batch size\n" in printed
    assert results["base_rate"] == 0.005
    assert json.loads((tmp_path / "run" / "environment.json").read_text())[0]["base_rates"] == [0.005]
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["lr"] == 0.005
    assert "<td>base learning rate</td><td>0.005</td>" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.usefixtures("no_figures")
@pytest.mark.trains_long
def test_views_are_evaluated_in_addition_to_single_images_and_printed_and_recorded(experiment, tmp_path):
    train = Train(epochs=1, batch_size=32, eval_batch_size=80, views=6)
    console = Console(file=io.StringIO(), width=200)
    viewed = experiment.replace(model=create("mlp"), train=train)
    results = launch.run(launch.Launch("a", viewed, tmp_path / "run"), console)
    network = dataclasses.replace(predictor.load(tmp_path / "run"), views=6)
    report = evaluation.evaluate(network, data.load(experiment.data), "test")
    of_views = results["views"]["test"]
    assert results["views"]["count"] == 6
    assert of_views == pytest.approx({"loss": report.loss, "top1": report.top1, "top5": report.top5, "images": 130})
    assert of_views["loss"] != results["test"]["loss"]
    assert f"test, 6 views       │ {of_views['loss']:.4f}" in console.file.getvalue()
    evaluation.print_report(report, network, data.load(experiment.data), "test", console)
    assert "mean logits of 6 views of each image\n" in console.file.getvalue()
