"""What is said where the device's memory does not suffice: a sentence with what does fit, which was tried."""

import contextlib
import traceback
from collections.abc import Callable, Iterator

import jax

from cnnjax.config import Experiment
from cnnjax.data import Preprocessing, epoch_order
from cnnjax.errors import UserError
from cnnjax.optim import make_optimizer
from cnnjax.training.evaluation import IN_FLIGHT, DeviceSplit
from cnnjax.training.step import init_state, make_dispatch, make_train_step, step_key

ERRORS = (MemoryError, jax.errors.JaxRuntimeError)
"""What may say that memory is short; `is_shortage` knows whether it does."""


SAID = ("RESOURCE_EXHAUSTED", "Out of memory")
"""XLA says one or both; where a call that was queued fails, its first words are of the queue."""


def is_shortage(error: BaseException) -> bool:
    """Return whether an error says that memory is short."""
    return isinstance(error, MemoryError) or (isinstance(error, ERRORS) and any(said in str(error) for said in SAID))


SPARE = 4
"""A batch is said to fit where one larger by a part in so many did: a run needs a little more than a few steps."""


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
    error: BaseException, experiment: Experiment, preprocessing: Preprocessing, train: DeviceSplit,
    notice: Callable[[str], None],
) -> UserError:  # fmt: skip
    """Return what is said of a training step that did not fit, after smaller batches were tried.

    The caller has let go of the state that it trained, and here so do the calls that failed.
    """
    traceback.clear_frames(error.__traceback__)
    config = experiment.train
    fits = 0
    for batch_size in smaller(config.batch_size, config.accumulate):
        notice(f"out of memory at train.batch_size {config.batch_size}; trying {batch_size} ...")
        spare = batch_size // SPARE // config.accumulate * config.accumulate
        if step_fits(experiment, preprocessing, train, batch_size + spare):
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


def step_fits(experiment: Experiment, preprocessing: Preprocessing, train: DeviceSplit, batch_size: int) -> bool:
    """Run some steps with that batch size, queued as in a training; return whether memory sufficed."""
    arch, config, count = experiment.model, experiment.train, len(train.labels)
    try:
        optimizer = make_optimizer(experiment.optimizer, lambda step: experiment.optimizer.lr)
        step = make_train_step(
            arch, optimizer, preprocessing, config.label_smoothing, experiment.augmentation, remat=config.remat,
            accumulate=config.accumulate,
        )  # fmt: skip
        dispatch = make_dispatch(step, batch_size, count // batch_size)
        order = jax.device_put(epoch_order(experiment.seed, 0, count))
        state = init_state(arch, optimizer, experiment.seed)
        for _ in range(IN_FLIGHT + 1):
            state, metrics = dispatch(state, train, order, step_key(experiment.seed), steps=1)
        jax.block_until_ready((state, metrics))
    except ERRORS:  # of any kind: under a shortage XLA's own kernels may fail without saying that it is one
        return False
    return True
