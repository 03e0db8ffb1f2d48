"""Turn out-of-memory errors into messages that name the batch size that fits, found by trial."""

import contextlib
import traceback
from collections.abc import Callable, Iterator

import jax

from cnnjax.config import Experiment
from cnnjax.data import DeviceSplit, Preprocessing, epoch_order
from cnnjax.data.loader import IN_FLIGHT
from cnnjax.errors import UserError
from cnnjax.optim import Hyperparameters
from cnnjax.parallel import current_placement
from cnnjax.training.state import init_state, step_key
from cnnjax.training.step import make_dispatch, make_train_step

ERRORS = (MemoryError, jax.errors.JaxRuntimeError)
"""Exceptions that may report an out-of-memory condition; `is_shortage` decides."""

MARKERS = ("RESOURCE_EXHAUSTED", "Out of memory")
"""Substrings of XLA's out-of-memory messages, not always at the start: a failed queued call names the queue first."""


def is_shortage(error: BaseException) -> bool:
    """Return whether an error reports an out-of-memory condition."""
    return isinstance(error, MemoryError) or (
        isinstance(error, ERRORS) and any(marker in str(error) for marker in MARKERS)
    )


@contextlib.contextmanager
def explained(doing: str, advice: str) -> Iterator[None]:
    """Turn an out-of-memory error into a UserError ``out of memory DOING; ADVICE``."""
    try:
        yield
    except ERRORS as error:
        if not is_shortage(error):
            raise
        raise UserError(f"out of memory {doing}; {advice}") from error


def in_evaluation(batch_size: int) -> contextlib.AbstractContextManager[None]:
    """Explain an out-of-memory error in an evaluation with this batch size."""
    return explained(f"in an evaluation with train.eval_batch_size {batch_size}", "use a smaller one and another --out")


def in_training(
    error: BaseException, experiment: Experiment, hyperparameters: Hyperparameters, preprocessing: Preprocessing,
    sample: Callable[[int], DeviceSplit], notice: Callable[[str], None],
) -> UserError:  # fmt: skip
    """Return the error for a training step that did not fit, after trying smaller batches.

    The caller has released the state that it trained; this function releases the frames of the failed calls.
    ``sample`` returns at least as many training images as requested, or all if there are fewer.
    """
    traceback.clear_frames(error.__traceback__)
    config = experiment.train
    fits = 0
    alone = not current_placement().spans_processes  # a trial needs all processes, and only some may be out of memory
    for batch_size in smaller(config.batch_size, config.accumulate) if alone else ():
        notice(f"out of memory at train.batch_size {config.batch_size}; trying {batch_size} ...")
        trial = with_spare(batch_size, config.batch_size) // config.accumulate * config.accumulate
        if step_fits(experiment, hyperparameters, preprocessing, sample, trial):
            fits = batch_size
            break
    return UserError(
        f"out of memory in a training step with train.batch_size {config.batch_size}; "
        + (f"{fits} fits (tried)" if fits else "no smaller batch size fits" if alone else "use a smaller one")
        + ", or keep the batch size and set --train.accumulate, which splits the batch, or --train.remat, which "
        "recomputes activations instead of keeping them; a changed setting needs another --out"
    )


def with_spare(batch_size: int, failed: int) -> int:
    """Return the batch size to try before ``batch_size`` is advised: twice as large, or midway to the one that failed.

    Each process fragments its memory differently, so a batch that just fits here need not fit in the next run.
    """
    return min(2 * batch_size, (batch_size + failed) // 2)


def smaller(batch_size: int, accumulate: int) -> Iterator[int]:
    """Yield half the batch size, half of that, and so on, each a multiple of ``accumulate``."""
    while batch_size := batch_size // 2 // accumulate * accumulate:
        yield batch_size


def step_fits(
    experiment: Experiment, hyperparameters: Hyperparameters, preprocessing: Preprocessing,
    sample: Callable[[int], DeviceSplit], batch_size: int,
) -> bool:  # fmt: skip
    """Run a few steps with this batch size, queued as in training, and return whether they fit into memory."""
    try:
        data = sample(batch_size)
        count = len(data.labels)
        dispatch = make_dispatch(make_train_step(experiment, preprocessing), batch_size, count // batch_size)
        placement = current_placement()
        order = placement.put(epoch_order(experiment.seed, 0, count))
        state = placement.spread(init_state(experiment, hyperparameters))
        for _ in range(IN_FLIGHT + 1):
            with placement.active():
                state, metrics = dispatch(state, data, order, step_key(experiment.seed), hyperparameters, steps=1)
        jax.block_until_ready((state, metrics))
    except ERRORS:  # of any kind: XLA's kernels may fail with another error when out of memory
        return False
    return True
