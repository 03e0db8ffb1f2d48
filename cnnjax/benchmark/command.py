"""`scripts/benchmark.py train` and `infer`: options, jobs for the peers, and the report."""

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
from cnnjax.benchmark.work import OTHERS, PEERS, Batches, Job, Peer, Task
from cnnjax.errors import PartlyDone, UserError, choose, require
from cnnjax.models.layers import Arch
from cnnjax.schema import Schema

SMALL_BATCHES = {"lenet": 256, "mlp": 256}
SMALL_IMAGE, SMALL_IMAGE_BATCH, BLOCK_BATCH = 64, 128, 16
LARGE_BATCH: dict[Task, int] = {"train": 32, "infer": 16}


class Options(Schema, at="--"):
    """Networks, batch sizes and peers to measure."""

    models: tuple[str, ...]
    """Networks to measure: names of models, or blocks: resnet_stem, bottleneck, resnext_block, separable_entry,
    separable_middle."""
    batch: Batches = ()
    """Batch sizes, one or more; by default 256 for lenet and mlp, 128 for small images, 16 for blocks, and for other
    networks 32 in training and 16 in inference."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the networks; parameters are float32."""
    against: tuple[str, ...] = tuple(peer.name for peer in OTHERS)
    """Peers to compare with: torch, keras, xla (cnnjax without the native library, if that is in use), or none; for
    work on cnnjax itself also one_pass, index, blocks, candidates (all three), and XLA's flags for GPUs: fusion,
    graphs, nhwc, nchw, untuned, cublas."""
    input_size: int | None = None
    """Height and width of the images in pixels; None: the default of each network."""
    devices: Annotated[int, Field(ge=1)] = 1
    """Number of devices that share each batch, and divide it; the peers torch and keras use one."""
    turns: Annotated[int, Field(ge=1)] = 3
    """Number of turns of about two seconds for each peer."""
    platform: cli.Platform = "auto"
    """Device to compute on; auto picks an accelerator if there is one."""

    def __post_init__(self) -> None:
        require(bool(self.models), "--models", self.models, "one or more names")
        for name in self.against:
            choose("peer", name, [*(peer.name for peer in PEERS), "none"])
        consistent = "none" not in self.against or len(self.against) == 1
        require(consistent, "--against", self.against, "names of peers, or only none")
        if self.devices > 1 and {"torch", "keras"} & set(self.against):
            raise UserError(
                f"--devices is {self.devices} and the peers torch and keras use one device; add --against none"
            )
        size = {} if self.input_size is None else {"input_size": self.input_size}
        for name in self.models:
            network(name, dtype=self.dtype, **size)

    def jobs(self, task: Task) -> list[Job]:
        """Return the jobs, in the order of the networks."""
        size = {} if self.input_size is None else {"input_size": self.input_size}
        jobs = []
        for name in self.models:
            arch = network(name, **size)
            for batch in self.batch or (default_batch(task, name, arch),):
                require(batch % self.devices == 0, "--batch", batch, f"a multiple of --devices, {self.devices}")
                jobs.append(
                    Job(
                        task=task, model=name, image_shape=arch.image_shape, num_classes=arch.num_classes, batch=batch,
                        dtype=self.dtype, platform=self.platform, devices=self.devices,
                    )
                )  # fmt: skip
        return jobs

    def peers(self) -> list[Peer]:
        return [peer for peer in PEERS if peer.name in self.against]


def default_batch(task: Task, name: str, arch: Arch) -> int:
    """Return the batch size to use if none is given."""
    if name in BLOCKS:
        return BLOCK_BATCH
    if name in SMALL_BATCHES:
        return SMALL_BATCHES[name]
    return SMALL_IMAGE_BATCH if arch.input_size <= SMALL_IMAGE else LARGE_BATCH[task]


def run(task: Task, arguments: list[str]) -> int:
    """Parse the command line, measure and print; return the exit code: 1 if a peer failed, otherwise 0.

    Raises:
        UserError: invalid input, or --write would delete figures of networks that are not requested.
        PartlyDone: nothing was written, because a peer has no figures.
    """

    def options(
        work: Annotated[Options, tyro.conf.arg(name="")], *, write: bool = False, debug: bool = False
    ) -> Any:  # fmt: skip
        """Measure the speed of training or inference, in cnnjax and in other libraries.

        Args:
            work: What to measure.
            write: Write the table to docs/benchmarks.md. It replaces the section with the same heading and must include
                all networks of that section. Nothing is written if a peer is not installed or failed.
            debug: Show the output of the peer processes, and the traceback of an error.
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
    """Return the device's name, read in a separate process so that this one does not occupy the device."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(on_jax.device, platform).result()


def check_record(heading: str, jobs: Sequence[Job]) -> None:
    """Raise UserError if the section to replace has networks that are not measured now."""
    requested = [table.block_title(job) for job in jobs]
    missing = [title for title in table.block_titles(page.read_section(heading)) if title not in requested]
    if missing:
        raise UserError(
            f"this run would delete networks from section {heading!r} of docs/benchmarks.md: {'; '.join(missing)}; "
            "measure them too, or delete the section first"
        )


def check_rows(blocks: Sequence[Block]) -> None:
    """Raise PartlyDone if a peer has no figures, unless the peer does not support the network."""
    rows = [row for block in blocks for row in block.rows]
    problems = [f"{row.peer.name} is not installed ({turns.INSTALL})" for row in rows if row.problem == "not installed"]
    problems += [f"{row.peer.name} failed" for row in rows if row.problem == "failed"]
    if problems:
        raise PartlyDone(
            f"the table was not written to docs/benchmarks.md, because {' and '.join(dict.fromkeys(problems))}; "
            "fix this, or choose fewer peers with --against"
        )


def heading(task: Task, work: Options, device: str) -> str:
    """Return a section's heading: task, batch sizes if given, dtype, device."""
    batch = f", batch {' '.join(map(str, work.batch))}" if work.batch else ""
    return f"{table.TITLES[task]}{batch}, {work.dtype}, {device}"


def section(task: Task, arguments: list[str], work: Options, blocks: list[Block]) -> list[str]:
    """Return the paragraphs of the section."""
    return [
        f"`python scripts/benchmark.py {task} {shlex.join(arguments)}` on {machine.description()}; "
        f"{table.versions(blocks)}.",
        table.markdown(blocks),
        table.legend(task, blocks, work.turns),
        "\n".join(f"- {text}" for text in table.notes(blocks)),
    ]
