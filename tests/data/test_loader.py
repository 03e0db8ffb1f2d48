import threading

import jax
import numpy as np
import pytest
from conftest import fit_run

from cnnjax import checkpoint, data
from cnnjax.data import loader
from cnnjax.data.loader import AHEAD, LoadingPlan, Resident, Streamed, loading_plan
from cnnjax.functional import abstract_variables, leaves_by_path
from cnnjax.parallel import one_device
from cnnjax.runs.folder import RunFolder
from cnnjax.training import loop

BATCH = 8
PLACEMENT = one_device()


@pytest.fixture
def split(experiment):
    return data.load(experiment.data).train


def seen(portions):
    """Return what each step sees: its images and labels, by the rule of `make_dispatch`."""
    found = {}
    for images_and_labels, order, start, steps, _ in portions:
        first = 0 if start is None else int(start)
        for step in range(first, first + steps) if start is not None else range(len(found), len(found) + steps):
            picked = order[(step - first) * BATCH : (step - first + 1) * BATCH]
            found[step] = [np.asarray(array)[picked] for array in images_and_labels]
    return found


@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_each_step_sees_the_images_of_the_order_in_either_way(split, chunk):
    order = np.random.default_rng(0).permutation(len(split.labels)).astype(np.int32)
    resident, streamed = (
        seen(way.epoch(order, 0, 10))
        for way in (Resident(split, chunk, PLACEMENT), Streamed(split, BATCH, chunk, PLACEMENT))
    )
    assert list(resident) == list(streamed) == list(range(10))
    for step, expected in resident.items():
        picked = order[step * BATCH : (step + 1) * BATCH]
        for one, other, host in zip(expected, streamed[step], split, strict=True):
            np.testing.assert_array_equal(one, host[picked])
            np.testing.assert_array_equal(other, host[picked])


def test_an_epoch_goes_on_from_a_step_within_it(split):
    order = np.arange(len(split.labels), dtype=np.int32)
    found = seen(Streamed(split, BATCH, 3, PLACEMENT).epoch(order, 5, 10))
    assert list(found) == [5, 6, 7, 8, 9]
    np.testing.assert_array_equal(found[9][1], split.labels[72:80])


def test_two_portions_are_on_their_way_and_no_more(split, monkeypatch):
    sent, send = [], Streamed._send
    monkeypatch.setattr(Streamed, "_send", lambda self, indices: sent.append(indices) or send(self, indices))
    portions = Streamed(split, BATCH, 1, PLACEMENT).epoch(np.arange(len(split.labels), dtype=np.int32), 0, 10)
    next(portions)
    assert 1 <= len(sent) <= 1 + AHEAD
    next(portions)
    assert len(sent) <= 2 + AHEAD
    portions.close()
    assert len(sent) <= 2 + AHEAD
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_what_fails_in_the_thread_is_raised_where_the_images_are_taken(split, monkeypatch):
    def fail(self, indices):
        raise MemoryError("no room")

    monkeypatch.setattr(Streamed, "_send", fail)
    with pytest.raises(MemoryError, match="no room"):
        next(Streamed(split, BATCH, 1, PLACEMENT).epoch(np.arange(80, dtype=np.int32), 0, 10))


def test_the_rule(split, monkeypatch):
    for memory, expected in ((None, (True, 64)), (4 * split.images.nbytes, (True, 64)), (10_000, (False, 64))):
        monkeypatch.setattr(loader, "device_memory", lambda memory=memory: memory)
        assert loading_plan(split, BATCH, 64) == LoadingPlan(*expected)
    monkeypatch.setattr(loader, "CHUNK_BYTES", 3 * BATCH * 28 * 28)
    assert loading_plan(split, BATCH, 64) == LoadingPlan(False, 3)
    monkeypatch.setattr(loader, "CHUNK_BYTES", 1)
    assert loading_plan(split, BATCH, 64) == LoadingPlan(False, 1)


def test_a_streamed_training_ends_with_the_bits_of_a_resident_one(experiment, tmp_path, progress, monkeypatch):
    def trained(name):
        folder = RunFolder(tmp_path / name)
        folder.start(name, experiment)
        fit_run(experiment, folder, progress)
        (newest,) = sorted(folder.checkpoints.glob("step-*"))[-1:]
        like = abstract_variables(experiment.model)._asdict()
        return leaves_by_path(checkpoint.restore(checkpoint.open_checkpoint(newest), "variables", like))

    resident = trained("resident")
    monkeypatch.setattr(loader, "device_memory", lambda: 1)
    monkeypatch.setattr(loader, "CHUNK_BYTES", 3 * experiment.train.batch_size * 28 * 28)
    monkeypatch.setattr(loop, "steps_per_dispatch", lambda backend, steps: 1)
    streamed = trained("streamed")
    assert resident.keys() == streamed.keys()
    assert jax.tree.all(jax.tree.map(np.array_equal, resident, streamed))
