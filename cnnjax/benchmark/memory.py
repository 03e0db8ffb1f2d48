"""Memory of a training step, and the largest batch that fits: `scripts/benchmark.py memory`.

Nothing is allocated and no step is run: the step of `cnnjax.training.loop` is compiled for shapes, and the compiler
reports the memory of its program.
"""

import functools
import math
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
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
from cnnjax.system.versions import version
from cnnjax.training.state import abstract_state
from cnnjax.training.step import make_train_step

GIB = 2**30
MULTIPLE = 8
"""The largest batch is rounded down to a multiple of this."""
PARTS = 4
"""Default number of parts of a batch."""
LEGEND = (
    "Arguments, outputs and temporaries of the compiled step, as reported by the compiler; no step is run. This "
    "includes the parameters, the optimizer state and a batch of images, but not the data set, which is also on the "
    "device, nor the workspace of a convolution library. The largest batch is a multiple of 8; it was found by linear "
    "interpolation, because memory is nearly linear in the batch size, and confirmed with the compiler."
)


class Work(Schema, at="--"):
    """Options: a network, its images, memory options and the available memory."""

    model: tyro.conf.Positional[str]
    """Name of the network."""
    input_size: int | None = None
    """Height and width of the images in pixels; None: the network's default."""
    dtype: tuple[str, ...] = ("float32",)
    """Compute dtypes, one or both: float32 bfloat16."""
    batch: Batches = (32,)
    """Batch sizes, one or more."""
    optimizer: Literal["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"] = "momentum"
    """Optimizer, whose state has 0, 1 or 2 values per parameter."""
    remat: tuple[str, ...] = ()
    """Stages to recompute in the backward pass. With this or --accumulate, only that choice is compared."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Number of parts in which a batch is processed; must divide each --batch."""
    memory_gib: Annotated[Number, Field(gt=0)] | None = None
    """Available memory in GiB; None: as reported by the device, on a CPU the machine's memory."""
    platform: cli.Platform = "auto"
    """Device to compile for; auto picks an accelerator if there is one."""

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


class MemoryOptions(NamedTuple):
    """Memory options of a training step."""

    remat: tuple[str, ...] = ()
    accumulate: int = 1

    def __str__(self) -> str:
        parts = [f"--train.remat {' '.join(self.remat)}"] if self.remat else []
        parts += [f"--train.accumulate {self.accumulate}"] if self.accumulate > 1 else []
        return " ".join(parts) or "all activations stored"


class Row(NamedTuple):
    """A network with one set of memory options: the bytes at each batch size, and the largest batch that fits."""

    dtype: str
    options: MemoryOptions
    peaks: tuple[int, ...]
    largest_batch: int
    """Largest batch that fits; 0 if none does."""


def step_bytes(
    arch: Arch, optimizer: Optimizer, batch: int, *, remat: tuple[str, ...] = (), accumulate: int = 1
) -> int:  # fmt: skip
    """Return the peak bytes of a training step: arguments, outputs and temporaries, with aliased ones counted once.

    The state is donated, as in training. The arguments include a batch, not the data set.
    """
    height, width, channels = arch.image_shape
    middle = (0.5,) * channels
    preprocessing = Preprocessing(height=height, width=width, mean=middle, std=middle)
    train = Train(batch_size=batch, remat=remat, accumulate=accumulate)
    experiment = Experiment(model=arch, optimizer=optimizer, train=train)
    step, hyperparameters = make_train_step(experiment, preprocessing), make_hyperparameters(experiment, 1)
    state, key = abstract_state(experiment, hyperparameters), jax.eval_shape(lambda: jax.random.key(0))
    images: Any = jax.ShapeDtypeStruct((batch, height, width, channels), jnp.uint8)
    labels: Any = jax.ShapeDtypeStruct((batch,), jnp.int32)
    options = compiler_options(jax.default_backend())
    jitted = jax.jit(step, donate_argnums=0, compiler_options=options)
    analysis: Any = jitted.lower(state, Batch(images, labels), key, hyperparameters).compile().memory_analysis()
    if analysis is None:
        raise UserError(
            f"the {jax.default_backend()} compiler does not report the memory of a program; choose another --platform"
        )
    total = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    return total - analysis.alias_size_in_bytes


