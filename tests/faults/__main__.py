"""Inject every fault of docs/reliability.md into real training runs and report losses.

    python -m tests.faults [--size ci|full] [--only WORD] [--seed N] [--write]

Each fault is injected into a process that runs scripts/train.py on a tiny experiment. The table is printed and, with
--write, written to docs/reliability.md. The exit code is 1 if anything was lost.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console

from cnnjax.ops.native.library import LIBRARY
from tests.faults import damage, disks, kills, long_run, others, signals, streaming
from tests.faults.harness import ROOT, Harness, Row

Task = Callable[[], Row | list[Row]]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def tasks(harness: Harness, full: bool, seed: int) -> list[Task]:
    """Return the trials; two run at a time."""
    trials: list[Task] = [lambda: long_run.long_run(harness, 3000 if full else 200)]
    count, chains = (100, 10) if full else (20, 4)
    trials += [lambda n=n: kills.kills(harness, count // chains, seed + n) for n in range(chains)]
    for number in signals.SIGNALS if full else signals.SIGNALS[:1]:
        trials += [
            lambda m=moment, s=number, n=repetition: signals.signaled(harness, m, s, n)
            for moment in signals.MOMENTS
            for repetition in range(3 if full else 1)
        ]
    trials += [lambda: signals.twice(harness)]
    trials += damages(harness, full, seed)
    if disks.mounts_allowed(harness.folder):
        sizes = range(420, 720, 20) if full else (500, 600)
        trials += [lambda size=size: disks.full_tmpfs(harness, size) for size in sizes]
        trials += [lambda: disks.read_only(harness)]
    else:
        trials += [lambda: Row("tmpfs full, folder read-only", 0, 0, "skipped: mounting is not permitted")]
    limits = (9000, 20000) if full else (9000,)
    trials += [lambda limit=limit: disks.file_size_limit(harness, limit) for limit in limits]
    trials += [lambda: disks.folder_moved(harness)]
    trials += [lambda name=name: disks.unwritable(harness, name) for name in ("metrics.jsonl", "curves.png")]
    trials += [lambda: disks.full_output(harness), lambda: disks.closed_pipe(harness)]
    trials += [lambda: others.second_process(harness)]
    trials += [lambda: others.lost_lock(harness)]
    trials += [lambda n=n: others.two_at_once(harness, n) for n in range(5 if full else 1)]
    trials += [lambda step=step: others.not_finite(harness, step) for step in ((1, 20, 21, 77, 200) if full else (33,))]
    native_values = ("01" if full else "1") if LIBRARY.exists() else "0"
    trials += [lambda native=native: others.out_of_memory(harness, native) for native in native_values]
    trials += [lambda: others.sync_order(harness)]
    trials += [lambda: streaming.killed_while_decoding(harness), lambda: streaming.photo_lost(harness)]
    trials += [lambda: streaming.disk_hangs(harness)]
    return trials


def damages(harness: Harness, full: bool, seed: int) -> list[Task]:
    """Return the trials that damage checkpoint files: all, or a seventh of them at the small size."""
    run = damage.unfinished(harness)
    cases = [(kind, file) for file in damage.files_of(run) for kind in damage.DAMAGES]
    if not full:
        cases = random.Random(seed).sample(cases, len(cases) // 14)

    def task(number: int, kind: str, file: Path) -> Row:
        problem = damage.damage_file(harness, run, file, kind, f"{seed}-{number}")
        fault = f"checkpoint file {kind}" if full else "checkpoint file damaged"
        return Row(fault, 1, int(problem is None), problems=() if problem is None else (problem,))

    trials: list[Task] = [lambda n=n, k=k, f=f: task(n, k, f) for n, (k, f) in enumerate(cases)]
    return [*trials, lambda: damage.all_damaged(harness, run)]


def merged(rows: list[Row]) -> list[Row]:
    """Merge the rows of each fault, keeping the first note."""
    by_fault: dict[str, list[Row]] = {}
    for row in rows:
        by_fault.setdefault(row.fault, []).append(row)
    return [
        Row(
            fault, sum(row.times for row in same), sum(row.survived for row in same),
            next((row.note for row in same if row.note), ""),
            tuple(problem for row in same for problem in row.problems),
        )
        for fault, same in by_fault.items()
    ]  # fmt: skip


def markdown(rows: list[Row], size: str, seconds: float) -> str:
    """Return the table as Markdown."""
    lines = ["| fault | times | survived | lost | |", "| --- | ---: | ---: | ---: | --- |"]
    lines += [f"| {row.fault} | {row.times} | {row.survived} | {row.lost} | {row.note} |" for row in rows]
    return "\n".join([*lines, "", f"Size {size}, {seconds / 60:.0f} minutes on two CPU cores."])


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=("ci", "full"), default="full")
    parser.add_argument("--only", default="", help="run only faults whose function name contains this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    chosen = parser.parse_args()
    console, began = Console(stderr=True), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, ThreadPoolExecutor(2) as pool:
        harness = Harness(Path(folder))
        harness.reference()
        todo = [task for task in tasks(harness, chosen.size == "full", chosen.seed) if chosen.only in name_of(task)]
        futures = [pool.submit(rows_of, task) for task in todo]
        for done, future in enumerate(as_completed(futures), 1):
            for row in future.result():
                progress = f"[{time.monotonic() - began:5.0f} s] {done}/{len(todo)}"
                result = f"{row.fault}: {row.survived}/{row.times} {row.note}"
                console.print(f"{progress} {result}", highlight=False, markup=False, soft_wrap=True)
                for problem in row.problems:
                    console.print(f"LOST: {problem}", style="red", highlight=False, markup=False, soft_wrap=True)
        rows = [row for future in futures for row in future.result()]
    table = markdown(merged(rows), chosen.size, time.monotonic() - began)
    print(table)
    if chosen.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")
    return int(any(row.lost for row in rows))


def rows_of(task: Task) -> list[Row]:
    """Run one task and return its rows."""
    rows = task()
    return rows if isinstance(rows, list) else [rows]


def name_of(task: Task) -> str:
    """Return the names that a task's code uses, which --only searches."""
    return " ".join(task.__code__.co_names)  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
