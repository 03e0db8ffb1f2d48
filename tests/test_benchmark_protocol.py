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
    print("what a library prints is no answer")
    if job.batch == 2:
        raise UserError("it does not do two")
    def run(steps):
        if steps == 3:
            raise ValueError("three are too many\\nand more of that")
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
    """A peer that sleeps; it is gone when the test is."""
    (tmp_path / "fake_peer.py").write_text(FAKE)
    monkeypatch.chdir(tmp_path)  # from where -m finds it
    children = []

    def start(job=JOB, debug=False):
        children.append(Child(Peer("fake", "fake_peer", "json"), job, debug=debug))
        return children[-1]

    yield start
    for child in children:
        child.close()
        assert child.process.returncode is not None


def test_a_peer_prepares_says_what_it_is_and_runs_laps_without_jax(fake):
    child = fake()
    facts = child.ready()
    assert facts.how == "lenet, False"
    assert 0.01 <= facts.step_seconds < 0.5
    lap = child.lap(4)
    assert 0.04 <= lap.seconds < 1
    assert lap.peak_bytes > 2**20
    child.close()
    assert child.process.returncode == 0


def test_a_peer_that_refuses_says_why(fake):
    with pytest.raises(Ended, match="^it does not do two$") as end:
        fake(JOB.replace(batch=2)).ready()
    assert end.value.refused


@pytest.mark.parametrize(
    ("steps", "sentence"), [(3, "^ValueError: three are too many$"), (5, r"^its process was ended by signal 9 \(")]
)
def test_a_peer_that_fails_is_told_in_one_sentence(fake, steps, sentence, capfd):
    child = fake(debug=True)
    child.ready()
    with pytest.raises(Ended, match=sentence) as end:
        child.lap(steps)
    assert not end.value.refused
    child.close()
    assert "what a library prints" in capfd.readouterr().err


def test_the_warm_up_doubles_its_laps(monkeypatch):
    monkeypatch.setattr(protocol, "WARM_UP_SECONDS", 0.1)
    laps = []
    clock = SimpleNamespace(perf_counter=lambda: 0.004 * sum(laps))
    monkeypatch.setattr(protocol, "time", clock)
    assert protocol.warm_up(laps.append, 3) == pytest.approx(0.004)
    assert laps == [3, 6, 12, 24]


def test_the_peak_counts_from_where_it_is_told_to():
    held = bytearray(2**27)
    held[::4096] = b"1" * len(held[::4096])
    before = machine.peak_memory()
    del held
    machine.forget_peak_memory()
    assert machine.peak_memory() <= before
