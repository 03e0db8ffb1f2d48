import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cnnjax.benchmark import command, machine, page, table, turns
from cnnjax.benchmark.command import Options
from cnnjax.benchmark.protocol import Ended
from cnnjax.benchmark.turns import Block, Row
from cnnjax.benchmark.work import OTHERS, OURS, XLA, Facts, Job, Lap, Peer
from cnnjax.errors import PartlyDone, UserError
from tests.script import run_script

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "benchmark.py"
THERE, MISSING = Peer("there", "no.module", "jax"), Peer("missing", "no.module", "no_such_package")
JOB = Job(task="train", model="lenet", image_shape=(28, 28, 1), num_classes=10, batch=100)
FACTS = Facts(
    how="made up", packages=("made 1.0",), platform="cpu", device="cpu", threads=2, parameters=61_706,
    first_step_seconds=0.5, step_seconds=0.01, multiply_adds=1_000_000, peak_rate=1e11, peak_source="a guess",
)  # fmt: skip


class FakeChild:
    """A peer in this process: each lap takes ``pace`` seconds a step; after ``lives`` laps it fails."""

    log: list

    def __init__(self, peer, job, facts=FACTS, pace=0.01, lives=10**9, refuses=""):
        self.peer, self.job, self.facts, self.pace, self.lives, self.refuses = peer, job, facts, pace, lives, refuses

    def ready(self):
        self.log.append(f"{self.peer.name} on {self.job.platform}")
        if self.refuses:
            raise Ended(self.refuses, refused=True)
        return self.facts

    def lap(self, steps):
        self.log.append(self.peer.name)
        self.lives -= 1
        if self.lives < 0:
            raise Ended("it broke", refused=False)
        return Lap(seconds=self.pace * steps, peak_bytes=len(self.log))

    def close(self):
        self.log.append(f"{self.peer.name} ends")


@pytest.fixture
def measure():
    """Measure with fake peers, each created with the options under its name; ``log`` records the calls."""
    FakeChild.log = []

    def run(peers, rounds=1, **options):
        start = lambda peer, job, debug: FakeChild(peer, job, **options.get(peer.name, {}))  # noqa: E731
        return turns.measure(JOB, peers, rounds, start=start)

    run.log = FakeChild.log
    return run


def block(*rows: Row, **options) -> Block:
    return Block(JOB.replace(**options), rows, 10)


def test_peers_prepare_one_after_the_other_and_then_take_turns(measure):
    result = measure([THERE], 2, there={"pace": 0.02})
    assert measure.log[:2] == ["cnnjax on auto", "there on cpu"]
    assert measure.log[-2:] == ["there ends", "cnnjax ends"]
    laps = measure.log[2:-2]
    # A lap is 25 steps for both peers, a quarter of a second for cnnjax; a turn takes two seconds.
    assert laps == (["cnnjax"] * 8 + ["there"] * 4) * 2
    assert (result.lap_steps, result.job.platform) == (25, "cpu")
    assert [len(row.step_seconds) for row in result.rows] == [16, 8]
    assert result.rows[1].step_seconds[0] == pytest.approx(0.02)
    assert result.rows[1].peak_bytes == 2 + 24


def test_a_slow_peer_runs_two_laps_of_one_step_per_turn(measure):
    slow = {"facts": FACTS.replace(step_seconds=5.0), "pace": 5.0}
    result = measure([], 3, cnnjax=slow)
    assert (result.lap_steps, result.rows[0].step_seconds) == (1, (5.0,) * 6)


def test_a_lap_is_a_whole_number_of_dispatches(measure):
    assert measure([], cnnjax={"facts": FACTS.replace(granularity=64)}).lap_steps == 64


def test_peers_that_fail_are_reported_and_the_others_continue(measure):
    broken, other, refusing = (THERE._replace(name=name) for name in ("broken", "other", "refusing"))
    result = measure(
        [MISSING, broken, other, refusing, THERE],
        broken={"lives": 1},
        other={"facts": FACTS.replace(parameters=61_707)},
        refusing={"refuses": "no such network"},
    )
    assert [(row.peer.name, row.problem, row.sentence) for row in result.rows if row.problem] == [
        ("missing", "not installed", "install it with pip install -e .[bench]"),
        ("broken", "failed", "it broke (--debug shows more)"),
        ("other", "failed", "its lenet has 61,707 parameters, not 61,706"),
        ("refusing", "left out", "no such network"),
    ]
    assert "other" not in measure.log
    assert result.rows[-1].step_seconds


