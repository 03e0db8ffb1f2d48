"""How fast a sweep of LeNet-5 trains: `scripts/benchmark.py sweep`.

The same members are trained by several methods, which take turns: all together, one after the other in one
process, one process each, and one after the other by PyTorch. The time is that of whole processes: start, imports,
compilation, training, and an evaluation on the validation images after each epoch. No method writes run folders.
"""

import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field
from rich.console import Console

from cnnjax import cli
from cnnjax.benchmark import machine, page
from cnnjax.benchmark.options import command_line, markdown_table, parse_work
from cnnjax.schema import Schema

BATCH = 64
LOWEST_RATE, HIGHEST_RATE = 1e-4, 1e-2
INSTALL = "not installed; install it with pip install -e .[bench]"


class Way(NamedTuple):
    """A method to train the members: the module to run, and its argument."""

    name: str
    module: str
    argument: str
    package: str = "jax"


WAYS = (
    Way("cnnjax, together", "cnnjax.benchmark.sweeping", "together"),
    Way("cnnjax, one after the other", "cnnjax.benchmark.sweeping", "sequence"),
    Way("cnnjax, one process each", "cnnjax.benchmark.sweeping", "processes"),
    Way("PyTorch, eager", "cnnjax.benchmark.torch_sweep", "eager", "torch"),
    Way("PyTorch, torch.compile", "cnnjax.benchmark.torch_sweep", "compile", "torch"),
)


