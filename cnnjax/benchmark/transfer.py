"""A new head for Xception on a folder of photos, end to end: `scripts/benchmark.py transfer`.

The libraries take turns, each in its own process, with the same parameters of the backbone.
"""

import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from pydantic import Field
from rich.console import Console

from cnnjax.benchmark import machine, page
from cnnjax.benchmark.options import command_line, markdown_table, parse_work
from cnnjax.benchmark.transfer_peers import PEERS, Job
from cnnjax.errors import UserError, choose
from cnnjax.schema import Schema

TITLES = {
    "cnnjax": "cnnjax, embeddings once",
    "torch": "PyTorch (timm), features once",
    "keras": "Keras on JAX, its guide's recipe",
}


class Figures(NamedTuple):
    """Figures of one turn."""

    seconds: float
    peak_bytes: int
    accuracy: float


class Work(Schema, at="--"):
    """Options: the photos, the parameters, and how long the head is trained."""

    folder: tyro.conf.Positional[Path]
    """Folder laid out as train/CLASS/FILE, with two classes."""
    init: str
    """Parameters of Xception in its Keras form: run:RUN or file:WEIGHTS."""
    size: Annotated[int, Field(ge=71)] = 150
    """Height and width of the photos in pixels."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Batch size of the head's training."""
    epochs: Annotated[int, Field(ge=1)] = 20
    """Epochs of the head's training."""
    turns: Annotated[int, Field(ge=1)] = 3
    """Number of turns of each library."""
    against: tuple[str, ...] = ("torch", "keras")
    """Peers to compare with: torch (with timm), keras."""


def run(arguments: list[str]) -> None:
    """Parse the command line, measure, print.

    Raises:
        UserError: invalid input.
        PartlyDone: a peer failed; the table is not written in that case.
    """
    work, write = parse_work(
        Work,
        arguments,
        "transfer",
        "Measure the time and memory from photos to a trained head, in cnnjax, PyTorch and Keras.",
    )
    if not (work.folder / "train").is_dir():
        raise UserError(f"{work.folder} has no folder train; give an unpacked folder laid out as train/CLASS/FILE")
    names = ["cnnjax", *(choose("peer", name, [peer for peer in PEERS if peer != "cnnjax"]) for name in work.against)]
    turns: dict[str, list[Figures]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as weights, Console(stderr=True).status("converting the weights") as status:
        with ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn")
        ) as pool:  # its memory would count as the peers'
            pool.submit(convert, work.init, Path(weights)).result()
        job = Job(str(work.folder), weights, work.size, work.batch, work.epochs)
        for turn in range(work.turns):
            for name in names:
                status.update(f"turn {turn + 1} of {work.turns}: {name}")
                try:
                    turns[name].append(_measured(name, job))
                except subprocess.CalledProcessError as error:
                    failed[name] = _reason(error.stderr)
    rows = [_row(name, figures, turns["cnnjax"]) for name, figures in turns.items() if figures]
    page.finish(COLUMNS, rows, [f"{name} failed: {message}" for name, message in failed.items()])
    if write:
        page.write_section(f"Transfer to photos, {machine.processor()}", _section(work, arguments, names, rows))


def convert(init: str, out: Path) -> None:
    """Write the parameters of the backbone to ``out``: as a run, for timm and for Keras."""
    from cnnjax import checkpoint, create
    from cnnjax.convert import save_weights, source_of
    from cnnjax.convert.rules import from_variables
    from cnnjax.runs.origin import read_origin

    body = create("xception", num_classes=0)
    origin = read_origin(init, body)
    variables = origin.variables_of(body, init)
    info = {"epoch": 0, "model": body.to_dict(), "classes": [], "preprocessing": origin.preprocessing.to_dict()}
    checkpoint.save(out / "run" / "checkpoints", 0, {"variables": variables._asdict()}, info)
    save_weights(create("legacy_xception", num_classes=0), variables, "timm", out / "timm.safetensors")
    arrays: dict[str, Any] = {**from_variables(source_of(body, "keras").table, variables)}
    np.savez(out / "keras.npz", **arrays)


def _measured(name: str, job: Job) -> Figures:
    command = [sys.executable, "-m", "cnnjax.benchmark.transfer_peers", name, json.dumps(job._asdict())]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "CNNJAX_CACHE": "0"}  # nothing is read from a cache
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


def _reason(output: str) -> str:
    """Return the line of a traceback that names the exception."""
    lines = output.strip().splitlines() or ["it ended without a message"]
    return next((line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)), lines[-1])


COLUMNS = ("", "seconds", "smallest-largest", "/ cnnjax", "peak memory", "training accuracy")


def _row(name: str, figures: list[Figures], ours: list[Figures]) -> tuple[str, ...]:
    seconds = [figure.seconds for figure in figures]
    ratio = f"{statistics.median(seconds) / statistics.median(f.seconds for f in ours):.2f}" if ours else ""
    peak = max(figure.peak_bytes for figure in figures)
    return (
        TITLES[name], f"{statistics.median(seconds):.1f}", f"{min(seconds):.1f}-{max(seconds):.1f}", ratio,
        f"{peak / 2**20:,.0f} MiB", f"{100 * figures[-1].accuracy:.1f} %",
    )  # fmt: skip


def _section(work: Work, arguments: list[str], names: list[str], rows: list[tuple[str, ...]]) -> list[str]:
    photos = sum(1 for path in (work.folder / "train").glob("*/*") if path.is_file())
    used = {"cnnjax": ("jax",), "torch": ("torch", "timm"), "keras": ("keras",)}
    packages = [package for name in names for package in used[name]]
    hidden = (str(work.folder), "--init", work.init)
    return [
        command_line("transfer", "FOLDER --init WEIGHTS", arguments, hidden, packages),
        markdown_table(COLUMNS, rows),
        f"Xception at {work.size} px with the same parameters, a linear head, {photos:,} photos, {work.epochs} epochs "
        f"in batches of {work.batch}. Medians over {work.turns} turns, each in its own process: from reading the "
        "photos to the trained head, with compilation, without imports and caches. Keras's guide trains the head "
        "through the frozen network in every epoch; the others compute its features once.",
    ]
