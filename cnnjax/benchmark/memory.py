"""How much memory a training step takes, and the largest batch that fits: `scripts/benchmark.py memory`.

Nothing is allocated and no step is run: the step that `cnnjax.training.loop` runs is compiled for shapes, and the
compiler says how much its program takes.
"""

import functools
import math
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from pydantic import Field
from rich.console import Console

from cnnjax import cli, parallel
from cnnjax.benchmark import machine, page
from cnnjax.benchmark.work import LARGEST_BATCH, Batches
from cnnjax.config import Experiment, Optimizer, Train
from cnnjax.data import Preprocessing
from cnnjax.errors import UserError, choose, require
from cnnjax.functional import chosen_stages, stages
from cnnjax.losses import Batch
from cnnjax.models import create, list_models
from cnnjax.models.layers import Arch
from cnnjax.ops.dispatch import compiler_options
from cnnjax.optim import make_hyperparameters
from cnnjax.parallel import device_memory
from cnnjax.schema import Number, Schema
from cnnjax.training.state import init_state
from cnnjax.training.step import make_train_step

GIB = 2**30
MULTIPLE = 8
"""Of which the largest batch is a multiple."""
PARTS = 4
"""Into how many a batch is divided where nothing else is asked for."""
LEGEND = (
    "Arguments, outputs and temporaries of the compiled step, as the compiler says; no step is run. The parameters, "
    "the optimizer's values and a batch of images are in it; the data set, which lies on the device too, is not, nor "
    "what a library for convolutions takes for itself. The largest batch is a multiple of 8 for which the compiler was "
    "asked; it was looked for on a line through other batches, since the memory is nearly that."
)


class Work(Schema, at="--"):
    """What is asked: a network, its images, the ways to save memory and the memory that there is."""

    model: tyro.conf.Positional[str]
    """The network, by its name in the table of models."""
    input_size: int | None = None
    """Height and width of the images in pixels; None: those the network is made for."""
    dtype: tuple[str, ...] = ("float32",)
    """What the network computes in, one or both: float32 bfloat16."""
    batch: Batches = (32,)
    """Images in a training step, one or more numbers."""
    optimizer: Literal["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"] = "momentum"
    """The update rule, which holds 0, 1 or 2 values for each parameter."""
    remat: tuple[str, ...] = ()
    """Stages that are computed again; with this or --accumulate, a row of just that instead of the usual choices."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """In how many parts a batch goes through the network; divides each --batch."""
    memory_gib: Annotated[Number, Field(gt=0)] | None = None
    """The memory to fit into; None: what the device says, on a CPU the machine's memory."""
    platform: cli.Platform = "auto"
    """What to compile for; auto takes an accelerator where there is one."""

    def __post_init__(self) -> None:
        choose("model", self.model, list_models())
        require(bool(self.dtype), "--dtype", self.dtype, "float32, bfloat16 or both")
        for dtype in self.dtype:
            choose("dtype", dtype, ("float32", "bfloat16"))
        require(bool(self.batch), "--batch", self.batch, "one or more numbers")
        for batch in self.batch:
            require(batch % self.accumulate == 0, "--accumulate", self.accumulate, f"a divisor of --batch, {batch}")

    def arch(self, dtype: str) -> Arch:
        options = {"dtype": dtype} | ({} if self.input_size is None else {"input_size": self.input_size})
        return create(self.model, **options)


class Way(NamedTuple):
    """A way to run a training step."""

    remat: tuple[str, ...] = ()
    accumulate: int = 1

    def __str__(self) -> str:
        parts = [f"--train.remat {' '.join(self.remat)}"] if self.remat else []
        parts += [f"--train.accumulate {self.accumulate}"] if self.accumulate > 1 else []
        return " ".join(parts) or "everything kept"


class Row(NamedTuple):
    """A network trained in one way: the bytes at each batch that was asked for, and the largest batch that fits."""

    dtype: str
    way: Way
    peaks: tuple[int, ...]
    largest_batch: int
    """0 where not even the smallest fits."""


def step_bytes(
    arch: Arch, optimizer: Optimizer, batch: int, *, remat: tuple[str, ...] = (), accumulate: int = 1
) -> int:  # fmt: skip
    """Return the bytes that a training step takes at its peak: arguments, outputs and temporaries, shared ones once.

    The state is donated, as in training. A batch of the data is among the arguments, the data set is not.
    """
    height, width, channels = arch.image_shape
    middle = (0.5,) * channels
    preprocessing = Preprocessing(height=height, width=width, mean=middle, std=middle)
    train = Train(batch_size=batch, remat=remat, accumulate=accumulate)
    experiment = Experiment(model=arch, optimizer=optimizer, train=train)
    step, hyperparameters = make_train_step(experiment, preprocessing), make_hyperparameters(experiment, 1)
    state, key = jax.eval_shape(lambda: (init_state(experiment, hyperparameters), jax.random.key(0)))
    images: Any = jax.ShapeDtypeStruct((batch, height, width, channels), jnp.uint8)
    labels: Any = jax.ShapeDtypeStruct((batch,), jnp.int32)
    options = compiler_options(jax.default_backend())
    jitted = jax.jit(step, donate_argnums=0, compiler_options=options)
    analysis: Any = jitted.lower(state, Batch(images, labels), key, hyperparameters).compile().memory_analysis()
    if analysis is None:
        raise UserError(f"the compiler for {jax.default_backend()} does not say how much memory a program takes")
    taken = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    return taken - analysis.alias_size_in_bytes


