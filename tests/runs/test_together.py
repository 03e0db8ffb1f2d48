"""What the processes of a training compare; `tests/devices/test_hosts.py` trains on two of them."""

import copy

import jax
import pytest

from cnnjax.config import Phase
from cnnjax.errors import Diverged, Interrupted, PartlyDone, UserError
from cnnjax.parallel import processes
from cnnjax.runs import together
from cnnjax.training.early_stopping import EarlyStoppingState
from cnnjax.training.hooks import Snapshot
from tests.devices.training_cases import case


@pytest.fixture(autouse=True)
def still_connected(monkeypatch):
    monkeypatch.setattr(processes, "_abandoned", False)


@pytest.fixture
def other(monkeypatch):
    """Make this process the first of two; the second gives the same values, with the changes in this dictionary."""
    changes = {}
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "exchange", lambda value, *_: [value, {**copy.deepcopy(value), **changes}])
    return changes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train.epochs": "3"}, "train.epochs is 3 in process 1 and 1 in process 0; start all processes with the same"),
        ({"the sha256 of the images": "0" * 64}, "the sha256 of the images is 0000"),
        ({"the version of jax": "0.0.1"}, "the version of jax is 0.0.1 in process 1 and "),
        ({"seed": "1", "train.epochs": "3"}, "seed is 1 in process 1 and 0 in process 0 (and train.epochs)"),
    ],
)
def test_processes_with_other_options_data_or_packages_are_refused(other, changed, message):
    experiment, dataset = case("lenet")
    together.require_same(experiment, dataset)
    other.update(changed)
    with pytest.raises(UserError) as error:
        together.require_same(experiment, dataset)
    assert message in str(error.value)


def test_the_folder_of_the_data_may_differ(other, monkeypatch):
    given = []
    monkeypatch.setattr(processes, "exchange", lambda value, *_: given.append(value) or [value, value])
    experiment, dataset = case("lenet")
    together.require_same(experiment, dataset)
    assert "train.epochs" in given[0] and "data.dir" not in given[0]


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])
def test_a_connection_that_breaks_is_explained(other, kind):
    experiment, _ = case("lenet")
    with (
        pytest.raises(PartlyDone, match="another process of this training has ended.*again: repeat"),
        together.in_company(experiment, "repeat"),
    ):
        raise kind("UNKNOWN: Gloo all-reduce failed: Connection reset by peer")


def test_processes_that_compute_other_figures_are_refused(other):
    row = {"epoch": 1, "validation_loss": 0.5, "seconds": 1.0}
    snapshot = Snapshot(None, EarlyStoppingState(), [row], 0.0)
    together.Together().epoch(snapshot)
    other["validation_loss"] = 0.6
    with pytest.raises(UserError, match="process 1 has computed other figures than process 0 in epoch 1"):
        together.Together().epoch(snapshot)


def test_phases_are_refused_and_the_error_is_reported(other, monkeypatch):
    reported = []
    monkeypatch.setattr(processes, "fail", reported.append)
    experiment, _ = case("lenet")
    with (
        pytest.raises(UserError, match="has phases, which train on one host; leave --coordinator out, or give"),
        together.in_company(experiment.replace(phases=(Phase(),)), "repeat"),
    ):
        raise AssertionError
    assert len(reported) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UserError("known"), UserError),
        (Diverged("known"), Diverged),
        (Interrupted("known"), Interrupted),
        (RuntimeError("known"), PartlyDone),
        (OSError("known"), PartlyDone),
    ],
)
def test_a_failure_reaches_the_other_process_as_the_same_error(error, kind, monkeypatch):
    class Store(dict):
        key_value_set, key_value_try_get = dict.__setitem__, dict.__getitem__

    store = Store()
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "coordination_client", lambda: store)
    processes.fail(error)
    received = processes._failure(store, 0)
    assert isinstance(received, kind) and received.exit_code == kind.exit_code
    assert str(received) == "process 0: known"
    store.clear()
    processes.fail(received)
    assert not store  # an error that another process has reported is not reported again
