"""What is said where the device's memory does not suffice: a sentence with what does fit, which was tried."""

import contextlib
import traceback
from collections.abc import Callable, Iterator

import jax

from cnnjax.config import Experiment
from cnnjax.data import DeviceSplit, Preprocessing, epoch_order
from cnnjax.data.loader import IN_FLIGHT
from cnnjax.errors import UserError
from cnnjax.optim import Hyperparameters
from cnnjax.training.state import init_state, step_key
from cnnjax.training.step import make_dispatch, make_train_step

ERRORS = (MemoryError, jax.errors.JaxRuntimeError)
"""What may say that memory is short; `is_shortage` knows whether it does."""


SAID = ("RESOURCE_EXHAUSTED", "Out of memory")
"""XLA says one or both; where a call that was queued fails, its first words are of the queue."""


def is_shortage(error: BaseException) -> bool:
    """Return whether an error says that memory is short."""
    return isinstance(error, MemoryError) or (isinstance(error, ERRORS) and any(said in str(error) for said in SAID))


SPARE = 2
"""A batch is said to fit where one larger by half did: memory is fragmented in another way in each process."""


@contextlib.contextmanager
def explained(doing: str, advice: str) -> Iterator[None]:
    """Turn a shortage into a UserError ``out of memory DOING; ADVICE``."""
    try:
        yield
    except ERRORS as error:
        if not is_shortage(error):
            raise
        raise UserError(f"out of memory {doing}; {advice}") from error


def in_evaluation(batch_size: int) -> contextlib.AbstractContextManager[None]:
    """Explain a shortage in an evaluation with that many images at once."""
    return explained(
        f"in an evaluation of train.eval_batch_size {batch_size}", "give a lower one; that is a run with another --out"
    )


def in_training(
    error: BaseException, experiment: Experiment, hyperparameters: Hyperparameters, preprocessing: Preprocessing,
    sample: Callable[[int], DeviceSplit], notice: Callable[[str], None],
) -> UserError:  # fmt: skip
    """Return what is said of a training step that did not fit, after smaller batches were tried.

    The caller has let go of the state that it trained, and here so do the calls that failed. ``sample`` gives at least
    as many training images as it is asked for.
    """
    traceback.clear_frames(error.__traceback__)
    config = experiment.train
    fits = 0
    for batch_size in smaller(config.batch_size, config.accumulate):
        notice(f"out of memory at train.batch_size {config.batch_size}; trying {batch_size} ...")
        spare = batch_size // SPARE // config.accumulate * config.accumulate
        if step_fits(experiment, hyperparameters, preprocessing, sample, batch_size + spare):
            fits = batch_size
            break
    return UserError(
        f"out of memory in a training step of train.batch_size {config.batch_size}; "
        + (f"{fits} fits (tried)" if fits else "no smaller batch was found to fit")
        + ", or keep the batch with --train.accumulate, which sends it through in parts, or --train.remat, which "
        "computes activations again in place of keeping them; another setting is another run, with another --out"
    )


def smaller(batch_size: int, accumulate: int) -> Iterator[int]:
    """Yield half the batch size, half of that, and so on, each a multiple of ``accumulate``."""
    while batch_size := batch_size // 2 // accumulate * accumulate:
        yield batch_size


def step_fits(
    experiment: Experiment, hyperparameters: Hyperparameters, preprocessing: Preprocessing,
    sample: Callable[[int], DeviceSplit], batch_size: int,
) -> bool:  # fmt: skip
    """Run some steps with that batch size, queued as in a training; return whether memory sufficed."""
    try:
        data = sample(batch_size)
        count = len(data.labels)
        dispatch = make_dispatch(make_train_step(experiment, preprocessing), batch_size, count // batch_size)
        order = jax.device_put(epoch_order(experiment.seed, 0, count))
        state = init_state(experiment, hyperparameters)
        for _ in range(IN_FLIGHT + 1):
            state, metrics = dispatch(state, data, order, step_key(experiment.seed), hyperparameters, steps=1)
        jax.block_until_ready((state, metrics))
    except ERRORS:  # of any kind: under a shortage XLA's own kernels may fail without saying that it is one
        return False
    return True