def largest_batch(peak: Callable[[int], int], limit: int, multiple: int = 8) -> int:
    """Return the largest multiple of ``multiple`` for which ``peak(batch)`` is at most ``limit`` bytes, or 0.

    The peak is nearly linear in the batch size. Each guess lies on the line through the two known points nearest the
    limit; the returned batch size was evaluated and fits.
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
    """Return the available bytes: the given amount, else the device's memory, else the machine's."""
    if gib is not None:
        return int(gib * GIB)
    return int(device_memory() or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def memory_options(work: Work, arch: Arch) -> list[MemoryOptions]:
    """Return the memory options to compare: no savings, then the requested options or the usual ones."""
    if work.remat or work.accumulate > 1:
        chosen_stages(arch, work.remat)
        return [MemoryOptions(), MemoryOptions(work.remat, work.accumulate)]
    usual = [MemoryOptions(), MemoryOptions(stages(arch)[:2]), MemoryOptions(("all",))]
    if all(batch % PARTS == 0 for batch in work.batch):
        usual += [MemoryOptions(accumulate=PARTS), MemoryOptions(("all",), PARTS)]
    return usual


def rows(work: Work, limit: int, report: Callable[[str], None] = lambda text: None) -> Iterator[Row]:
    """Yield a row for each dtype and set of options; ``report`` receives progress messages."""
    optimizer = Optimizer(name=work.optimizer)
    for dtype in work.dtype:
        arch = work.arch(dtype)
        for options in memory_options(work, arch):

            @functools.cache
            def peak(batch: int, arch: Arch = arch, options: MemoryOptions = options) -> int:
                report(f"{arch.dtype}, {options}, batch {batch}")
                return step_bytes(arch, optimizer, batch, remat=options.remat, accumulate=options.accumulate)

            peaks = tuple(peak(batch) for batch in work.batch)
            yield Row(dtype, options, peaks, largest_batch(peak, limit, math.lcm(MULTIPLE, options.accumulate)))


def title(work: Work) -> str:
    """Return the title of the table."""
    arch = work.arch(work.dtype[0])
    size = f"{arch.input_size}x{arch.input_size}x{arch.channels}"
    return f"Memory of a training step of {work.model} at {size} with {work.optimizer}, {jax.default_backend()}"


def markdown(work: Work, table: Sequence[Row], limit: int) -> str:
    """Return the table as Markdown."""
    header = ("", *(f"batch {batch}, GiB" for batch in work.batch), f"largest batch in {limit / GIB:.3g} GiB")
    lines: list[tuple[str, ...]] = [header, ("---", *["---:"] * (len(header) - 1))]
    for row in table:
        name = f"{row.dtype}, {row.options}"
        peaks = (f"{peak / GIB:.2f}" for peak in row.peaks)
        lines.append((name, *peaks, f"{row.largest_batch:,}" if row.largest_batch else "none"))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run(arguments: list[str]) -> None:
    """Parse the command line, compile, print the table."""

    def options(
        work: Annotated[Work, tyro.conf.arg(name="")], *, write: bool = False, debug: bool = False
    ) -> Any:  # fmt: skip
        """Report the peak memory of a training step, and the largest batch that fits.

        Args:
            work: What to report.
            write: Write the table to docs/benchmarks.md; it replaces the section with the same heading.
            debug: Show the traceback of an error.
        """
        return work, write

    work, write = cli.parse(options, arguments, "scripts/benchmark.py memory")
    parallel.use_platform(work.platform)
    limit = memory_limit(work.memory_gib)
    console = Console(stderr=True)
    with console.status("") as status:
        table = list(rows(work, limit, lambda text: status.update(f"compiling {text}")))
    parts = [markdown(work, table, limit), LEGEND]
    print("\n\n".join([f"{title(work)}:", *parts]))
    if write:
        packages = ", ".join(f"{name} {version(name)}" for name in ("cnnjax", "jax", "jaxlib"))
        command = f"`python scripts/benchmark.py memory {shlex.join(arguments)}`"
        page.write_section(title(work), [f"{command} on {machine.description()}; {packages}.", *parts])