class Work(Schema, at="--"):
    """Options: the size of the sweep, and the number of turns."""

    rates: Annotated[int, Field(ge=1)] = 8
    """Number of learning rates of adam, from 1e-4 to 1e-2."""
    seeds: Annotated[int, Field(ge=1)] = 4
    """Seeds for each rate."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """Epochs of each member on the embedded subset of Fashion-MNIST."""
    turns: Annotated[int, Field(ge=1)] = 3
    """Number of turns of each method."""
    platform: cli.Platform = "auto"
    """Device to compute on; auto picks an accelerator if there is one."""

    def members(self) -> list[tuple[float, int]]:
        """Return the learning rate and the seed of each member."""
        rates = np.geomspace(LOWEST_RATE, HIGHEST_RATE, self.rates).tolist()
        return list(itertools.product(rates, range(self.seeds)))


class Measured(NamedTuple):
    """Seconds of each turn of a method, and the mean validation top-1 of the members, in percent."""

    seconds: list[float]
    top1: float


def run(arguments: list[str]) -> None:
    """Parse the command line, measure, print.

    Raises:
        PartlyDone: a method failed or PyTorch is not installed; the table is not written in that case.
    """
    purpose = "Measure how fast a sweep trains, in cnnjax and in PyTorch."
    work, write = parse_work(Work, arguments, "sweep", purpose)
    measured: dict[str, Measured] = {}
    problems = {way.name: INSTALL for way in WAYS if importlib.util.find_spec(way.package) is None}
    with tempfile.TemporaryDirectory() as temporary, Console(stderr=True).status("") as status:
        images = Path(temporary) / "images.npz"
        save_images(images)
        for turn in range(work.turns):
            for way in WAYS:
                if way.name in problems:
                    continue
                status.update(f"turn {turn + 1} of {work.turns}: {way.name}")
                try:
                    seconds, top1 = _measure(work, way, images)
                except subprocess.CalledProcessError as error:
                    problems[way.name] = f"failed: {error.stderr.strip().rsplit(chr(10), 1)[-1]}"
                    measured.pop(way.name, None)
                    continue
                measured.setdefault(way.name, Measured([], top1)).seconds.append(seconds)
    rows = _rows(work, measured)
    page.finish(HEADER, rows, [f"{name} {problem}" for name, problem in problems.items()])
    if write:
        page.write_section(f"Training a sweep, {machine.processor()}", _section(work, arguments, rows))


HEADER = ("", "seconds", "smallest-largest", "members/min", "mean validation top-1", "together is faster by")


def save_images(path: Path) -> None:
    """Write the images of the embedded data set and their statistics for a process without JAX."""
    from cnnjax import data
    from cnnjax.config import Data

    dataset = data.load(Data())
    everything = {part: np.arange(len(dataset.part(part).labels)) for part in ("train", "validation")}
    arrays: dict[str, Any] = {
        f"{part}_images": dataset.part(part).read(indices) for part, indices in everything.items()
    }
    arrays |= {f"{part}_labels": dataset.part(part).labels for part in everything}
    arrays |= {"mean": np.array(dataset.preprocessing.mean), "std": np.array(dataset.preprocessing.std)}
    np.savez(path, **arrays)


def _measure(work: Work, way: Way, images: Path) -> tuple[float, float]:
    """Return the seconds of a method with an empty compilation cache, and the mean validation top-1 in percent."""
    job = json.dumps([way.argument, str(images), work.members(), work.epochs, work.platform])
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        printed = _output([sys.executable, "-m", way.module, job], cache)
        seconds = time.perf_counter() - started
    return seconds, 100 * statistics.fmean(map(float, printed.split()))


def _output(command: list[str], cache: str) -> str:
    environment = {**os.environ, "CNNJAX_CACHE": cache}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def _rows(work: Work, measured: dict[str, Measured]) -> list[tuple[str, ...]]:
    together = measured.get(WAYS[0].name)
    rows: list[tuple[str, ...]] = []
    for name, (seconds, top1) in measured.items():
        median = statistics.median(seconds)
        ratio = f"{median / statistics.median(together.seconds):.2f}" if together else ""
        spread = f"{min(seconds):.1f}-{max(seconds):.1f}"
        rate = f"{60 * len(work.members()) / median:.1f}"
        rows.append((name, f"{median:.1f}", spread, rate, f"{top1:.2f} %", ratio))
    return rows


def _section(work: Work, arguments: list[str], rows: list[tuple[str, ...]]) -> list[str]:
    return [
        command_line("sweep", "", arguments, (), tuple(dict.fromkeys(way.package for way in WAYS))),
        markdown_table(HEADER, rows),
        f"{len(work.members())} members: LeNet-5 with sigmoid and average pooling, adam at {work.rates} rates from "
        f"{LOWEST_RATE:g} to {HIGHEST_RATE:g}, {work.seeds} seeds, {work.epochs} epochs of the embedded subset at "
        f"batch {BATCH}, each followed by an evaluation. Medians over {work.turns} turns; the seconds are those of "
        "whole processes, with imports and with compilation from an empty cache. No method writes run folders.",
    ]


def main(job: str) -> None:
    """Train the members by one method and print the validation top-1 of each."""
    way, images, members, epochs, platform = json.loads(job)
    if way == "processes":
        for member in members:
            one = json.dumps(["sequence", images, [member], epochs, platform])
            command = [sys.executable, "-m", "cnnjax.benchmark.sweeping", one]
            print(_output(command, os.environ["CNNJAX_CACHE"]), end="")
        return
    cli.start_jax(platform)
    for top1 in _trained(way, members, epochs):
        print(top1)


def _trained(way: str, members: list[tuple[float, int]], epochs: int) -> Iterator[float]:
    """Yield the validation top-1 of each member after its last epoch."""
    import jax

    from cnnjax import create, data
    from cnnjax.config import Experiment, Optimizer, Train
    from cnnjax.ops.dispatch import members_are_stacked
    from cnnjax.sweep.running import TOGETHER
    from cnnjax.training.loop import Outcome, fit, training
    from cnnjax.training.stacked import StackMember, fit_stacked
    from cnnjax.training.turns import take_turns

    train = Train(epochs=epochs, batch_size=BATCH)
    experiments = [
        Experiment(model=create("lenet"), optimizer=Optimizer(lr=rate), train=train, seed=seed)
        for rate, seed in members
    ]
    dataset = data.load(experiments[0].data)
    outcomes: Iterator[tuple[Any, Outcome | Exception]]
    if way == "sequence":
        outcomes = ((experiment.seed, fit(experiment, dataset)) for experiment in experiments)
    elif members_are_stacked(jax.default_backend()):
        outcomes = fit_stacked([(n, StackMember(e, None, ())) for n, e in enumerate(experiments)], dataset)
    else:
        outcomes = take_turns(((e.seed, training(e, dataset)) for e in experiments), TOGETHER)
    for _, outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        yield outcome.rows[-1]["validation_top1"]


if __name__ == "__main__":
    main(sys.argv[1])