def test_a_job_that_cnnjax_does_not_support_ends_the_command_and_a_failure_does_not(measure):
    with pytest.raises(UserError, match="no such platform"):
        measure([THERE], cnnjax={"refuses": "no such platform"})
    assert measure.log[-1] == "cnnjax ends"
    result = measure([THERE], cnnjax={"lives": 0})
    assert [line[-1] for line in table.cells(result, 1e11)] == ["", ""]


@pytest.mark.parametrize("native", [True, False])
def test_xla_is_listed_only_with_the_native_library(measure, native):
    result = measure([XLA], cnnjax={"facts": FACTS.replace(native=native)})
    assert [row.peer for row in result.rows] == ([OURS, XLA] if native else [OURS])


def test_figures_are_medians_and_the_ratio_is_cnnjax_over_the_peer():
    result = block(
        Row(OURS, FACTS, (0.02, 0.01, 0.09), 2**30), Row(THERE, FACTS, (0.04,) * 10 + (0.1,), 2**29),
        Row(MISSING, problem="not installed", sentence="see above"),
    )  # fmt: skip
    # 2 operations x 1 M x 3 passes x 5,000 images/s = 30 G of 100 G.
    assert table.cells(result, 1e11) == [
        ("cnnjax", "5,000", "20.00", "76.00", "0.5", "1.00", "30 %", "1.00"),
        ("there", "2,500", "40.00", "40.00", "0.5", "0.50", "15 %", "2.00"),
        ("missing", "not installed", "", "", "", "", "", ""),
    ]
    assert table.cells(result._replace(job=JOB.replace(task="infer")), 1e11)[0][6] == "10 %"
    assert table.notes([result])[1:] == [
        "lenet, 28x28x1, batch 100, there: made up", "lenet, 28x28x1, batch 100, missing: not installed; see above",
    ]  # fmt: skip


def test_the_table_fits_a_terminal_and_the_legend_explains_it():
    rows = Row(OURS, FACTS, (12.3456,), 2**36), Row(MISSING, problem="not installed", sentence="see above")
    console = Console(file=io.StringIO(), width=80)
    table.show("train", [block(*rows), block(*rows, batch=1)], 3, console)
    text = console.file.getvalue()
    assert "Training: lenet, 28x28x1, batch 1, float32" in text
    assert re.search(r"cnnjax +8\.1 +12345\.60 +12345\.60 +0\.5 +64\.00 +0 % +1\.00 *\n", text)
    assert "61,706" in text
    assert "0.1 TFLOP/s (a guess)" in text


@pytest.mark.many_processes
def test_a_run_without_peers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "PAGE", tmp_path / "docs" / "benchmarks.md")
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.1)
    arguments = [
        "--models", "mlp", "--batch", "8", "--against", "none", "--turns", "1", "--platform", "cpu", "--write"
    ]  # fmt: skip
    assert command.run("train", arguments) == 0
    assert re.search(r"cnnjax +[\d,.]+ +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +\d+ % +1\.00", capsys.readouterr().out)
    text = page.PAGE.read_text()
    assert f"## Training, batch 8, float32, {machine.processor()}\n" in text
    assert f"`python scripts/benchmark.py train {' '.join(arguments)}` on {machine.description()}; cnnjax 0" in text
    assert "| **mlp, 28x28x1, batch 8** |" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {9}


