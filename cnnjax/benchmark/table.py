"""The table: a block of rows for each network and batch, what was noted of each peer, and what the figures mean."""

import itertools
import re
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from cnnjax.benchmark.turns import Block, Row
from cnnjax.benchmark.work import Job, Task
from cnnjax.system.memory import memory_is_kept

GIB, TERA = 2**30, 1e12
HEADER = (
    "", "images/s", "ms/step", "p90", "first step", "peak GiB", "of peak", "ours / peer",
)  # fmt: skip
TITLES: dict[Task, str] = {"train": "Training", "infer": "Inference"}
PASSES: dict[Task, int] = {"train": 3, "infer": 1}
"""How often training and inference go through the multiply-adds: forward, and backward twice as many."""


def block_title(job: Job) -> str:
    """Return what stands above a block's rows."""
    height, width, channels = job.image_shape
    return f"{job.model}, {height}x{width}x{channels}, batch {job.batch}"


def peak_rate(blocks: Sequence[Block]) -> tuple[float, str]:
    """Return the operations a second that count as all of the device, the best figure of the run, and its source."""
    rates = [(row.facts.peak_rate, row.facts.peak_source) for b in blocks for row in b.rows[:1] if row.facts]
    return max(rates, default=(0.0, ""))


def cells(block: Block, peak: float) -> list[tuple[str, ...]]:
    """Return the lines of a block under `HEADER`."""
    ours = block.rows[0]
    return [_cells(block, row, ours, peak) for row in block.rows]


def _cells(block: Block, row: Row, ours: Row, peak: float) -> tuple[str, ...]:
    if row.problem or not row.facts:
        return (row.peer.name, row.problem, *[""] * (len(HEADER) - 2))
    median, late = np.quantile(row.step_seconds, (0.5, 0.9))
    rate = block.job.batch / median
    share = ratio = ""
    if ours.facts and not ours.problem:
        operations = 2 * ours.facts.multiply_adds * PASSES[block.job.task] * rate
        share = f"{100 * operations / peak:.0f} %" if peak else ""
        ratio = f"{median / np.median(ours.step_seconds):.2f}"
    return (
        row.peer.name, f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}", f"{1000 * median:.2f}", f"{1000 * late:.2f}",
        f"{row.facts.first_step_seconds:.1f}", f"{row.peak_bytes / GIB:.2f}", share, ratio,
    )  # fmt: skip


def notes(blocks: Sequence[Block]) -> list[str]:
    """Return a line for each peer of each block: how it was done, or why there are no figures."""
    lines = []
    for block in blocks:
        for row in block.rows:
            message = f"{row.problem}; {row.sentence}" if row.problem or not row.facts else row.facts.how
            lines.append(f"{block_title(block.job)}, {row.peer.name}: {message}")
    return lines


def versions(blocks: Sequence[Block]) -> str:
    """Return all packages of all peers, each once."""
    packages = [package for b in blocks for row in b.rows if row.facts for package in row.facts.packages]
    return ", ".join(dict.fromkeys(packages))


def legend(task: Task, blocks: Sequence[Block], turns: int) -> str:
    """Return what the figures mean."""
    facts = next((row.facts for block in blocks for row in block.rows if row.facts), None)
    if facts is None:
        return ""
    peak, source = peak_rate(blocks)
    on_cpu = facts.platform == "cpu"
    networks = ", ".join(dict.fromkeys(
        f"{block.job.model} {row.facts.parameters:,}" for block in blocks for row in block.rows[:1] if row.facts
    ))  # fmt: skip
    what = {
        "train": "A step normalises a batch of made-up uint8 images, trains on it and counts loss and accuracy; lenet "
        "by adam, all others by gradient descent with a momentum of 0.9.",
        "infer": "A step normalises a batch of made-up uint8 images that lies on the device, and computes its logits.",
    }[task]
    parts = [
        f"Parameters, the same for each peer: {networks}. {what}",
        f"Each peer has a process of its own; they take {turns} {'turns' if turns > 1 else 'turn'}, some laps each, "
        "and a lap has the same number of steps for all. ms/step is the median of the laps, p90 what nine of ten laps "
        "do not exceed. The first step, in seconds, holds the compilation.",
        "Peak GiB is the process's largest resident memory since its warm-up."
        if on_cpu
        else "Peak GiB is the device's memory, as the library counts it.",
        f"Of peak: two operations for each multiply-add{', times three in training' * (task == 'train')}, of "
        f"{peak / TERA:.3g} tera-operations a second ({source})." if peak else "",
        "ours / peer: our images/s by the peer's; above 1 ours is faster.",
        "xla is ours without the native part." if any(row.peer.name == "xla" for b in blocks for row in b.rows) else "",
        f"{facts.threads} threads" + ("; every peer keeps its memory, in huge pages." if memory_is_kept() else ".")
        if on_cpu
        else f"Device: {facts.device}.",
    ]  # fmt: skip
    return " ".join(part for part in parts if part)


def show(task: Task, blocks: Sequence[Block], turns: int, console: Console) -> None:
    """Print a table for each block, with the notes and the legend below them."""
    peak, _ = peak_rate(blocks)
    for block in blocks:
        title = f"{TITLES[task]}: {block_title(block.job)}, {block.job.dtype}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), show_edge=False)
        lines = cells(block, peak)
        for name in HEADER:  # broken between words, so that the table fits a terminal of 80 columns
            broken = "\n".join(re.split(r"(?<=/) | (?!/)", name))
            table.add_column(broken, justify="right" if name else "left", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        console.print(table)
        console.print()
    for text in (*notes(blocks), legend(task, blocks, turns)):
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def markdown(blocks: Sequence[Block]) -> str:
    """Return the table for the record."""
    peak, _ = peak_rate(blocks)
    empty = [""] * (len(HEADER) - 1)
    lines: list[tuple[str, ...]] = [HEADER, ("---", *["---:"] * len(empty))]
    lines += itertools.chain.from_iterable(
        [(f"**{block_title(block.job)}**", *empty), *cells(block, peak)] for block in blocks
    )  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def block_titles(text: str) -> list[str]:
    """Return the titles of the blocks in what `markdown` wrote."""
    return re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.MULTILINE)
