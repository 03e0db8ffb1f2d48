"""Training on two processes, as on two hosts: equal to one process, and whole after each of them died."""

import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cnnjax.checkpoint import list_paths
from tests.devices.test_devices import EXACT, HERE, marked
from tests.faults.harness import ROOT, Completed, Harness

MINUTE = 60
"""Time in which the others end when a process has died."""
TIMEOUT = 300


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def slurm_variables(process: int, job: int) -> dict[str, str]:
    """The variables that SLURM sets for a process of two on one node, from which JAX finds the coordinator."""
    return {
        "SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": "2", "SLURM_PROCID": str(process), "SLURM_LOCALID": str(process),
    }  # fmt: skip


def free_job() -> int:
    """Return the id of a job whose port, which JAX computes from the id, is free."""
    for job in itertools.count(os.getpid()):
        with socket.socket() as server, contextlib.suppress(OSError):
            server.bind(("127.0.0.1", job % 2**12 + 2**16 - 2**12))
            return job
    raise AssertionError


ENVIRONMENT = {
    **os.environ, "CNNJAX_NATIVE": "0", "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "XLA_FLAGS": "",
}  # fmt: skip


def start(*command: object, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *map(str, command)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**ENVIRONMENT, **environment},
    )  # fmt: skip


def ended(process: "subprocess.Popen[str]") -> Completed:
    out, err = process.communicate(timeout=TIMEOUT)
    return Completed(process.returncode, out, err)


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A folder with what `on_hosts.py` saves for two processes of 4 devices, and for one of 8."""
    folder, port = tmp_path_factory.mktemp("hosts"), free_port()
    pair = [start(HERE / "on_hosts.py", folder, port, 2, process) for process in (0, 1)]
    results = [ended(process) for process in pair] + [ended(start(HERE / "on_hosts.py", folder, port, 1, 0))]
    assert [result.code for result in results] == [0, 0, 0], results
    return folder


@marked
@pytest.mark.parametrize("images", ["resident", "streamed"])
def test_two_processes_train_as_one(computed, images):
    first, second, one = (np.load(computed / f"{images}-{name}.npz") for name in ("2-0", "2-1", "1-0"))
    figures = [json.loads((computed / f"{name}.json").read_text())[images]["figures"] for name in ("2-0", "2-1", "1-0")]
    assert first.files == second.files == one.files and len(first.files) > 20
    for name in first.files:
        assert first[name].tobytes() == second[name].tobytes()
        assert np.abs(first[name] - one[name]).max(initial=0) <= EXACT
    assert figures[0] == figures[1]
    assert all(math.isclose(figures[0][name], value, rel_tol=EXACT) for name, value in figures[2].items())


@marked
def test_each_process_reads_its_share_of_each_batch(computed):
    reads = [json.loads((computed / f"{name}.json").read_text())["streamed"]["reads"] for name in ("2-0", "2-1", "1-0")]
    assert reads == [[160, 32], [160, 32], [320, 64]]  # 20 batches of 12, padded to 16; two evaluations of 16 + 16


class Ended(NamedTuple):
    """The two processes of a training, and the seconds between the end of the one with a fault and of the other."""

    results: list[Completed]
    seconds: float


class Pair(NamedTuple):
    """Two processes of scripts/train.py in one run folder."""

    folder: Path

    def start(self, run: str, *options: object, **environment: str) -> "subprocess.Popen[str]":
        return start(
            ROOT / "scripts/train.py", HERE / "dying_experiment.py", "--out", self.folder / run, "--platform", "cpu",
            *options, DIGITS=str(self.folder / "digits"), CNNJAX_CACHE=str(self.folder / "cache"), **environment,
        )  # fmt: skip

    def train(self, run: str, faults: tuple[str, str] = ("", "")) -> Ended:
        """Train until both processes have ended; a process with a fault dies there."""
        hosts = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2]
        pair = [
            self.start(run, *hosts, "--process-id", process, **({"FAULT": fault} if fault else {}))
            for process, fault in enumerate(faults)
        ]
        order = [1, 0] if faults[1] else [0, 1]
        results = {order[0]: ended(pair[order[0]])}
        begin = time.monotonic()
        results[order[1]] = ended(pair[order[1]])
        return Ended([results[0], results[1]], time.monotonic() - begin)

    def train_in_slurm(self, run: str) -> list[Completed]:
        job = free_job()
        pair = [self.start(run, "--coordinator", "auto", **slurm_variables(process, job)) for process in (0, 1)]
        return [ended(process) for process in pair]


FAULTS = {
    "the follower dies in its first evaluation": ("", "evaluation:1:SIGKILL:child"),
    "the leader dies in its second save": ("save:2:SIGKILL:child", ""),
    "the supervisor of the follower dies in a step": ("", "step:4:SIGKILL:parent"),
}


def require_continued_on_one_process(pair: Pair) -> None:
    """Check that a run of two processes continues on one, which says so and comes to the same figures."""
    run, reference = pair.folder / "continued", pair.folder / "undisturbed"
    shutil.copytree(reference, run)
    (run / "results.json").unlink()
    for path in list_paths(run / "checkpoints")[1:]:
        shutil.rmtree(path)
    result = ended(pair.start("continued"))
    assert result.code == 0, result.err
    assert "resuming with devices 1, processes 1 (previously devices 2, processes 2)" in " ".join(result.out.split())
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (run, reference))
    for part in ("train", "validation", "test"):
        assert one[part]["images"] == two[part]["images"]
        assert all(math.isclose(one[part][name], two[part][name], rel_tol=1e-4) for name in ("loss", "top1"))


@marked
def test_a_process_that_dies_ends_the_other_and_the_run_resumes_to_the_same_bits(tmp_path):
    harness, pair = Harness(tmp_path), Pair(tmp_path)  # the harness writes the images
    undisturbed = pair.train_in_slurm("undisturbed")
    assert [result.code for result in undisturbed] == [0, 0], undisturbed
    assert [result.err for result in undisturbed] == ["", ""]
    assert "Gloo" not in undisturbed[0].out + undisturbed[1].out
    require_continued_on_one_process(pair)

    for fault, faults in FAULTS.items():
        results, seconds = pair.train("run", faults)
        for result, own in zip(results, faults, strict=True):
            if own.endswith("parent"):
                assert result.code == -signal.SIGKILL
            else:
                result.check_error(1, "to resume, start all processes again: cd ", "--coordinator")
        assert seconds < MINUTE, fault

    results, _ = pair.train("run", ("", "step:3:SIGTERM:parent"))
    for result in results:
        result.check_error(1, "interrupted; to resume: cd ")
    assert "saved step " in results[0].out and "within epoch" in results[0].out

    results, _ = pair.train("run")
    assert [result.code for result in results] == [0, 0], results
    assert harness.outcome(tmp_path / "run") == harness.outcome(tmp_path / "undisturbed")
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"results.json", "report.html", "metrics.jsonl"} <= written
    entries = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert {(entry["processes"], entry["devices"]) for entry in entries} == {(2, 2)}


@marked
@pytest.mark.parametrize("process", [0, 1])
def test_a_coordinator_that_is_not_reached_is_one_sentence(tmp_path, process):
    run = tmp_path / "run"
    result = ended(start(
        ROOT / "scripts/train.py", "lenet_mini", "--out", run, "--platform", "cpu", "--coordinator",
        f"127.0.0.1:{free_port()}", "--num-processes", 2, "--process-id", process, "--connect-timeout", 2,
    ))  # fmt: skip
    result.check_error(2, "the 2 processes did not meet at --coordinator 127.0.0.1:", "within 2 seconds")
    assert not run.exists()
