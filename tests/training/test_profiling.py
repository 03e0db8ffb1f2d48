import gzip
import json

import jax
import pytest
from rich.console import Console

from cnnjax import create
from cnnjax.errors import UserError
from cnnjax.runs import launch
from cnnjax.runs.predictor import load
from cnnjax.training import loop
from cnnjax.training.profiling import Profile, read_steps


@pytest.mark.parametrize(
    "text", ["20:10", "10:10", "x", "5", "", "-1:5", "1:", "1:2:3", "1.5:2", "٣:٤", "1:99999999999"]
)
def test_steps_that_do_not_increase_are_refused(text):
    with pytest.raises(UserError, match="--profile is .*; it must be two increasing steps, such as 10:20"):
        read_steps(text)


def test_steps_are_counted_from_0():
    assert list(read_steps("0:3")) == [0, 1, 2]


class Recorder:
    """Replaces the profiler and the dispatch, and records the order of events."""

    def __init__(self, monkeypatch):
        self.events = []
        monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: self.events.append("start"))
        monkeypatch.setattr(jax.profiler, "stop_trace", lambda: self.events.append("stop"))
        monkeypatch.setattr(jax, "block_until_ready", lambda tree: self.events.append("wait"))

    def run(self, profile, sizes):
        dispatch = profile.traced(lambda state, *, steps: self.events.append(steps))
        for steps in sizes:
            dispatch("state", steps=steps)
        return self.events


@pytest.mark.parametrize(
    ("steps", "sizes", "expected"),
    [
        ("1:3", [1, 1, 1, 1], [1, "wait", "start", 1, 1, "wait", "stop", 1]),
        ("0:1", [1, 1], ["wait", "start", 1, "wait", "stop", 1]),
        ("5:9", [4, 4, 2, 4], [4, "wait", "start", 4, 2, "wait", "stop", 4]),  # the dispatches that contain them
        ("4:8", [4, 4, 2], [4, "wait", "start", 4, "wait", "stop", 2]),
        ("9:12", [4, 4], [4, 4]),
    ],
)
def test_the_loop_waits_for_the_device_only_around_the_profiled_steps(monkeypatch, tmp_path, steps, sizes, expected):
    assert Recorder(monkeypatch).run(Profile(read_steps(steps), tmp_path), sizes) == expected


def test_an_interrupt_ends_the_trace(monkeypatch, tmp_path):
    recorder, profile = Recorder(monkeypatch), Profile(read_steps("1:9"), tmp_path)
    assert recorder.run(profile, [1, 1])[-2:] == ["start", 1]
    profile.close()
    profile.close()
    assert recorder.events[-2:] == [1, "stop"]


@pytest.mark.parametrize(
    ("model", "chunk"),
    [pytest.param(*way, marks=pytest.mark.trains_long) for way in (("mlp", 1), ("lenet", 1), ("lenet", 4))],
)
def test_a_trace_contains_the_steps_and_changes_no_result(experiment, tmp_path, monkeypatch, capsys, model, chunk):
    monkeypatch.setattr(loop, "steps_per_dispatch", lambda backend, steps: chunk)  # 10 steps an epoch
    experiment = experiment.replace(model=create(model, activation="relu"), train=experiment.train.replace(epochs=2))
    plain, profiled = (launch.Launch("a", experiment, tmp_path / name) for name in ("plain", "profiled"))
    launch.run(plain, Console())
    launch.run(profiled, Console(), profiled=range(4, 8))
    output = capsys.readouterr().out
    assert f"trace: {profiled.folder}/profile/" in output
    assert "xprof --logdir" in output
    first, second = (jax.tree.leaves(load(this.folder).variables) for this in (plain, profiled))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    (path,) = (profiled.folder / "profile").rglob("perfetto_trace.json.gz")
    names = [event.get("name", "") for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]]
    assert names.count("ThunkExecutor::Execute (wait for completion)") == 4 // chunk  # XLA emits one per program
    with pytest.raises(UserError, match="--profile is 0:1 and 0 steps are left to train; .* choose another --out"):
        launch.run(profiled, Console(), profiled=range(1))


def test_steps_beyond_the_end_are_refused_before_a_folder_is_created(experiment, tmp_path):
    with pytest.raises(UserError, match="--profile is 10:31 and 30 steps are left to train; .* must be 30 or less"):
        launch.run(launch.Launch("a", experiment, tmp_path / "run"), Console(), profiled=range(10, 31))
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_counts_steps_from_its_start(experiment, tmp_path, progress):
    from test_loop import train

    class Stop(Exception):
        pass

    class Stopper(type(progress)):
        def epoch(self, snapshot):
            raise Stop

    with pytest.raises(Stop):
        train(experiment, tmp_path / "run", Stopper())
    with pytest.raises(UserError, match="20 steps are left to train"):
        launch.run(launch.Launch("run", experiment, tmp_path / "run"), Console(), profiled=range(21))