@pytest.mark.parametrize(("problem", "code"), [("failed", 1), ("left out", 0), ("not installed", 0)])
def test_the_exit_code_is_1_only_if_a_peer_failed(problem, code, monkeypatch, capsys):
    rows = Row(OURS, FACTS, (1.0,)), Row(THERE, problem=problem, sentence="see above")
    monkeypatch.setattr(turns, "measure", lambda *_, **__: block(*rows))
    assert command.run("infer", ["--models", "lenet"]) == code
    assert f"there: {problem}; see above" in capsys.readouterr().out


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A page with a section of two networks, for a fake device."""
    monkeypatch.setattr(page, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(command, "device", lambda platform: "a device")
    blocks = [block(Row(OURS, FACTS, (1.0,)), batch=256), block(Row(OURS, FACTS, (1.0,)), model="mlp", batch=256)]
    page.write_section("Inference, float32, a device", [table.markdown(blocks)])
    return page.PAGE


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([Row(THERE, problem="failed")], "because there failed; fix this, or choose fewer peers with --against"),
        (
            [Row(MISSING, problem="not installed"), Row(THERE, problem="failed")],
            r"because missing is not installed \(install it with pip install -e .\[bench\]\) and there failed; ",
        ),
    ],
)
def test_a_table_without_a_peer_is_printed_and_not_written(rows, message, record, monkeypatch, capsys):
    old = record.read_text()
    monkeypatch.setattr(turns, "measure", lambda job, *_, **__: Block(job, (Row(OURS, FACTS, (1.0,)), *rows), 1))
    with pytest.raises(PartlyDone, match=message) as error:
        command.run("infer", ["--models", "lenet", "mlp", "--write"])
    assert error.value.exit_code == 1
    assert f"there: {rows[-1].problem}" in capsys.readouterr().out
    assert record.read_text() == old


def test_replacing_a_section_with_more_networks_is_refused_before_measuring(record, monkeypatch):
    monkeypatch.setattr(turns, "measure", lambda *_, **__: pytest.fail("it was measured"))
    with pytest.raises(UserError, match="benchmarks.md: mlp, 28x28x1, batch 256; measure them too") as error:
        command.run("infer", ["--models", "lenet", "--write"])
    assert error.value.exit_code == 2
    with pytest.raises(
        UserError, match="benchmarks.md: lenet, 28x28x1, batch 256; mlp, .*; measure them too, or delete the section"
    ):
        command.run("infer", ["--models", "lenet", "mlp", "--input-size", "32", "--write"])


def test_a_section_with_the_same_or_fewer_networks_is_replaced(record, monkeypatch):
    rows = Row(OURS, FACTS, (1.0,)), Row(THERE, problem="left out", sentence="no such network")
    monkeypatch.setattr(turns, "measure", lambda job, *_, **__: Block(job, rows, 1))
    assert command.run("infer", ["--models", "lenet", "mlp", "resnet20_cifar", "--write"]) == 0
    text = record.read_text()
    assert text.count("\n## ") == 1
    assert table.block_titles(text) == [
        "lenet, 28x28x1, batch 256", "mlp, 28x28x1, batch 256", "resnet20_cifar, 32x32x3, batch 128"
    ]  # fmt: skip
    assert "| there | left out |" in text


@pytest.mark.parametrize(
    ("against", "peers"),
    [([], ["xla", "torch", "keras"]), (["--against", "keras"], ["keras"]), (["--against", "none"], [])],
)
def test_against_selects_the_peers(against, peers, monkeypatch):
    measured = []
    monkeypatch.setattr(
        turns, "measure", lambda job, peers, *_, **__: measured.extend(peers) or block(Row(OURS, FACTS, (1.0,)))
    )
    command.run("infer", ["--models", "lenet", *against])
    assert [peer.name for peer in measured] == peers


def test_default_batch_sizes():
    models = ("lenet", "resnet20_cifar", "resnext_block", "resnet50")
    jobs = Options(models=models).jobs("train")
    assert [job.batch for job in jobs] == [256, 128, 16, 32]
    assert [job.image_shape for job in jobs[2:]] == [(28, 28, 512), (224, 224, 3)]
    assert Options(models=("resnet50",)).jobs("infer")[0].batch == 16
    both = Options(models=("resnet50",), batch=(1, 16), input_size=64).jobs("infer")
    assert [(job.batch, job.image_shape) for job in both] == [(1, (64, 64, 3)), (16, (64, 64, 3))]


def test_the_images_are_reproducible_and_bounded():
    images, labels = JOB.made_up()
    assert images.shape == (100 * 256, 28, 28, 1)
    assert (images[:9] == JOB.made_up()[0][:9]).all()
    assert labels.max() == 9
    large = JOB.replace(image_shape=(224, 224, 3), batch=32)
    assert large.batches * 32 * 224 * 224 * 3 <= 2**27
    assert len(large.mean) == 3
    assert JOB.replace(task="infer").made_up()[0].shape[0] == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "lenett"], "unknown model 'lenett'; did you mean 'lenet'"),
        (["--models", "resnext_blok"], "unknown model 'resnext_blok'; did you mean 'resnext_block'"),
        (["--models", "lenet", "--batch", "8", "0"], "--batch is (8, 0); it must be one or more numbers, each from 1"),
        (["--models", "lenet", "--batch", "999999999999"], "--batch is (999999999999,); it must be one or more"),
        (["--models", "lenet", "--against", "torhc"], "unknown peer 'torhc'; did you mean 'torch'"),
        (
            ["--models", "lenet", "--against", "none", "torch"],
            "--against is ('none', 'torch'); it must be names of peers",
        ),
        (["--models", "lenet", "--turns", "0"], "--turns is 0; it must be 1 or more"),
        (["--models", "lenet", "--input-size", "0"], "model.input_size is 0"),
        (["--models"], "--models is ()"),
        (["--models", "lenet", "--dtype", "float16"], "unknown value 'float16'"),
        ([], "models"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(UserError) as error:
        command.run("train", arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_usage_needs_no_jax():
    code = f"import runpy, sys; runpy.run_path({str(SCRIPT)!r})['benchmark']([]); print('jax' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: python scripts/benchmark.py train --models NAME" in ended.stdout
    assert ended.stdout.endswith("False\n")


def test_an_unknown_command_has_exit_code_2_and_one_line():
    ended = run_script("benchmark.py", "trian")
    assert ended == (2, "", "error: unknown command 'trian'; did you mean 'train' or 'transfer'?\n")


@pytest.mark.many_processes
def test_a_missing_platform_is_refused():
    """Runs a process, because JAX already has its backend in this one."""
    arguments = [sys.executable, SCRIPT, "infer", "--models", "lenet", "--platform", "tpu"]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: --platform tpu is not available here")
    assert ended.stderr.count("\n") == 1


def test_the_modules_of_the_peers_exist():
    modules = {f"cnnjax.benchmark.{path.stem}" for path in Path(command.__file__).parent.glob("*.py")}
    assert {peer.module for peer in (OURS, *OTHERS)} <= modules


def test_published_rates():
    assert machine.published_rate("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert machine.published_rate("NVIDIA H100 PCIe", "float32") == 378e12
    assert machine.published_rate("NVIDIA L40S", "float32") == 183e12
    assert machine.published_rate("cpu", "float32") is None


def test_several_devices_are_reported_per_device_and_in_total():
    job = JOB.replace(devices=4)
    block = Block(job, [Row(OURS, FACTS, step_seconds=(0.01, 0.01, 0.01))], 100)
    (note,) = table.notes([block])
    assert note == (
        "lenet, 28x28x1, batch 100 on 4 devices, cnnjax: made up; 10,000.0 images/s in total, 2,500.0 per device"
    )
    share = dict(zip(table.HEADER, table.cells(block, 1e11)[0], strict=True))["of peak"]
    assert share == "15 %"  # 6 x 1e6 x 10,000 operations per second of 4 x 1e11


def test_several_devices_divide_the_batch_and_are_not_compared_with_one():
    with pytest.raises(UserError, match="the peers torch and keras use one device; add --against none"):
        Options(models=("lenet",), devices=2)
    work = Options(models=("lenet",), devices=2, batch=(7,), against=("none",))
    with pytest.raises(UserError, match="--batch is 7; it must be a multiple of --devices, 2"):
        work.jobs("train")
    assert Options(models=("lenet",), devices=2, against=("none",)).jobs("train")[0].devices == 2
