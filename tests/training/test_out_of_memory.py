"""Running out of memory gives one error with the batch size that fits."""

import jax
import pytest
from conftest import fit_run

from cnnjax.errors import UserError
from cnnjax.runs.folder import RunFolder
from cnnjax.training import loop, out_of_memory
from cnnjax.training.out_of_memory import smaller

QUEUED = jax.errors.JaxRuntimeError(
    "INTERNAL: Error dispatching computation: Error dispatching computation: Out of memory allocating 123 bytes."
)
SHORTAGE = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")


def train(experiment, path, progress):
    folder = RunFolder(path)
    folder.start("run", experiment)
    return fit_run(experiment, folder, progress)


@pytest.fixture
def short(monkeypatch):
    """Return a function that makes dispatches of more than ``most`` images fail. ``errors`` overrides by batch size."""

    def short(most, error=SHORTAGE, errors=None):
        def limited(make):
            def make_dispatch(step, batch_size, *arguments):
                dispatch = make(step, batch_size, *arguments)

                def call(*arguments, **options):
                    if batch_size > most:
                        raise (errors or {}).get(batch_size, error)
                    return dispatch(*arguments, **options)

                return call

            return make_dispatch

        for module in (loop, out_of_memory):
            monkeypatch.setattr(module, "make_dispatch", limited(module.make_dispatch))

    return short


@pytest.mark.parametrize("error", [SHORTAGE, QUEUED, MemoryError()])
def test_the_error_names_the_batch_size_that_fits_and_helpful_options(experiment, tmp_path, progress, short, error):
    short(16, error)
    with pytest.raises(UserError) as raised:
        train(experiment, tmp_path / "run", progress)
    for expected in ("train.batch_size 32; 8 fits (tried)", "--train.accumulate", "--train.remat"):
        assert expected in str(raised.value)
    assert [notice.rpartition("; ")[2] for notice in progress.notices] == ["trying 16 ...", "trying 8 ..."]


def test_a_batch_size_that_barely_fits_is_not_advised(experiment, tmp_path, progress, short):
    short(23)  # 16 fits, but not the 24 that a whole run may need
    with pytest.raises(UserError, match=r"train.batch_size 32; 8 fits \(tried\)"):
        train(experiment, tmp_path / "run", progress)


def test_a_trial_that_fails_with_another_error_does_not_fit(experiment, tmp_path, progress, short):
    """XLA's CPU kernels may report INTERNAL if they run out of memory."""
    short(16, errors={24: jax.errors.JaxRuntimeError("INTERNAL: a kernel failed")})
    with pytest.raises(UserError, match=r"train.batch_size 32; 8 fits \(tried\)"):
        train(experiment, tmp_path / "run", progress)


def test_the_error_says_if_no_batch_size_fits(experiment, tmp_path, progress, short):
    short(0)
    with pytest.raises(UserError, match="no smaller batch size fits"):
        train(experiment, tmp_path / "run", progress)


def test_other_device_errors_are_raised(experiment, tmp_path, progress, short):
    short(8, jax.errors.JaxRuntimeError("INTERNAL: something else"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        train(experiment, tmp_path / "run", progress)


def test_an_evaluation_that_does_not_fit_names_eval_batch_size(experiment, tmp_path, progress, monkeypatch):
    def fail(*arguments):
        raise SHORTAGE

    monkeypatch.setattr(loop, "evaluate", fail)
    with pytest.raises(UserError, match=r"in an evaluation with train.eval_batch_size 50; use a smaller one"):
        train(experiment, tmp_path / "run", progress)


def test_images_that_do_not_fit_on_the_device_are_reported(experiment, tmp_path, progress, monkeypatch):
    def fail(*arguments):
        raise SHORTAGE

    monkeypatch.setattr(loop, "make_loader", fail)
    with pytest.raises(UserError, match=r"out of memory copying the images of mnist to the device; use fewer"):
        train(experiment, tmp_path / "run", progress)


def test_smaller_batch_sizes_are_halves_divisible_by_accumulate():
    assert list(smaller(100, 1)) == [50, 25, 12, 6, 3, 1]
    assert list(smaller(96, 4)) == [48, 24, 12, 4]
