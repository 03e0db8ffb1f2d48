import io
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cnnjax import benchmark
from cnnjax.benchmark import PEERS, Peer, Row, Timing, Work
from cnnjax.errors import UserError

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "benchmark.py"
OURS = PEERS[0]
MISSING = Peer("Missing", "cnnjax.benchmark.torch_peer", "no_such_package")
BROKEN = Peer("Broken", "cnnjax.benchmark.no_such_peer", "jax")


def timing(*epoch_seconds: float, **options) -> Timing:
    facts = {"how": "by hand", "packages": ("made 1.0",), "device": "cpu", "threads": 2, "parameters": 61_706}
    return Timing(**facts, platform="cpu", first_step_seconds=0.5, epoch_seconds=epoch_seconds).replace(**options)


def shown(work: Work, rows: list[Row]) -> str:
    console = Console(file=io.StringIO(), width=80)
    benchmark.show(work, rows, console)
    return console.file.getvalue()


def script(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_ours_is_timed_in_its_processes_and_peers_that_cannot_be_are_told(tmp_path):
    work = Work(model="lenet", images=512, batch=128, epochs=1)
    rows = benchmark.run(work, Console(file=io.StringIO()), (OURS, MISSING, BROKEN))

    found = rows[0].timing
    assert found.parameters == 61_706
    assert len(found.epoch_seconds) == 1
    assert [row.problem for row in rows] == ["", "not installed", "failed"]

    text = shown(work, rows)
    assert re.search(r"cnnjax +│ +\d+\.\d\d │ +[\d,]+ │ +\d+\.\d\d │ +\d+\.\d\d │ +1\.00 │", text)
    assert "Missing: not installed; pip install -e .[bench] brings it" in text
    assert re.search(r"Broken: failed; .*No module named cnnjax.benchmark.no_such_peer", text)

    record = tmp_path / "docs" / "benchmarks.md"
    benchmark.write(work, rows, record)
    page = record.read_text()
    assert "`python scripts/benchmark.py lenet --images 512 --batch 128 --epochs 1 --write`" in page
    assert re.search(r"^\| cnnjax \| \d+\.\d\d \| [\d,]+ \| \d+\.\d\d \| \d+\.\d\d \| 1\.00 \|$", page, re.MULTILINE)
    assert "| Missing | not installed |  |  |  |  |" in page
    assert {line.count("|") for line in page.splitlines() if line.startswith("|")} == {7}


def test_the_median_epoch_counts_and_the_ratio_is_ours_by_the_peers():
    work = Work(model="lenet", images=1000, batch=100)
    rows = [Row(OURS, timing(2.0, 1.0, 9.0)), Row(MISSING, timing(4.0, 5.0, 3.0))]
    assert benchmark.cells(work, rows) == [
        ("cnnjax", "2.00", "500", "200.00", "0.50", "1.00"),
        ("Missing", "4.00", "250", "400.00", "0.50", "2.00"),
    ]


def test_without_ours_there_is_no_ratio():
    rows = [Row(OURS, problem="failed", sentence="it broke"), Row(MISSING, timing(4.0))]
    assert [line[-1] for line in benchmark.cells(Work(model="lenet"), rows)] == ["", ""]


def test_the_peers_take_turns_and_the_fastest_epoch_says_how(monkeypatch):
    asked = []

    def measure(peer, work, debug):
        asked.append((peer.name, work.epochs, work.platform))
        return Row(peer, timing(float(len(asked)), how=f"turn {len(asked)}"))

    monkeypatch.setattr(benchmark, "_measure", measure)
    rows = benchmark.run(Work(model="lenet", epochs=2), Console(file=io.StringIO()), (OURS, MISSING))
    assert asked == [("cnnjax", 1, "auto"), ("Missing", 1, "cpu"), ("cnnjax", 1, "cpu"), ("Missing", 1, "cpu")]
    assert [(row.timing.epoch_seconds, row.timing.how) for row in rows] == [
        ((1.0, 3.0), "turn 1"),
        ((2.0, 4.0), "turn 2"),
    ]


def test_another_network_is_not_compared():
    with pytest.raises(RuntimeError, match="the peer's lenet has 61,707 parameters, not 61,706"):
        benchmark.check_parameters(Work(model="lenet"), 61_707)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "lenett"}, "unknown model 'lenett'; did you mean 'lenet'"),
        ({"images": 0}, "--images is 0"),
        ({"batch": 0}, "--batch is 0"),
        ({"batch": 60_001}, "--batch is 60001; it must be from 1 to --images, which is 60000"),
        ({"epochs": 0}, "--epochs is 0"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Work(**{"model": "lenet", **options})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("lenett",), "error: unknown model 'lenett'; did you mean 'lenet'?\n"),
        (("lenet", "--images", "512", "--platform", "tpu"), "error: --platform tpu is not available here"),
    ],
)
def test_the_script_ends_with_2_and_one_sentence(arguments, sentence):
    ended = script(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(sentence)
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(("problem", "code"), [("failed", 1), ("not installed", 0)])
def test_the_script_ends_with_1_only_where_a_peer_failed(problem, code, monkeypatch, capsys):
    rows = [Row(OURS, timing(1.0)), Row(MISSING, problem=problem, sentence="as said")]
    monkeypatch.setattr(benchmark, "run", lambda *_, **__: rows)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "lenet"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == code
    assert f"Missing: {problem}; as said" in capsys.readouterr().out
