"""Within an epoch, the loop must not recompile, fetch values or wait for the device."""

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
"""Steps per epoch of `experiment`."""


class Log(list):
    """Events of a fit in order: dispatch, compile, fetch, wait, epoch (saved).

    Waiting for a dispatch that is followed by IN_FLIGHT others is not an event, because that is the queue's limit.
    """

    def __init__(self, monkeypatch):
        self.programs, self.results = [], []
        make = loop.make_dispatch

        def make_logged(*arguments):
            dispatch = make(*arguments)
            programs = []

            def logged(*arguments, **options):
                if not programs:
                    programs.append(dispatch.lower(*arguments, **options).as_text())
                    self.programs.append(programs[0])
                result = dispatch(*arguments, **options)
                self.append("dispatch")
                self.results.append(jax.tree.leaves(result))
                self.metrics = result[1]
                return result

            return logged

        monkeypatch.setattr(loop, "make_dispatch", make_logged)
        self._log_fetches(monkeypatch)
        for owner in (jax, ARRAY):
            monkeypatch.setattr(owner, "block_until_ready", self._logged_wait(owner.block_until_ready))

    def _log_fetches(self, monkeypatch):
        """Log every transfer to the host: the value of an array, and functions that read its memory directly."""
        value = ARRAY._value.fget

        def logged(array):
            self.append("fetch")
            return value(array)

        monkeypatch.setattr(ARRAY, "_value", property(logged))
        for module, name in ((jax, "device_get"), (np, "asarray"), (np, "array")):
            monkeypatch.setattr(module, name, self._logged(getattr(module, name)))

    def _logged(self, fetch):
        def logged(value, *arguments, **options):
            if any(isinstance(leaf, ARRAY) for leaf in jax.tree.leaves(value)):
                self.append("fetch")
            return fetch(value, *arguments, **options)

        return logged

    def _logged_wait(self, wait):
        def logged(value):
            old = {id(leaf) for result in self.results[:-IN_FLIGHT] for leaf in result}
            if any(isinstance(leaf, ARRAY) and id(leaf) not in old for leaf in jax.tree.leaves(value)):
                self.append("wait")
            return wait(value)

        return logged

    def on_duration(self, event, seconds, **_):
        if event == COMPILATION:
            self.append("compile")

    def within_epochs(self):
        """Return the events between the second and the last dispatch of each epoch."""
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
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_LOOKS", float("inf"))  # disables the only allowed fetch
    jax.monitoring.register_event_duration_secs_listener(log.on_duration)
    yield log
    jax.monitoring.unregister_event_duration_listener(log.on_duration)


def watched(progress, log, last=None):
    """Return a hook that logs the end of each epoch and stops the training after epoch ``last``."""

    class Watched(type(progress)):
        def epoch(self, snapshot):
            super().epoch(snapshot)
            log.append("epoch")
            if len(snapshot.rows) == last:
                raise KeyboardInterrupt

    return Watched()


def test_epochs_do_not_wait_and_only_the_first_one_compiles(experiment, tmp_path, progress, log):
    train(experiment, tmp_path / "run", watched(progress, log))
    assert log.count("dispatch") == 3 * STEPS
    assert log.within_epochs() == []
    first = log.index("epoch")
    assert "compile" in log[:first]
    assert "compile" not in log[first:]  # neither steps, evaluation nor saving compile again


def test_a_resumed_run_uses_the_same_programs(experiment, tmp_path, progress, log):
    with pytest.raises(KeyboardInterrupt):
        train(experiment, tmp_path / "run", watched(progress, log, last=1))
    del log[:]
    loop.shared_dispatch.cache_clear()  # as in a new process
    train(experiment, tmp_path / "run", watched(progress, log))
    assert log.count("dispatch") == 2 * STEPS
    fresh, resumed = log.programs
    assert fresh == resumed
    second = [index for index, event in enumerate(log) if event == "dispatch"][1]
    assert "compile" not in log[second:]  # the first start compiled the evaluation
    assert log.within_epochs() == []


QUICK_FETCHES = (float, lambda a: jax.device_get(a), lambda a: np.asarray(a), lambda a: a.block_until_ready())
OTHER_FETCHES = (
    int, bool, str, lambda a: a.item(), lambda a: a.tolist(), lambda a: np.array(a), lambda a: f"{a:.2f}",
    lambda a: 1.0 if a > 2 else 0.0, lambda a: jax.block_until_ready(a), lambda a: jax.block_until_ready([a, a]),
)  # fmt: skip


@pytest.mark.parametrize(
    "fetch", [*QUICK_FETCHES, *(pytest.param(fetch, marks=pytest.mark.trains_long) for fetch in OTHER_FETCHES)]
)
def test_the_log_detects_every_kind_of_fetch_and_wait(experiment, tmp_path, progress, log, fetch):
    experiment = experiment.replace(train=experiment.train.replace(epochs=1))
    folder = RunFolder(tmp_path / "run")
    folder.start("run", experiment)
    fit_run(experiment, folder, watched(progress, log), poll=lambda: fetch(log.metrics.loss))
    assert log.within_epochs()


@pytest.mark.trains_long
def test_the_loop_waits_only_if_too_many_steps_are_queued(experiment, tmp_path, progress, log, monkeypatch):
    waits = []
    monkeypatch.setattr(loop, "_is_ready", lambda array: False)
    wait = jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: waits.append(log.count("dispatch")) or wait(tree))
    train(experiment, tmp_path / "run", watched(progress, log))
    assert waits[: STEPS - IN_FLIGHT] == list(range(IN_FLIGHT + 1, STEPS + 1))
    assert log.within_epochs() == []


@pytest.mark.trains_long
def test_the_progress_bar_fetches_only_computed_values(experiment, tmp_path, progress, log, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_LOOKS", 0.0)
    ready, device_get = [], jax.device_get

    def check_ready(tree):
        epoch = log[len(log) - log[::-1].index("epoch") :] if "epoch" in log else log
        if epoch.count("dispatch") < STEPS:
            ready.append(all(leaf.is_ready() for leaf in jax.tree.leaves(tree)))
        return device_get(tree)

    monkeypatch.setattr(jax, "device_get", check_ready)
    train(experiment, tmp_path / "run", watched(progress, log))
    assert ready
    assert all(ready)
