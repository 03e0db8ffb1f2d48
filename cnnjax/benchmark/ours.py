"""The training of this project: the step that `cnnjax.train.loop` runs, fed as it feeds it.

`python -m cnnjax.benchmark.ours lenet` prints its timing.
"""

import time
from collections import deque
from importlib.metadata import version

import jax
import jax.numpy as jnp

from cnnjax import benchmark, cli
from cnnjax.benchmark import LEARNING_RATE, MEAN, STD, WARM_UP_STEPS, Timing, Work
from cnnjax.config import Optimizer, Schedule
from cnnjax.data import Preprocessing, epoch_order
from cnnjax.models import create
from cnnjax.models.convolution import lowering
from cnnjax.optim import make_optimizer, make_schedule
from cnnjax.train.evaluation import to_device
from cnnjax.train.loop import IN_FLIGHT
from cnnjax.train.step import TrainState, init_state, make_dispatch, make_train_step, step_key, steps_per_dispatch

MODELS = {"lenet": create("lenet", activation="sigmoid", pooling="avg")}
PACKAGES = ("cnnjax", "jax", "jaxlib", "flax", "optax", "numpy")
PLATFORMS: dict[str, cli.Platform] = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


def train(work: Work) -> Timing:
    """Time the project's own training step."""
    cli.use_platform(work.platform)
    arch = MODELS[work.model]
    schedule = make_schedule(Schedule(), LEARNING_RATE, work.steps, work.epochs)
    optimizer = make_optimizer(Optimizer(name="adam", lr=LEARNING_RATE), schedule)
    height, width, _ = arch.image_shape
    preprocessing = Preprocessing(height=height, width=width, mean=MEAN, std=STD)
    train_step = make_train_step(arch, optimizer, preprocessing, label_smoothing=0.0)
    dispatch = make_dispatch(train_step, work.batch, work.steps)
    data, key = to_device(benchmark.made_up(work)), step_key(0)
    chunk = steps_per_dispatch(jax.default_backend(), work.steps)
    chunks = [min(chunk, work.steps - first) for first in range(0, work.steps, chunk)]

    def run(state: TrainState, epoch: int, chunks: list[int]) -> TrainState:
        order = jax.device_put(epoch_order(0, epoch, work.images))
        in_flight: deque[jax.Array] = deque()
        for steps in chunks:
            state, tally = dispatch(state, data, order, key, steps=steps)
            in_flight.append(tally.loss)
            if len(in_flight) > IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
        jax.device_get(state.tally)
        return state

    state = init_state(arch, optimizer, seed=0)
    parameters = benchmark.check_parameters(work, sum(leaf.size for leaf in jax.tree.leaves(state.params)))
    started = time.perf_counter()
    state = run(state, 0, chunks[:1])
    first_step_seconds = time.perf_counter() - started
    run(state, 0, [*chunks[:WARM_UP_STEPS], chunks[-1]])  # the last dispatch may be a shorter one, compiled apart

    state = init_state(arch, optimizer, seed=0)

    def run_epoch(epoch: int) -> None:
        nonlocal state
        state = run(state, epoch, chunks)

    return Timing(
        how=f"{chunk} {'step' if chunk == 1 else 'steps'} a dispatch; convolution by {lowering(jnp.dtype('float32'))}",
        packages=tuple(f"{name} {version(name)}" for name in PACKAGES),
        platform=PLATFORMS[jax.default_backend()],
        device=jax.devices()[0].device_kind,
        threads=benchmark.cores(),
        parameters=parameters,
        first_step_seconds=first_step_seconds,
        epoch_seconds=benchmark.time_epochs(work, run_epoch),
    )


if __name__ == "__main__":
    benchmark.serve(train)
