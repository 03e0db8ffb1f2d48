"""How fast members of a sweep train side by side on one accelerator: `scripts/benchmark.py members`.

LeNet-5 on random images, with the compiled step that a sweep uses. Each way of stacking trains whole epochs, which take
turns; the first epoch of each, with compilation, is not counted. Nothing is evaluated or written.
"""

import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
from pydantic import Field
from rich.console import Console

from cnnjax import cli, create
from cnnjax.benchmark import machine, page
from cnnjax.benchmark.options import command_line, markdown_table, parse_work
from cnnjax.config import Experiment, Optimizer, Train
from cnnjax.data import DeviceSplit, Preprocessing
from cnnjax.errors import require
from cnnjax.ops.dispatch import conv_library, steps_per_dispatch
from cnnjax.optim import make_hyperparameters
from cnnjax.schema import Schema
from cnnjax.training.stacked import stack
from cnnjax.training.state import init_state, step_key
from cnnjax.training.step import make_stacked_dispatch, make_train_step


class Work(Schema, at="--"):
    """Options: the members, their data, and the number of turns."""

    members: Annotated[int, Field(ge=1)] = 64
    """Members that train side by side."""
    images: Annotated[int, Field(ge=1)] = 60_000
    """Training images of an epoch, 28x28 pixels."""
    batch: Annotated[int, Field(ge=1)] = 256
    """Batch size of each member."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the network."""
    turns: Annotated[int, Field(ge=1)] = 5
    """Number of measured epochs of each way."""
    platform: cli.Platform = "auto"
    """Device to compute on; auto picks an accelerator if there is one."""

    def __post_init__(self) -> None:
        require(self.batch <= self.images, "--batch", self.batch, f"at most the {self.images:,} --images")


class Way(NamedTuple):
    """A way to stack members."""

    name: str
    shares_batches: bool
    packs: bool
    members: int | None = None
    """Number of members; None: all."""


WAYS = (
    Way("one member", False, False, 1),
    Way("plain vmap", False, False),
    Way("packed kernels", False, True),
    Way("shared batches", True, False),
    Way("shared batches and packed kernels", True, True),
)
HEADER = ("", "seconds per epoch", "smallest-largest", "ms per step", "compilation, s")


class Measured(NamedTuple):
    """Seconds of the measured epochs of a way, and of its first epoch."""

    seconds: list[float]
    first: float


def run(arguments: list[str]) -> None:
    """Parse the command line, measure, print."""
    work, write = parse_work(
        Work, arguments, "members", "Measure how fast members of a sweep train side by side in one program."
    )
    cli.start_jax(work.platform)
    measured = measure(work)
    steps = work.images // work.batch
    rows = [_row(name, result, steps) for name, result in measured.items()]
    if conv_library(np.dtype(work.dtype)) != "xla":
        print("notice: packed kernels are used on accelerators only; on this CPU those rows are plain vmap")
    page.finish(HEADER, rows, [])
    if write:
        page.write_section(f"Members side by side, {machine.processor()}", _section(work, arguments, rows))


def measure(work: Work) -> dict[str, Measured]:
    """Return the seconds of each way, measured in turns."""
    measured = {}
    with Console(stderr=True).status("") as status:
        epochs = {}
        for way in WAYS:
            status.update(f"compiling: {way.name}")
            epochs[way.name] = _epoch(work, way)
            measured[way.name] = Measured([], _seconds(epochs[way.name]))
        for turn in range(work.turns):
            status.update(f"turn {turn + 1} of {work.turns}")
            for name, epoch in epochs.items():
                measured[name].seconds.append(_seconds(epoch))
    return measured


def _seconds(epoch: Callable[[], None]) -> float:
    started = time.perf_counter()
    epoch()
    return time.perf_counter() - started


def _epoch(work: Work, way: Way) -> Callable[[], None]:
    """Return a function that trains an epoch of all members, as `cnnjax.training.stacked` does."""
    count, steps = way.members or work.members, work.images // work.batch
    rates = np.geomspace(1e-4, 1e-2, count).tolist()
    experiments = [
        Experiment(
            model=create("lenet", activation="relu", dtype=work.dtype), optimizer=Optimizer(lr=rate),
            train=Train(batch_size=work.batch), seed=0 if way.shares_batches else seed,
        )
        for seed, rate in enumerate(rates)
    ]  # fmt: skip
    values = [make_hyperparameters(experiment, steps) for experiment in experiments]
    train_step = make_train_step(experiments[0], Preprocessing(height=28, width=28, mean=(0.5,), std=(0.5,)))
    dispatch = make_stacked_dispatch(
        train_step, work.batch, steps, shares_batches=way.shares_batches, packs=way.packs
    )  # fmt: skip
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (work.images, 28, 28, 1), np.uint8)
    data = DeviceSplit(*jax.device_put((images, rng.integers(0, 10, work.images, np.int32))))
    orders = np.stack([np.random.default_rng(e.seed).permutation(work.images) for e in experiments], dtype=np.int32)
    fixed = jax.device_put(
        (orders, jax.numpy.stack([step_key(e.seed) for e in experiments]), stack(values), np.ones(count, bool))
    )
    state: list[Any] = [stack([init_state(e, value) for e, value in zip(experiments, values, strict=True)])]
    most = steps_per_dispatch(jax.default_backend(), steps)

    def epoch() -> None:
        for start in range(0, steps, most):
            state[0], _ = dispatch(state[0], data, *fixed, steps=min(most, steps - start))
        jax.block_until_ready(state[0])

    return epoch


def _row(name: str, result: Measured, steps: int) -> tuple[str, ...]:
    median = statistics.median(result.seconds)
    spread = f"{min(result.seconds):.3f}-{max(result.seconds):.3f}"
    return name, f"{median:.3f}", spread, f"{1000 * median / steps:.2f}", f"{result.first - median:.1f}"


def _section(work: Work, arguments: list[str], rows: list[tuple[str, ...]]) -> list[str]:
    return [
        command_line("members", "", arguments, (), ("jax",)),
        markdown_table(HEADER, rows),
        f"{work.members} LeNet-5 with ReLU side by side, adam, {work.images:,} images at batch {work.batch}, "
        f"{work.dtype}; medians over {work.turns} epochs that take turns, without evaluation.",
    ]
