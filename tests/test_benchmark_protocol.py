from types import SimpleNamespace

import pytest

from cnnjax.benchmark import machine, protocol
from cnnjax.benchmark.protocol import Child, Ended
from cnnjax.benchmark.work import Job, Peer

JOB = Job(task="infer", model="lenet", image_shape=(28, 28, 1), num_classes=10, batch=4)
FAKE = """
import sys, time
from cnnjax.benchmark import protocol
from cnnjax.benchmark.work import Facts
from cnnjax.errors import UserError

protocol.WARM_UP_SECONDS = 0.01

def prepare(job):
    print("output of a library")
    if job.batch == 2:
        raise UserError("batch 2 is not supported")
    def run(steps):
        if steps == 3:
            raise ValueError("three are too many\\nsecond line")
        if steps == 5:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01 * steps)
    return protocol.Prepared(run, Facts(
        how=f"{job.model}, {'jax' in sys.modules}", packages=(), platform="cpu", device="cpu", threads=1, parameters=1,
        first_step_seconds=1.0, step_seconds=1.0,
    ))

protocol.serve(prepare)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Start peers that only sleep; they are closed after the test."""
    (tmp_path / "fake_peer.py").write_text(FAKE)
    monkeypatch.chdir(tmp_path)  # so that python -m finds the module
    children = []

    def start(job=JOB, debug=False):
        children.append(Child(Peer("fake", "fake_peer", "json"), job, debug=debug))
        return children[-1]

    yield start
    for child in children:
        child.close()
        assert child.process.returncode is not None


def test_a_peer_reports_facts_and_runs_laps_without_jax(fake):
    child = fake()
    facts = child.ready()
    assert facts.how == "lenet, False"
    assert 0.01 <= facts.step_seconds < 0.5
    lap = child.lap(4)
    assert 0.04 <= lap.seconds < 1
    assert lap.peak_bytes > 2**20
    child.close()
    assert child.process.returncode == 0


def test_an_unsupported_job_is_reported(fake):
    with pytest.raises(Ended, match="^batch 2 is not supported$") as end:
        fake(JOB.replace(batch=2)).ready()
    assert end.value.refused


@pytest.mark.parametrize(
    ("steps", "sentence"), [(3, "^ValueError: three are too many$"), (5, r"^its process was killed by signal 9 \(")]
)
def test_a_failure_of_a_peer_is_reported_in_one_line(fake, steps, sentence, capfd):
    child = fake(debug=True)
    child.ready()
    with pytest.raises(Ended, match=sentence) as end:
        child.lap(steps)
    assert not end.value.refused
    child.close()
    assert "output of a library" in capfd.readouterr().err


def test_the_warm_up_doubles_the_laps(monkeypatch):
    monkeypatch.setattr(protocol, "WARM_UP_SECONDS", 0.1)
    laps = []
    clock = SimpleNamespace(perf_counter=lambda: 0.004 * sum(laps))
    monkeypatch.setattr(protocol, "time", clock)
    assert protocol.warm_up(laps.append, 3) == pytest.approx(0.004)
    assert laps == [3, 6, 12, 24]


def test_forget_peak_memory_restarts_the_count():
    held = bytearray(2**27)
    held[::4096] = b"1" * len(held[::4096])
    before = machine.peak_memory()
    del held
    machine.forget_peak_memory()
    assert machine.peak_memory() <= before
