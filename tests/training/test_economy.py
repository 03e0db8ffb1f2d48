"""What the loop may not do: compile anew, fetch figures or wait for the device in the middle of an epoch."""

import jax
import numpy as np
import pytest
from conftest import fit_run
from test_loop import train

from cnnjax.data.loader import IN_FLIGHT
from cnnjax.runs.folder import RunFolder
from cnnjax.training import loop

ARRAY = type(jax.numpy.zeros(()))
COMPILATION = "/jax/core/compile/backend_compile_duration"
STEPS = 10
"""In an epoch of `experiment`."""


class Log(list):
    """What happens during a fit, in order: dispatch, compile, fetch, wait, epoch (is saved).

    Waiting for a dispatch that has IN_FLIGHT others after it is no such event: so much may be queued, and no more.
    """

    def __init__(self, monkeypatch):
        self.programs, self.results = [], []
        make = loop.make_dispatch

        def make_watched(*arguments):
            dispatch = make(*arguments)
            programs = []

            def watched(*arguments, **options):
                if not programs:
                    programs.append(dispatch.lower(*arguments, **options).as_text())
                    self.programs.append(programs[0])
                result = dispatch(*arguments, **options)
                self.append("dispatch")
                self.results.append(jax.tree.leaves(result))
                self.metrics = result[1]
                return result

            return watched

        monkeypatch.setattr(loop, "make_dispatch", make_watched)
        self._watch_fetches(monkeypatch)
        for owner in (jax, ARRAY):
            monkeypatch.setattr(owner, "block_until_ready", self._noted_wait(owner.block_until_ready))

    def _watch_fetches(self, monkeypatch):
        """Note the ways from an array to the host: its value, and what reads its memory without asking it for that."""
        value = ARRAY._value.fget

        def noted(array):
            self.append("fetch")
            return value(array)

        monkeypatch.setattr(ARRAY, "_value", property(noted))
        for module, name in ((jax, "device_get"), (np, "asarray"), (np, "array")):
            monkeypatch.setattr(module, name, self._noted(getattr(module, name)))

    def _noted(self, fetch):
        def noted(value, *arguments, **options):
            if any(isinstance(leaf, ARRAY) for leaf in jax.tree.leaves(value)):
                self.append("fetch")
            return fetch(value, *arguments, **options)

        return noted

    def _noted_wait(self, wait):
        def noted(value):
            old = {id(leaf) for result in self.results[:-IN_FLIGHT] for leaf in result}
            if any(isinstance(leaf, ARRAY) and id(leaf) not in old for leaf in jax.tree.leaves(value)):
                self.append("wait")
            return wait(value)

        return noted

    def on_duration(self, event, seconds, **_):
        if event == COMPILATION:
            self.append("compile")

    def within_epochs(self):
        """Return what happens between the second dispatch of each epoch and its last."""
        inside, dispatches = [], 0
        for event in self:
            dispatches += event == "dispatch"
            if event == "epoch":
                dispatches = 0
            elif event != "dispatch" and 2 <= dispatches < STEPS:
                inside.append(event)
        return inside


@pytest.fixture
def log(monkeypatch):
    log = Log(monkeypatch)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_LOOKS", float("inf"))  # the one fetch that is allowed
    jax.monitoring.register_event_duration_secs_listener(log.on_duration)
    yield log
    jax.monitoring.unregister_event_duration_listener(log.on_duration)


def watched(progress, log, last=None):
    """Return a progress that notes each epoch's end, and stops the training after the epoch ``last``."""

    class Watched(type(progress)):
        def epoch(self, snapshot):
            super().epoch(snapshot)
            log.append("epoch")
            if len(snapshot.rows) == last:
                raise KeyboardInterrupt

    return Watched()


def test_an_epoch_waits_for_nothing_and_only_the_first_one_compiles(experiment, tmp_path, progress, log):
    train(experiment, tmp_path / "run", watched(progress, log))
    assert log.count("dispatch") == 3 * STEPS
    assert log.within_epochs() == []
    first = log.index("epoch")
    assert "compile" in log[:first]
    assert "compile" not in log[first:]  # neither in the steps, nor in the evaluation, nor while it is saved


def test_a_continued_training_runs_the_same_programs(experiment, tmp_path, progress, log):
    with pytest.raises(KeyboardInterrupt):
        train(experiment, tmp_path / "run", watched(progress, log, last=1))
    del log[:]
    train(experiment, tmp_path / "run", watched(progress, log))
    assert log.count("dispatch") == 2 * STEPS
    fresh, continued = log.programs
    assert fresh == continued
    second = [index for index, event in enumerate(log) if event == "dispatch"][1]
    assert "compile" not in log[second:]  # the evaluation's program is the one that the first start compiled
    assert log.within_epochs() == []


QUICK_WAYS = (float, lambda a: jax.device_get(a), lambda a: np.asarray(a), lambda a: a.block_until_ready())
OTHER_WAYS = (
    int, bool, str, lambda a: a.item(), lambda a: a.tolist(), lambda a: np.array(a), lambda a: f"{a:.2f}",
    lambda a: 1.0 if a > 2 else 0.0, lambda a: jax.block_until_ready(a), lambda a: jax.block_until_ready([a, a]),
)  # fmt: skip


@pytest.mark.parametrize(
    "way", [*QUICK_WAYS, *(pytest.param(way, marks=pytest.mark.trains_long) for way in OTHER_WAYS)]
)
def test_each_way_to_fetch_a_figure_or_to_wait_for_it_would_be_seen(experiment, tmp_path, progress, log, way):
    experiment = experiment.replace(train=experiment.train.replace(epochs=1))
    folder = RunFolder(tmp_path / "run")
    folder.start("run", experiment)
    fit_run(experiment, folder, watched(progress, log), poll=lambda: way(log.metrics.loss))
    assert log.within_epochs()


def test_a_slow_device_is_waited_for_only_where_too_many_steps_are_queued(
    experiment, tmp_path, progress, log, monkeypatch
):
    waits = []
    monkeypatch.setattr(loop, "_is_ready", lambda array: False)
    wait = jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: waits.append(log.count("dispatch")) or wait(tree))
    train(experiment, tmp_path / "run", watched(progress, log))
    assert waits[: STEPS - IN_FLIGHT] == list(range(IN_FLIGHT + 1, STEPS + 1))
    assert log.within_epochs() == []


def test_the_progress_bar_looks_only_at_what_is_computed(experiment, tmp_path, progress, log, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_LOOKS", 0.0)
    ready, device_get = [], jax.device_get

    def look(tree):
        epoch = log[len(log) - log[::-1].index("epoch") :] if "epoch" in log else log
        if epoch.count("dispatch") < STEPS:
            ready.append(all(leaf.is_ready() for leaf in jax.tree.leaves(tree)))
        return device_get(tree)

    monkeypatch.setattr(jax, "device_get", look)
    train(experiment, tmp_path / "run", watched(progress, log))
    assert ready
    assert all(ready)
