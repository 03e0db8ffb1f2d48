"""How fast a network trains here and in other libraries: each peer in processes of its own, one after another.

A peer is a module of this package that takes `Work` as its command line and prints its `Timing` as a line of JSON, its
last. All peers train the same network by the same rule on the same made-up images; ours comes first, and what it
computes on, the others must compute on too.
"""

import dataclasses
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from cnnjax import cli
from cnnjax.data import Split
from cnnjax.errors import UserError, choose, require
from cnnjax.fields import Fields
from cnnjax.files import write_bytes

PARAMETERS = {"lenet": 61_706}
"""What can be benchmarked, and how many parameters a peer must have to be the same network."""
LEARNING_RATE = 2e-3
MEAN, STD = (0.2860,), (0.3530,)
"""Of Fashion-MNIST, per channel; any other would take as long."""
WARM_UP_STEPS = 20
HEADER = ("", "epoch s", "images/s", "ms/step", "first step s", "ours / peer")


class Peer(NamedTuple):
    """A library to measure: its name, the module that does so, and the package this needs."""

    name: str
    module: str
    package: str


PEERS = (
    Peer("cnnjax", "cnnjax.benchmark.ours", "jax"),
    Peer("PyTorch", "cnnjax.benchmark.torch_peer", "torch"),
    Peer("Keras on JAX", "cnnjax.benchmark.keras_peer", "keras"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work(Fields):
    """What every peer does."""

    model: tyro.conf.Positional[str]
    """The network: lenet."""
    images: int = 60_000
    """Images in an epoch, 1 or more; what does not fill a last batch is left out."""
    batch: int = 256
    """Images in a training step, from 1 to --images."""
    epochs: int = 3
    """Epochs that are timed, 1 or more; the median counts."""
    platform: cli.Platform = "auto"
    """What to compute on; auto takes an accelerator where there is one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choose("model", self.model, PARAMETERS)
        require(self.images >= 1, "--images", self.images, "1 or more")
        require(1 <= self.batch <= self.images, "--batch", self.batch, f"from 1 to --images, which is {self.images}")
        require(self.epochs >= 1, "--epochs", self.epochs, "1 or more")

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return self.images // self.batch

    def arguments(self) -> list[str]:
        """Return the command line that makes this, without what is a default."""
        changed = [f.name for f in dataclasses.fields(self) if f.name != "model" and getattr(self, f.name) != f.default]
        return [self.model, *(text for name in changed for text in (f"--{name}", str(getattr(self, name))))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing(Fields):
    """What a peer found. An epoch begins with its shuffle and ends when the device has ended."""

    how: str
    """How the peer did it, where there is a choice."""
    packages: tuple[str, ...]
    platform: cli.Platform
    device: str
    threads: int
    parameters: int
    first_step_seconds: float
    """The first step or dispatch with its compilation."""
    epoch_seconds: tuple[float, ...]
    """Each timed epoch, after a warm-up of some steps."""

    @property
    def seconds(self) -> float:
        """The median epoch."""
        return statistics.median(self.epoch_seconds)


class Row(NamedTuple):
    """A peer with its timing, or with the reason why there is none."""

    peer: Peer
    timing: Timing | None = None
    problem: str = ""
    """What stands in the table in place of figures: not installed, or failed."""
    sentence: str = ""
    """The problem in a sentence."""


def made_up(work: Work) -> Split:
    """Return random images uint8 [N, 28, 28, 1] and labels from a fixed seed; how long a step takes is all the same."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (work.images, 28, 28, 1), dtype=np.uint8)
    return Split(images, rng.integers(0, 10, work.images, dtype=np.int32))


def check_parameters(work: Work, parameters: int) -> int:
    """Return the number of a peer's parameters; raise where it is not that of the network to be compared."""
    if parameters != PARAMETERS[work.model]:
        raise RuntimeError(f"the peer's {work.model} has {parameters:,} parameters, not {PARAMETERS[work.model]:,}")
    return parameters


def time_epochs(work: Work, run_epoch: Callable[[int], None]) -> tuple[float, ...]:
    """Return the seconds of each ``run_epoch(epoch)``, which must return only when the device has ended."""
    seconds = []
    for epoch in range(work.epochs):
        started = time.perf_counter()
        run_epoch(epoch)
        seconds.append(time.perf_counter() - started)
    return tuple(seconds)


def cores() -> int:
    """Return how many CPU cores this process may use; XLA makes as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(train: Callable[[Work], Timing]) -> NoReturn:
    """Be a peer's process: read `Work` from the command line, train, print the `Timing`."""
    cli.main(lambda arguments: print(json.dumps(train(cli.parse(Work, arguments, sys.argv[0])).to_dict())))


def run(work: Work, console: Console, peers: Sequence[Peer] = PEERS, *, debug: bool = False) -> list[Row]:
    """Measure all peers, the first of them ours. They take turns, an epoch each, so that a disturbance hits them alike.

    Raises:
        UserError: ours refused the work, such as a platform that is not there.
    """
    rows = [Row(peer) for peer in peers]
    for turn in range(work.epochs):
        for index, row in enumerate(rows):
            if row.problem:
                continue
            with console.status(f"epoch {turn + 1}/{work.epochs}: {row.peer.name}"):
                rows[index] = _together(row, _measure(row.peer, work.replace(epochs=1), debug))
            if rows[0].timing:
                work = work.replace(platform=rows[0].timing.platform)
    return rows


def _measure(peer: Peer, work: Work, debug: bool) -> Row:
    if importlib.util.find_spec(peer.package) is None:
        return Row(peer, problem="not installed", sentence="pip install -e .[bench] brings it")
    command = [sys.executable, "-m", peer.module, *work.arguments()]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if debug:
        print(child.stderr, file=sys.stderr, end="")
    if child.returncode == 0:
        return Row(peer, Timing.from_dict(json.loads(child.stdout.splitlines()[-1])))
    told = child.stderr.strip().splitlines() or [f"its process ended with {child.returncode} and no word"]
    sentence = told[-1].removeprefix("error: ")
    if child.returncode == UserError.exit_code and peer == PEERS[0]:
        raise UserError(sentence)
    return Row(peer, problem="failed", sentence=f"{sentence} (--debug shows more)")


def _together(old: Row, new: Row) -> Row:
    """Return the epochs of both; how it was done is told of the faster."""
    if old.timing is None or new.timing is None:
        return new
    faster = min(old.timing, new.timing, key=lambda timing: min(timing.epoch_seconds))
    return new._replace(timing=faster.replace(epoch_seconds=old.timing.epoch_seconds + new.timing.epoch_seconds))


def cells(work: Work, rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the table's lines under `HEADER`. The last column is our images/s as a multiple of the peer's."""
    ours = rows[0].timing
    lines: list[tuple[str, ...]] = []
    for peer, timing, problem, _ in rows:
        if timing is None:
            lines.append((peer.name, problem, "", "", "", ""))
            continue
        lines.append((
            peer.name,
            f"{timing.seconds:.2f}",
            f"{work.steps * work.batch / timing.seconds:,.0f}",
            f"{1000 * timing.seconds / work.steps:.2f}",
            f"{timing.first_step_seconds:.2f}",
            f"{timing.seconds / ours.seconds:.2f}" if ours else "",
        ))  # fmt: skip
    return lines


def notes(rows: Sequence[Row]) -> list[str]:
    """Return a line on each peer: its epochs and how they were done, or why there are none."""
    lines = []
    for peer, timing, problem, sentence in rows:
        if timing is None:
            lines.append(f"{peer.name}: {problem}; {sentence}")
        else:
            epochs = " ".join(f"{seconds:.2f}" for seconds in timing.epoch_seconds)
            where = f"{timing.threads} threads" if timing.platform == "cpu" else timing.device
            lines.append(f"{peer.name}: epochs {epochs} s; {timing.how}; {where}; {', '.join(timing.packages)}")
    return lines


def legend(work: Work) -> str:
    """Return what the table's figures mean."""
    return (
        f"Each epoch trains the same {PARAMETERS[work.model]:,} parameters with adam for {work.steps} steps of "
        f"{work.batch} images and counts loss and accuracy; images and labels are random numbers from a fixed seed, "
        "since only the time matters. The peers take turns: an epoch each, in a process of its own, after a warm-up. "
        "The median epoch counts; the first step, with its compilation, stands apart. ours / peer is our images/s as a "
        "multiple of the peer's: above 1 ours is faster."
    )


def show(work: Work, rows: Sequence[Row], console: Console) -> None:
    """Print the table, with the notes and the legend below it."""
    table = Table(title=f"{work.model}: an epoch of {work.steps * work.batch:,} images, batch {work.batch}")
    for name in HEADER:
        table.add_column(name, justify="right" if name else "left")
    for line in cells(work, rows):
        table.add_row(*line)
    console.print(table)
    for text in (*notes(rows), legend(work)):
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def markdown(work: Work, rows: Sequence[Row]) -> str:
    """Return the record as a page: the command, the machine, the table, the versions."""
    command = " ".join(["python scripts/benchmark.py", *work.arguments(), "--write"])
    table = [HEADER, ("---", *["---:"] * (len(HEADER) - 1)), *cells(work, rows)]
    parts = (
        "# Benchmarks",
        f"Written by `{command}` on {machine()}.",
        f"## {work.model}, training, batch {work.batch}",
        "\n".join(f"| {' | '.join(line)} |" for line in table),
        legend(work),
        "\n".join(f"- {text}" for text in notes(rows)),
    )
    return "\n\n".join(parts) + "\n"


def machine() -> str:
    """Return the processor, its cores, the operating system and Python in words."""
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.platform(terse=True)
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    processor = found[1] if found else platform.processor() or platform.machine()
    return f"{processor}, {cores()} cores, {system}, Python {platform.python_version()}"


def write(work: Work, rows: Sequence[Row], path: Path) -> None:
    """Write the record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, markdown(work, rows).encode())