def largest_batch(peak: Callable[[int], int], limit: int, multiple: int = 8) -> int:
    """Return the largest multiple of ``multiple`` for which ``peak(batch)`` is at most ``limit`` bytes; 0 if none is.

    A peak is nearly a line over the batch. Each guess lies on the line through the two known points nearest the limit,
    and what is returned was asked for and fits.
    """
    known = {batch: peak(batch) for batch in (4 * multiple, 8 * multiple)}
    while True:
        fits = max((batch for batch in known if known[batch] <= limit), default=0)
        fails = min((batch for batch in known if known[batch] > limit), default=LARGEST_BATCH)
        guess = min(_on_the_line(known, limit) // multiple * multiple, fails - multiple)
        if guess <= fits:
            return fits
        known[guess] = peak(guess)


def _on_the_line(known: dict[int, int], limit: int) -> int:
    (a, low), (b, high) = sorted(known.items(), key=lambda point: abs(point[1] - limit))[:2]
    return LARGEST_BATCH if high == low else a + (limit - low) * (b - a) // (high - low)


def memory_limit(gib: float | None) -> int:
    """Return the bytes to fit into: those given, else those the device says it has, else the machine's."""
    if gib is not None:
        return int(gib * GIB)
    return int(device_memory() or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def ways(work: Work, arch: Arch) -> list[Way]:
    """Return the ways to compare: what is asked for, or the usual choices, after that which keeps everything."""
    if work.remat or work.accumulate > 1:
        chosen_stages(arch, work.remat)
        return [Way(), Way(work.remat, work.accumulate)]
    usual = [Way(), Way(stages(arch)[:2]), Way(("all",))]
    if all(batch % PARTS == 0 for batch in work.batch):
        usual += [Way(accumulate=PARTS), Way(("all",), PARTS)]
    return usual


def rows(work: Work, limit: int, told: Callable[[str], None] = lambda text: None) -> Iterator[Row]:
    """Yield a row for each dtype and way; ``told`` hears what is being compiled."""
    optimizer = Optimizer(name=work.optimizer)
    for dtype in work.dtype:
        arch = work.arch(dtype)
        for way in ways(work, arch):

            @functools.cache
            def peak(batch: int, arch: Arch = arch, way: Way = way) -> int:
                told(f"{arch.dtype}, {way}, batch {batch}")
                return step_bytes(arch, optimizer, batch, remat=way.remat, accumulate=way.accumulate)

            asked = tuple(peak(batch) for batch in work.batch)
            yield Row(dtype, way, asked, largest_batch(peak, limit, math.lcm(MULTIPLE, way.accumulate)))


def title(work: Work) -> str:
    """Return what the table shows."""
    arch = work.arch(work.dtype[0])
    size = f"{arch.input_size}x{arch.input_size}x{arch.channels}"
    return f"Memory of a training step of {work.model} at {size} with {work.optimizer}, {jax.default_backend()}"


def markdown(work: Work, found: Sequence[Row], limit: int) -> str:
    """Return the table."""
    header = ("", *(f"batch {batch}, GiB" for batch in work.batch), f"largest batch in {limit / GIB:.3g} GiB")
    lines: list[tuple[str, ...]] = [header, ("---", *["---:"] * (len(header) - 1))]
    for row in found:
        name = f"{row.dtype}, {row.way}"
        peaks = (f"{peak / GIB:.2f}" for peak in row.peaks)
        lines.append((name, *peaks, f"{row.largest_batch:,}" if row.largest_batch else "none"))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run(arguments: list[str]) -> None:
    """Read the command line, compile, print the table."""

    def options(
        work: Annotated[Work, tyro.conf.arg(name="")], *, write: bool = False, debug: bool = False
    ) -> Any:  # fmt: skip
        """Say how much memory a training step takes at its peak, and the largest batch that fits.

        Args:
            work: What is asked.
            write: Write the table to docs/benchmarks.md, in the place of the section with the same heading.
            debug: Show the traceback of an error.
        """
        return work, write

    work, write = cli.parse(options, arguments, "scripts/benchmark.py memory")
    parallel.use_platform(work.platform)
    limit = memory_limit(work.memory_gib)
    console = Console(stderr=True)
    with console.status("") as status:
        found = list(rows(work, limit, lambda text: status.update(f"compiling {text}")))
    parts = [markdown(work, found, limit), LEGEND]
    print("\n\n".join([f"{title(work)}:", *parts]))
    if write:
        packages = ", ".join(f"{name} {version(name)}" for name in ("cnnjax", "jax", "jaxlib"))
        command = f"`python scripts/benchmark.py memory {shlex.join(arguments)}`"
        page.write_section(title(work), [f"{command} on {machine.description()}; {packages}.", *parts])
