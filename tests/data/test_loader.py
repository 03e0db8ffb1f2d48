import threading

import jax
import numpy as np
import pytest
from conftest import fit_run

from cnnjax import checkpoint, data
from cnnjax.data import loader
from cnnjax.data.loader import AHEAD, LoadingPlan, Resident, Streamed, loading_plan
from cnnjax.functional import abstract_variables, leaves_by_path
from cnnjax.parallel import current_placement
from cnnjax.runs.folder import RunFolder
from cnnjax.training import loop

BATCH = 8
PLACEMENT = current_placement()


@pytest.fixture
def split(experiment):
    return data.load(experiment.data).train


def batches_by_step(chunks):
    """Return the images and labels of each step, indexed as in `make_dispatch`."""
    batches = {}
    for images_and_labels, order, start, steps, _ in chunks:
        first = 0 if start is None else int(start)
        for step in range(first, first + steps) if start is not None else range(len(batches), len(batches) + steps):
            picked = order[(step - first) * BATCH : (step - first + 1) * BATCH]
            batches[step] = [np.asarray(array)[picked] for array in images_and_labels]
    return batches


@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_resident_and_streamed_loaders_follow_the_order(split, chunk):
    order = np.random.default_rng(0).permutation(len(split.labels)).astype(np.int32)
    resident, streamed = (
        batches_by_step(source.epoch(order, 0, 10))
        for source in (Resident(split, chunk, PLACEMENT), Streamed(split, BATCH, chunk, PLACEMENT))
    )
    assert list(resident) == list(streamed) == list(range(10))
    for step, expected in resident.items():
        picked = order[step * BATCH : (step + 1) * BATCH]
        for one, other, host in zip(expected, streamed[step], split, strict=True):
            np.testing.assert_array_equal(one, host[picked])
            np.testing.assert_array_equal(other, host[picked])


def test_an_epoch_resumes_from_a_step_within_it(split):
    order = np.arange(len(split.labels), dtype=np.int32)
    batches = batches_by_step(Streamed(split, BATCH, 3, PLACEMENT).epoch(order, 5, 10))
    assert list(batches) == [5, 6, 7, 8, 9]
    np.testing.assert_array_equal(batches[9][1], split.labels[72:80])


def test_at_most_two_chunks_are_loaded_ahead(split, monkeypatch):
    sent, put = [], Streamed._put
    monkeypatch.setattr(Streamed, "_put", lambda self, *arrays: sent.append(arrays) or put(self, *arrays))
    chunks = Streamed(split, BATCH, 1, PLACEMENT).epoch(np.arange(len(split.labels), dtype=np.int32), 0, 10)
    next(chunks)
    assert 1 <= len(sent) <= 1 + AHEAD
    next(chunks)
    assert len(sent) <= 2 + AHEAD
    chunks.close()
    assert len(sent) <= 2 + AHEAD
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_an_error_in_the_loading_thread_is_raised_in_the_consumer(split, monkeypatch):
    def fail(self, *arrays):
        raise MemoryError("no room")

    monkeypatch.setattr(Streamed, "_put", fail)
    with pytest.raises(MemoryError, match="no room"):
        next(Streamed(split, BATCH, 1, PLACEMENT).epoch(np.arange(80, dtype=np.int32), 0, 10))


def test_large_sets_are_streamed(split, monkeypatch):
    for memory, expected in ((None, (True, 64)), (4 * split.images.nbytes, (True, 64)), (10_000, (False, 64))):
        monkeypatch.setattr(loader, "device_memory", lambda memory=memory: memory)
        assert loading_plan(split, BATCH, 64) == LoadingPlan(*expected)
    monkeypatch.setattr(loader, "CHUNK_BYTES", 3 * BATCH * 28 * 28)
    assert loading_plan(split, BATCH, 64) == LoadingPlan(False, 3)
    monkeypatch.setattr(loader, "CHUNK_BYTES", 1)
    assert loading_plan(split, BATCH, 64) == LoadingPlan(False, 1)


@pytest.mark.trains_long
def test_streamed_and_resident_training_give_the_same_bits(experiment, tmp_path, progress, monkeypatch):
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
