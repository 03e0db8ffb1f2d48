"""`scripts/benchmark.py train` and `infer`: the options, what follows from them for each peer, and the answer."""

import multiprocessing
import shlex
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field
from rich.console import Console

from cnnjax import cli
from cnnjax.benchmark import machine, on_jax, page, table, turns
from cnnjax.benchmark.blocks import BLOCKS, network
from cnnjax.benchmark.turns import Block
from cnnjax.benchmark.work import OTHERS, Batches, Job, Peer, Task
from cnnjax.errors import PartlyDone, UserError, choose, require
from cnnjax.models.layers import Arch
from cnnjax.schema import Schema

SMALL_BATCHES = {"lenet": 256, "mlp": 256}
SMALL_IMAGE, SMALL_IMAGE_BATCH, BLOCK_BATCH = 64, 128, 16
LARGE_BATCH: dict[Task, int] = {"train": 32, "infer": 16}


class Options(Schema, at="--"):
    """What is measured."""

    models: tuple[str, ...]
    """Networks by their names in the table of models; also resnext_block, separable_entry and separable_middle."""
    batch: Batches = ()
    """Images in a step, one or more numbers; without it 256 for lenet and mlp, 128 for small images, 16 for blocks,
    for other networks 32 in training and 16 in inference."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the networks compute in; their parameters are float32."""
    against: tuple[str, ...] = tuple(peer.name for peer in OTHERS)
    """The peers beside ours: torch, keras, xla (ours without the native part, where that is in use), or none."""
    input_size: int | None = None
    """Height and width of the images in pixels; None: those each network is made for."""
    turns: Annotated[int, Field(ge=1)] = 3
    """How often every peer has its turn of about two seconds."""
    platform: cli.Platform = "auto"
    """What to compute on; auto takes an accelerator where there is one."""

    def __post_init__(self) -> None:
        require(bool(self.models), "--models", self.models, "one or more names")
        for name in self.against:
            choose("peer", name, [*(peer.name for peer in OTHERS), "none"])
        alone = "none" not in self.against or len(self.against) == 1
        require(alone, "--against", self.against, "names of peers, or none alone")
        size = {} if self.input_size is None else {"input_size": self.input_size}
        for name in self.models:
            network(name, dtype=self.dtype, **size)

    def jobs(self, task: Task) -> list[Job]:
        """Return what the peers do, in the order of the networks."""
        size = {} if self.input_size is None else {"input_size": self.input_size}
        jobs = []
        for name in self.models:
            arch = network(name, **size)
            for batch in self.batch or (default_batch(task, name, arch),):
                jobs.append(
                    Job(
                        task=task, model=name, image_shape=arch.image_shape, num_classes=arch.num_classes, batch=batch,
                        dtype=self.dtype, platform=self.platform,
                    )
                )  # fmt: skip
        return jobs

    def peers(self) -> list[Peer]:
        return [peer for peer in OTHERS if peer.name in self.against]


def default_batch(task: Task, name: str, arch: Arch) -> int:
    """Return the images in a step where nothing else is asked for."""
    if name in BLOCKS:
        return BLOCK_BATCH
    if name in SMALL_BATCHES:
        return SMALL_BATCHES[name]
    return SMALL_IMAGE_BATCH if arch.input_size <= SMALL_IMAGE else LARGE_BATCH[task]


def run(task: Task, arguments: list[str]) -> int:
    """Read the command line, measure, print; return the exit code: 1 where a peer failed, otherwise 0.

    Raises:
        UserError: bad input; or --write would lose figures of networks that are not asked for.
        PartlyDone: nothing was written, since a peer has no figures.
    """

    def options(
        work: Annotated[Options, tyro.conf.arg(name="")], *, write: bool = False, debug: bool = False
    ) -> Any:  # fmt: skip
        """Measure how fast networks train or answer, here and in other libraries.

        Args:
            work: What is measured.
            write: Write the table to docs/benchmarks.md, in the place of the section with the same heading, of which
                no network may be missing; nothing is written where a peer is not installed or failed.
            debug: Show what the peers' processes say, and the traceback of an error.
        """
        return work, write, debug

    work, write, debug = cli.parse(options, arguments, f"scripts/benchmark.py {task}")
    jobs, blocks = work.jobs(task), []
    if write:
        title = heading(task, work, device(work.platform))
        check_record(title, jobs)
    with Console(stderr=True).status("") as status:
        for job in jobs:
            blocks.append(turns.measure(job, work.peers(), work.turns, debug=debug, report=status.update))
    table.show(task, blocks, work.turns, Console())
    if write:
        check_rows(blocks)
        page.write_section(title, section(task, arguments, work, blocks))
    return 1 if any(row.problem == "failed" for block in blocks for row in block.rows) else 0


def device(platform: cli.Platform) -> str:
    """Return the device's name, found in a process of its own, so that the peers have the device to themselves."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(on_jax.device, platform).result()


def check_record(heading: str, jobs: Sequence[Job]) -> None:
    """Refuse to replace a section of the record that holds more networks than these."""
    asked = [table.block_title(job) for job in jobs]
    more = [title for title in table.block_titles(page.read_section(heading)) if title not in asked]
    if more:
        raise UserError(
            f"the section {heading!r} of docs/benchmarks.md holds more than this run would write: {'; '.join(more)}; "
            "name them too, or delete the section first"
        )


def check_rows(blocks: Sequence[Block]) -> None:
    """Refuse to write a table in which a peer has no figures, unless the peer itself left the network out."""
    rows = [row for block in blocks for row in block.rows]
    gone = [f"{row.peer.name} is not installed ({turns.INSTALL})" for row in rows if row.problem == "not installed"]
    gone += [f"{row.peer.name} failed" for row in rows if row.problem == "failed"]
    if gone:
        raise PartlyDone(
            f"the table was not written to docs/benchmarks.md, since {' and '.join(dict.fromkeys(gone))}; "
            "mend that, or name fewer peers with --against"
        )


def heading(task: Task, work: Options, device: str) -> str:
    """Return a section's heading: the task, batches where they were given, the number format, the device."""
    batch = f", batch {' '.join(map(str, work.batch))}" if work.batch else ""
    return f"{table.TITLES[task]}{batch}, {work.dtype}, {device}"


def section(task: Task, arguments: list[str], work: Options, blocks: list[Block]) -> list[str]:
    """Return the paragraphs of the record."""
    return [
        f"`python scripts/benchmark.py {task} {shlex.join(arguments)}` on {machine.description()}; "
        f"{table.versions(blocks)}.",
        table.markdown(blocks),
        table.legend(task, blocks, work.turns),
        "\n".join(f"- {text}" for text in table.notes(blocks)),
    ]
