"""scripts/sweep.py as a user runs it: options, exit codes, kills at random moments, the compilation cache."""

import csv
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from cnnjax.sweep.table import CLOCK
from tests.faults.harness import write_digits
from tests.script import SCRIPTS, run_script

FILE = """
\"\"\"Two rates, two seeds, and a condition.\"\"\"

from cnnjax import create
from cnnjax.config import Data, Experiment, Optimizer, Train
from cnnjax.sweep import Sweep, grid

experiment = Experiment(
    model=create("mlp", input_size=12),
    data=Data(source="mnist", dir={data!r}, validation=0.2),
    optimizer=Optimizer(name="momentum", lr=0.05),
    train=Train(epochs={epochs}, batch_size=16, eval_batch_size=80),
)
sweep = Sweep(axes=(grid("optimizer.lr", (0.05, {rate})), grid("seed", range(2))))
"""


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a sweep file in an empty folder and returns its path."""
    write_digits(tmp_path / "digits")

    def write(epochs=2, rate=0.02):
        path = tmp_path / "tiny.py"
        path.write_text(FILE.format(data=str(tmp_path / "digits"), epochs=epochs, rate=rate))
        return path

    return write


def test_the_list_of_sweeps_and_the_options_are_printed():
    assert "smoke " in run_script("sweep.py", "--help").stdout
    assert "--only" in run_script("sweep.py", "smoke", "--help").stdout


def test_a_dry_run_prints_members_groups_and_cost_and_writes_nothing(write, tmp_path):
    done = run_script("sweep.py", write(), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "group 1: 4 members with one program, 4 to train, 160 steps, duration unknown" in done.stdout
    assert "missing     optimizer.lr=0.02, seed=1" in done.stdout
    assert "total: 4 members in 1 group, 4 to train; at most 160 steps, 2,560 images, " in done.stdout
    assert not (tmp_path / "runs").exists()
    some = run_script("sweep.py", write(), "--dry-run", "--only", "seed=1", "optimizer.lr=2e-2", cwd=tmp_path)
    assert "total: 1 member in 1 group" in some.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smok",), "error: unknown sweep 'smok'; did you mean 'smoke'?"),
        (("missing.py",), "error: there is no experiment file missing.py; check the path"),
        (("smoke", "--only", "seed=7"), "error: unknown value of seed '7'"),
        (("smoke", "--onyl", "seed=0"), "error: "),
    ],
)
def test_bad_input_is_one_sentence_with_exit_code_2(arguments, message, tmp_path):
    done = run_script("sweep.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_parquet_without_pyarrow_is_refused_before_training(write, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = run_script("sweep.py", write(), "--parquet", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --parquet needs pyarrow; install it with pip install -e .[parquet]")
    assert not (tmp_path / "runs").exists()


def test_a_file_without_a_sweep_is_refused(write, tmp_path):
    path = write()
    path.write_text(path.read_text().partition("sweep = ")[0])
    done = run_script("sweep.py", path, cwd=tmp_path)
    assert done.returncode == 2
    assert "defines no sweep; add a line such as sweep = Sweep(" in done.stderr


@pytest.mark.trains_long
def test_a_sweep_is_run_by_parts_and_its_page_rebuilt(write, tmp_path):
    path = write(rate=1e30)
    part = run_script("sweep.py", path, "--only", "optimizer.lr=0.05", "--out", "out", cwd=tmp_path)
    assert part.returncode == 0, part.stderr
    assert "results: out/tiny/" in part.stdout
    whole = run_script("sweep.py", path, "--out", "out", cwd=tmp_path)
    assert whole.returncode == 1
    assert "error: 2 of 4 members did not finish: optimizer.lr=1e+30, seed=0 (diverged)" in whole.stderr
    assert "4 members: 2 done, 2 to train" in whole.stdout
    report = tmp_path / "out" / "tiny" / "report.html"
    before = report.read_bytes()
    report.unlink()
    assert run_script("report.py", "out/tiny", cwd=tmp_path).returncode == 0
    assert report.read_bytes() == before


def call(path, folder, out, **environment):
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / "sweep.py"), str(path), "--out", out], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "CNNJAX_CACHE": str(folder / "cache"), **environment},
    )  # fmt: skip


def problems_of(folder):
    """Return the reasons in a sweep's table, for the message of a failing test."""
    return [row["problem"] for row in csv.DictReader((folder / "tiny" / "sweep.csv").read_text().splitlines())]


def table_of(folder):
    """Return the table of a sweep without the columns that a clock fills."""
    rows = csv.DictReader((folder / "tiny" / "sweep.csv").read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in CLOCK} for row in rows]


@pytest.mark.many_processes
def test_after_ten_kills_at_random_moments_the_table_equals_an_uninterrupted_one(write, tmp_path):
    path, rng = write(epochs=8), random.Random(0)
    started = time.monotonic()
    whole = call(path, tmp_path, "whole")
    whole.communicate(timeout=600)
    assert whole.returncode == 0, problems_of(tmp_path / "whole")
    duration = time.monotonic() - started  # with compilation; a resumed start is shorter
    kills, statuses = 0, set()
    while kills < 10:
        process = call(path, tmp_path, "killed")
        try:
            process.communicate(timeout=rng.uniform(0.05, 0.6) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            members = tmp_path / "killed" / "members"
            statuses |= {folder.name for folder in members.iterdir()} if members.exists() else set()
        else:  # finished before it could be killed: start afresh
            assert table_of(tmp_path / "killed") == table_of(tmp_path / "whole")
            (tmp_path / "killed").rename(tmp_path / f"finished-{kills}-{len(list(tmp_path.iterdir()))}")
    assert statuses  # some kills came after training had begun
    last = call(path, tmp_path, "killed")
    last.communicate(timeout=600)
    assert last.returncode == 0, problems_of(tmp_path / "killed")
    assert table_of(tmp_path / "killed") == table_of(tmp_path / "whole")


@pytest.mark.many_processes
def test_a_repeated_sweep_starts_from_the_compilation_cache(write, tmp_path):
    path = write()
    for out in ("first", "second"):
        process = call(path, tmp_path, out)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        programs = {file.name for file in (tmp_path / "cache" / "compiled").iterdir()}
        if out == "first":
            kept = programs
            assert any("dispatch" in name for name in kept)
    assert programs == kept
    assert table_of(tmp_path / "first") == table_of(tmp_path / "second")
