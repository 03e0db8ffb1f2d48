"""The results table: a block of rows per network and batch size, the notes of each peer, and the legend."""

import itertools
import re
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from cnnjax.benchmark.turns import Block, Row
from cnnjax.benchmark.work import XLA, Job, Task
from cnnjax.system.memory import memory_is_kept

GIB, TERA = 2**30, 1e12
HEADER = (
    "", "images/s", "ms/step", "p90", "first step", "peak GiB", "of peak", "ours / peer",
)  # fmt: skip
TITLES: dict[Task, str] = {"train": "Training", "infer": "Inference"}
PASSES: dict[Task, int] = {"train": 3, "infer": 1}
"""Factor on the forward multiply-adds: 1 for inference; 3 for training, where the backward pass counts twice."""


def block_title(job: Job) -> str:
    """Return the title of a block of rows."""
    height, width, channels = job.image_shape
    devices = f" on {job.devices} devices" if job.devices > 1 else ""
    return f"{job.model}, {height}x{width}x{channels}, batch {job.batch}{devices}"


def peak_rate(blocks: Sequence[Block]) -> tuple[float, str]:
    """Return the best peak rate of the device that any peer reported, in operations per second, and its source."""
    rates = [(row.facts.peak_rate, row.facts.peak_source) for b in blocks for row in b.rows[:1] if row.facts]
    return max(rates, default=(0.0, ""))


def cells(block: Block, peak: float) -> list[tuple[str, ...]]:
    """Return the cells of a block in the columns of `HEADER`."""
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
        share = f"{100 * operations / (peak * block.job.devices):.0f} %" if peak else ""
        ratio = f"{median / np.median(ours.step_seconds):.2f}"
    return (
        row.peer.name, f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}", f"{1000 * median:.2f}", f"{1000 * late:.2f}",
        f"{row.facts.first_step_seconds:.1f}", f"{row.peak_bytes / GIB:.2f}", share, ratio,
    )  # fmt: skip


def notes(blocks: Sequence[Block]) -> list[str]:
    """Return a line for each peer of each block: how it computes, or why there are no figures."""
    lines = []
    for block in blocks:
        for row in block.rows:
            message = f"{row.problem}; {row.sentence}" if row.problem or not row.facts else row.facts.how
            if block.job.devices > 1 and row.step_seconds:
                rate = block.job.batch / np.median(row.step_seconds)
                message += f"; {rate:,.1f} images/s in total, {rate / block.job.devices:,.1f} per device"
            lines.append(f"{block_title(block.job)}, {row.peer.name}: {message}")
    return lines


def versions(blocks: Sequence[Block]) -> str:
    """Return the packages of all peers, without duplicates."""
    packages = [package for b in blocks for row in b.rows if row.facts for package in row.facts.packages]
    return ", ".join(dict.fromkeys(packages))


def legend(task: Task, blocks: Sequence[Block], turns: int) -> str:
    """Return the paragraph that explains the figures."""
    facts = next((row.facts for block in blocks for row in block.rows if row.facts), None)
    if facts is None:
        return ""
    peak, source = peak_rate(blocks)
    on_cpu = facts.platform == "cpu"
    networks = ", ".join(dict.fromkeys(
        f"{block.job.model} {row.facts.parameters:,}" for block in blocks for row in block.rows[:1] if row.facts
    ))  # fmt: skip
    what = {
        "train": "A step normalizes a batch of random uint8 images, trains on it and accumulates loss and accuracy; "
        "lenet uses Adam, all others SGD with momentum 0.9.",
        "infer": "A step normalizes a batch of random uint8 images on the device and computes the logits.",
    }[task]
    parts = [
        f"Parameters, the same for each peer: {networks}. {what}",
        f"Each peer runs in its own process. The peers take {turns} {'turns' if turns > 1 else 'turn'} of several "
        "laps, and a lap has the same number of steps for all. ms/step is the median over the laps, p90 the 90th "
        "percentile. The first step, in seconds, includes compilation.",
        "Peak GiB is the largest resident memory of the process from the warm-up on."
        if on_cpu
        else "Peak GiB is the device memory, as reported by the library.",
        f"Of peak: share of {peak / TERA:.3g} TFLOP/s ({source}), at two operations per multiply-add"
        f"{', times three in training' * (task == 'train')}." if peak else "",
        "ours / peer: images/s of cnnjax divided by the peer's; above 1, cnnjax is faster.",
        _variants(blocks),
        f"{facts.threads} threads" + ("; every process keeps freed memory, in huge pages." if memory_is_kept() else ".")
        if on_cpu
        else f"Device: {facts.device}.",
    ]  # fmt: skip
    return " ".join(part for part in parts if part)


def _variants(blocks: Sequence[Block]) -> str:
    """Return the sentences on the rows that are cnnjax in another environment."""
    peers = dict.fromkeys(row.peer for block in blocks for row in block.rows if row.peer.environment)
    settings = ((peer.name, *peer.environment[0]) for peer in peers)
    return " ".join(
        f"{name} is cnnjax {'without the native library' if name == XLA.name else f'with {variable}={value}'}."
        for name, variable, value in settings
    )


def show(task: Task, blocks: Sequence[Block], turns: int, console: Console) -> None:
    """Print a table for each block, then the notes and the legend."""
    peak, _ = peak_rate(blocks)
    for block in blocks:
        title = f"{TITLES[task]}: {block_title(block.job)}, {block.job.dtype}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), show_edge=False)
        lines = cells(block, peak)
        for name in HEADER:  # line breaks between words, so that the table fits 80 columns
            broken = "\n".join(re.split(r"(?<=/) | (?!/)", name))
            table.add_column(broken, justify="right" if name else "left", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        console.print(table)
        console.print()
    for text in (*notes(blocks), legend(task, blocks, turns)):
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def markdown(blocks: Sequence[Block]) -> str:
    """Return the table as Markdown."""
    peak, _ = peak_rate(blocks)
    empty = [""] * (len(HEADER) - 1)
    lines: list[tuple[str, ...]] = [HEADER, ("---", *["---:"] * len(empty))]
    lines += itertools.chain.from_iterable(
        [(f"**{block_title(block.job)}**", *empty), *cells(block, peak)] for block in blocks
    )  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def block_titles(text: str) -> list[str]:
    """Return the titles of the blocks in a table that `markdown` made."""
    return re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.MULTILINE)
