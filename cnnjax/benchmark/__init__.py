"""How fast a network trains here and in other libraries: each peer in a process of its own, one after another.

A peer is a module of this package that takes `Work` as its command line and prints its `Timing` as a line of JSON, its
last. All peers train the same network by the same rule on the same made-up images; ours comes first, and what it
computes on, the others must compute on too.
"""

import dataclasses
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

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
RECORD = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
HEADER = ("", "epoch s (range)", "images/s", "ms/step", "first step s", "ours / peer")


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

    def arguments(self, *, all_of_them: bool = True) -> list[str]:
        """Return the command line that makes this; without ``all_of_them``, only what differs from the defaults."""
        options = [field for field in dataclasses.fields(self) if field.name != "model"]
        values = {field.name: getattr(self, field.name) for field in options}
        shown = [field.name for field in options if all_of_them or values[field.name] != field.default]
        return [self.model, *(text for name in shown for text in (f"--{name}", str(values[name])))]


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
    timing: Timing | None
    problem: str = ""
    """"not installed" or "failed"."""
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
    """Return the seconds of each call of ``run_epoch`` with 0, 1, ...; it must return only when the device has ended."""
    seconds = []
    for epoch in range(work.epochs):
        started = time.perf_counter()
        run_epoch(epoch)
        seconds.append(time.perf_counter() - started)
    return tuple(seconds)


def serve(train: Callable[[Work], Timing]) -> NoReturn:
    """Be a peer's process: read `Work` from the command line, train, print the `Timing`."""
    cli.main(lambda arguments: print(json.dumps(train(cli.parse(Work, arguments, sys.argv[0])).to_dict())))


def run(work: Work, console: Console, peers: Sequence[Peer] = PEERS, *, debug: bool = False) -> list[Row]:
    """Measure all peers, the first of them ours.

    Raises:
        UserError: ours refused the work, such as a platform that is not there.
    """
    rows: list[Row] = []
    for peer in peers:
        with console.status(f"{peer.name}: {work.epochs} epochs of {work.steps} steps"):
            rows.append(_measure(peer, work, debug))
        if rows[0].timing:
            work = work.replace(platform=rows[0].timing.platform)
    return rows


def _measure(peer: Peer, work: Work, debug: bool) -> Row:
    if importlib.util.find_spec(peer.package) is None:
        return Row(peer, None, "not installed", "pip install cnnjax[bench] brings it")
    command = [sys.executable, "-m", peer.module, *work.arguments()]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if debug:
        print(child.stderr, file=sys.stderr, end="")
    if child.returncode == 0:
        return Row(peer, Timing.from_dict(json.loads(child.stdout.splitlines()[-1])))
    told = child.stderr.strip().splitlines() or [f"its process ended with {child.returncode} and no word"]
    sentence = told[-1].removeprefix("error: ")
    if child.returncode == UserError.exit_code and peer is PEERS[0]:
        raise UserError(sentence)
    return Row(peer, None, "failed", f"{sentence} (--debug shows more)")


def cells(work: Work, rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the table's lines under `HEADER`. The last column is our images/s as a multiple of the peer's."""
    ours = rows[0].timing
    lines: list[tuple[str, ...]] = []
    for row in rows:
        timing = row.timing
        if timing is None:
            lines.append((row.peer.name, row.problem, "", "", "", ""))
            continue
        lowest, highest = min(timing.epoch_seconds), max(timing.epoch_seconds)
        lines.append((
            row.peer.name,
            f"{timing.seconds:.2f} ({lowest:.2f}-{highest:.2f})",
            f"{work.steps * work.batch / timing.seconds:,.0f}",
            f"{1000 * timing.seconds / work.steps:.2f}",
            f"{timing.first_step_seconds:.1f}",
            f"{timing.seconds / ours.seconds:.2f}" if ours else "",
        ))  # fmt: skip
    return lines


def notes(rows: Sequence[Row]) -> list[str]:
    """Return a line on each peer: how it was done, or why not."""
    lines = []
    for peer, timing, problem, sentence in rows:
        if timing is None:
            lines.append(f"{peer.name}: {problem}; {sentence}")
        else:
            where = f"{timing.threads} threads" if timing.platform == "cpu" else timing.device
            lines.append(f"{peer.name}: {', '.join(timing.packages)}; {where}; {timing.how}")
    return lines
